"""Windows around what a first model finds in whole pictures, for a second model to look at closely."""

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
    """Find the window of each picture: a square around the largest part of the fused mask, of all regions together.

    Where nothing is found it is the whole picture, and a warning names it. The noise of a picture is keyed by its
    file's name, as when predicting.

    Args:
        model: Trained on whole pictures, on its device.
        pictures: The pictures.
        margin: Side of the square as a multiple of the mask's larger side, at least 1; the square is moved, and where
            it has to be, shrunk, to lie in the picture.
        batch_size: Pictures segmented together.

    Returns:
        The windows, by the pictures' names; and what became of the pictures, some of which may have failed.

    Raises:
        DataError: If the model does not take whole pictures.
        ValueError: If the margin is below 1.
    """
    if not takes_pictures(model) or model.cropped:
        raise DataError("Windows are found by a model of whole pictures, and this one takes something else.")
    if not margin >= 1:
        raise ValueError(f"margin is {margin}; it has to be at least 1.")
    windows: dict[str, CropWindow] = {}
    empty, report = [], Report()
    batches = [pictures[first : first + batch_size] for first in range(0, len(pictures), batch_size)]
    for batch in track(batches, "Finding windows", console=Console(stderr=True)):
        read = {}
        for file in batch:
            with report.attempt(file.path):
                picture = read_picture(file.path, len(model.channels), model.image_size, model.value_range)
                if picture.orientation != 1:
                    raise DataError("it is turned by its EXIF orientation, and windows are for upright files")
                read[file] = picture
        if not read:
            continue
        images = torch.stack([picture.image for picture in read.values()])
        masks = model.segment(images, keys=[file.path.stem for file in read]).mask.any(1).cpu().numpy()
        for (file, picture), mask in zip(read.items(), masks, strict=True):
            if not mask.any():
                empty.append(file.name)
            windows[file.name] = window_around(mask, picture.size, margin)
            report.done.append(file.name)
    if empty:
        _log.warning(
            "Nothing was found in %d pictures, whose windows are the whole: %s.", len(empty), first_names(empty, 6)
        )
    return windows, report


def window_around(mask: NDArray[np.bool_], size: tuple[int, int], margin: float) -> CropWindow:
    """Return the square window around the largest part of a mask.

    Args:
        mask: (h, w), on any grid over the picture.
        size: Height and width of the picture.
        margin: See :func:`find_windows`.

    Returns:
        The window, in pixels of the picture; the whole picture where the mask is empty.
    """
    from scipy.ndimage import find_objects, label

    height, width = size
    parts, count = label(mask)
    if not count:
        return CropWindow(0, 0, width, height)
    box = find_objects(parts)[np.bincount(parts.flat)[1:].argmax()]
    scale = height / mask.shape[0], width / mask.shape[1]
    (top, bottom), (left, right) = ((one.start * s, one.stop * s) for one, s in zip(box, scale, strict=True))
    side = min(round(margin * max(bottom - top, right - left)), height, width)

    left, top = (
        min(max(round(middle - side / 2), 0), whole - side)
        for middle, whole in (((left + right) / 2, width), ((top + bottom) / 2, height))
    )
    return CropWindow(left, top, side, side)
