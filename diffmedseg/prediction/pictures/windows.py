"""Windows from the masks of a first model, which sees whole pictures. A second model segments the windows."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.pictures.files import PictureFile
from diffmedseg.prediction.pictures.predict import takes_pictures
from diffmedseg.prediction.run import Report
from diffmedseg.reading.pictures import read_picture
from diffmedseg.reading.windows import CropWindow
from diffmedseg.wording import first_names

_log = logging.getLogger(__name__)


def find_windows(
    model: Segmenter, pictures: Sequence[PictureFile], margin: float = 2.0, batch_size: int = 8
) -> tuple[dict[str, CropWindow], Report]:
    """Find the window of each picture: a square around the largest component of the fused mask of all regions.

    If the mask is empty, the window is the whole picture, and a warning names the picture. The name of a picture's file
    is the key of its noise, as in :func:`~diffmedseg.prediction.pictures.predict.predict_pictures`.

    Args:
        model: A model of whole pictures, on its device.
        pictures: The pictures.
        margin: Side of the square as a multiple of the larger side of the component's bounding box, at least 1. The
            square is moved to lie in the picture, and made smaller if it does not fit.
        batch_size: Number of pictures that are segmented together.

    Returns:
        The windows, by the pictures' names, and the outcome of each picture.

    Raises:
        DataError: If the model does not take whole pictures.
        ValueError: If the margin is below 1.
    """
    if not takes_pictures(model) or model.cropped:
        raise DataError("This model does not take whole pictures. Find windows by a model of whole pictures.")
    if not margin >= 1:
        raise ValueError(f"margin is {margin}; it has to be at least 1.")
    windows: dict[str, CropWindow] = {}
    empty, report = [], Report()
    batches = [pictures[first : first + batch_size] for first in range(0, len(pictures), batch_size)]
    for batch in track(batches, "Finding windows", console=Console(stderr=True)):
        loaded = {}
        for file in batch:
            with report.attempt(file.path):
                picture = read_picture(file.path, len(model.channels), model.image_size, model.value_range)
                if picture.orientation != 1:
                    raise DataError(
                        "it is not upright by its EXIF orientation, and windows need upright files: save it upright"
                    )
                loaded[file] = picture
        if not loaded:
            continue
        images = torch.stack([picture.image for picture in loaded.values()])
        masks = model.segment(images, keys=[file.path.stem for file in loaded]).mask.any(1).cpu().numpy()
        for (file, picture), mask in zip(loaded.items(), masks, strict=True):
            if not mask.any():
                empty.append(file.name)
            windows[file.name] = window_around(mask, picture.size, margin)
            report.done.append(file.name)
    if empty:
        _log.warning(
            "The mask is empty in %d pictures: %s. Their windows are the whole pictures.",
            len(empty),
            first_names(empty, 6),
        )
    return windows, report


def window_around(mask: NDArray[np.bool_], size: tuple[int, int], margin: float) -> CropWindow:
    """Return the square window around the largest component of a mask.

    Args:
        mask: The mask (h, w). Its grid covers the picture, and may have another size.
        size: Height and width of the picture.
        margin: See :func:`find_windows`.

    Returns:
        The window, in pixels of the picture; the whole picture if the mask is empty.
    """
    from scipy.ndimage import find_objects, label

    height, width = size
    parts, count = label(mask)
    if not count:
        return CropWindow(0, 0, width, height)
    box = find_objects(parts)[np.bincount(parts.flat)[1:].argmax()]
    scale = height / mask.shape[0], width / mask.shape[1]
    (top, bottom), (left, right) = (
        (span.start * factor, span.stop * factor) for span, factor in zip(box, scale, strict=True)
    )
    side = min(round(margin * max(bottom - top, right - left)), height, width)

    left, top = (
        min(max(round(middle - side / 2), 0), whole - side)
        for middle, whole in (((left + right) / 2, width), ((top + bottom) / 2, height))
    )
    return CropWindow(left, top, side, side)
