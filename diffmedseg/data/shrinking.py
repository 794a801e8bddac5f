"""Images and masks on the model's grid: each image is decoded once, and then memory-mapped from the cache.

ISIC images have up to 29 megapixels. Decoding them in each epoch would take longer than training.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import track

from diffmedseg.data.cache import build_once, damaged_cache, files_key, map_array
from diffmedseg.data.files import Item
from diffmedseg.data.problem import Problem
from diffmedseg.errors import DataError
from diffmedseg.files import read_json
from diffmedseg.reading.levels import Note
from diffmedseg.reading.names import PICTURES
from diffmedseg.reading.opening import stored_orientation
from diffmedseg.reading.pictures import Picture, read_picture
from diffmedseg.reading.windows import CropWindow
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)

FORMAT = 3  # raise it with every change of the cached content

ReadImage = Callable[[Path, tuple[int, int], tuple[float, float] | None, CropWindow | None], Picture]


class ShrunkImages:
    """The result of :func:`shrink_images`, memory-mapped from a folder.

    Attributes:
        folder: The folder.
        images: (N, 3, H, W), uint8, read-only.
        masks: (N, R, K, H, W), uint8 in {0, 1}, read-only.
        filled: (N, R, K), bool, read-only: whether the mask in the file has foreground within the item's window.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: NDArray[np.uint8] = map_array(folder / "images.npy")
        self.masks: NDArray[np.uint8] = map_array(folder / "masks.npy")
        self.filled: NDArray[np.bool_] = map_array(folder / "filled.npy")

    @cached_property
    def problems(self) -> list[Problem]:
        """Possible faults found while reading the images, with the ids of the images."""
        try:
            content = read_json(self.folder / "notes.json")
            notes = {name: [Note(*note) for note in image_notes] for name, image_notes in content.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise damaged_cache(self.folder, error) from error
        kinds = dict.fromkeys((note.kind, note.serious) for image_notes in notes.values() for note in image_notes)
        problems = []
        for kind, serious in kinds:
            texts = {name: note.text for name, of_image in notes.items() for note in of_image if note.kind == kind}
            first, text = next(iter(texts.items()))
            problems.append(Problem(kind, f"{count(len(texts), kind)}; of {first}: {text}.", list(texts), serious))
        return problems

    def __reduce__(self) -> tuple[type["ShrunkImages"], tuple[Path]]:
        """Pickle only the folder's name for workers: a memory map would be pickled with all its content."""
        return ShrunkImages, (self.folder,)


def shrink_images(
    folder: Path,
    name: str,
    items: Sequence[Item],
    size: tuple[int, int],
    mask_shape: tuple[int, int],
    read_masks: Callable[[Item], NDArray[np.uint8]],
    settings: object = None,
    value_range: tuple[float, float] | None = None,
    read_image: ReadImage | None = None,
) -> ShrunkImages:
    """Shrink images and masks to the model's grid, or load the result of an earlier call with the same files.

    Possible faults of the images are logged as warnings.

    Args:
        folder: Folder of the cache; each result has a folder in it.
        name: Beginning of the result's name.
        items: Images and masks to shrink; the order is kept.
        size: (H, W) of the model's grid. The aspect ratio is not kept.
        mask_shape: (R, K): raters and regions of each item.
        read_masks: Reads the masks of an item, (R, K, h, w), odd in the foreground, at the size of its upright image.
        settings: Other settings that ``read_masks`` depends on; their ``repr`` is part of the key.
        value_range: Values of black and white in images of more than 8 bits.
        read_image: Reads an image, given its file, ``size``, ``value_range`` and the item's window. None reads it by
            :func:`~diffmedseg.reading.pictures.read_picture`: upright, as prediction does.

    Raises:
        DataError: If files are unreadable or do not fit together (the message names the first), or if ``folder`` cannot
            be written. No partial result is left.
    """
    target = folder / f"{name}-{_key(items, size, mask_shape, settings, value_range)}"
    megabytes = len(items) * (3 + mask_shape[0] * mask_shape[1]) * size[0] * size[1] / 1e6

    def read(item: Item) -> Picture:
        if read_image is None:
            return read_picture(item.image, 3, size, value_range, item.window)
        return read_image(item.image, size, value_range, item.window)

    build_once(target, megabytes, lambda path: _write(path, name, items, size, mask_shape, read_masks, read))
    shrunk = ShrunkImages(target)
    for problem in shrunk.problems:
        _log.warning("%s: %s Items: %s.", name, problem.text, first_names(problem.names, 6))
    return shrunk


def _key(
    items: Sequence[Item],
    size: tuple[int, int],
    mask_shape: tuple[int, int],
    settings: object,
    value_range: tuple[float, float] | None,
) -> str:
    files = ((item.id, path) for item in items for path in (item.image, *item.masks))
    extra = [] if settings is None else [settings]
    if value_range is not None:
        extra.append(("range", *map(float, value_range)))
    if any(item.window for item in items):
        extra.append([item.window for item in items])
    return files_key(files, (FORMAT, size, mask_shape, *extra))


def _write(
    folder: Path,
    name: str,
    items: Sequence[Item],
    size: tuple[int, int],
    mask_shape: tuple[int, int],
    read_masks: Callable[[Item], NDArray[np.uint8]],
    read_image: Callable[[Item], Picture],
) -> None:
    folder.mkdir()
    images = open_memmap(folder / "images.npy", "w+", np.uint8, (len(items), 3, *size))
    masks = open_memmap(folder / "masks.npy", "w+", np.uint8, (len(items), *mask_shape, *size))
    filled = open_memmap(folder / "filled.npy", "w+", np.bool_, (len(items), *mask_shape))
    notes: dict[str, list[Note]] = {}

    def shrink(index: int) -> DataError | None:
        item = items[index]
        try:
            native = read_masks(item)
            picture = read_image(item)
            _check_masks(item, native.shape, mask_shape, picture)
            images[index] = picture.image.numpy()
            if image_notes := [*picture.notes, *_check_orientation(item, picture)]:
                notes[item.id] = image_notes
            cropped = native if item.window is None else item.window.crop(native)
            masks[index], filled[index] = _shrink_masks(cropped, size), (cropped % 2 > 0).any((-2, -1))
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:  # decoders release the interpreter's lock
        results = pool.map(shrink, range(len(items)))
        errors = list(track(results, f"Shrinking {name}", len(items), disable=len(items) <= 200))
        failures = [error for error in errors if error is not None]
        unusable = [item.id for item, error in zip(items, errors, strict=True) if error is not None]
    if failures:
        reasons = "\n  ".join(map(str, failures[:3]))
        more = f"\n  and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise DataError(f"{len(failures)} of {len(items)} items of {name} cannot be used:\n  {reasons}{more}", unusable)
    (folder / "notes.json").write_text(json.dumps(dict(sorted(notes.items()))), encoding="utf-8")


def _check_masks(item: Item, shape: tuple[int, ...], mask_shape: tuple[int, int], picture: Picture) -> None:
    """Refuse masks that do not fit the upright picture."""
    expected = (*mask_shape, *picture.upright_size)
    if shape == expected:
        return
    names = " and ".join(path.name for path in item.masks)
    if shape == (*mask_shape, *picture.size):
        (height, width), size = picture.upright_size, "{1} x {0}".format(*picture.size)
        raise DataError(
            f"{item.image} has {width} x {height} pixels after the turn by its EXIF orientation {picture.orientation}; "
            f"{names} has {size}, the size before the turn. Turn the masks to fit the picture as viewers show it, or "
            "save both upright"
        )
    raise DataError(
        f"{item.image} needs masks of (raters, regions, height, width) = {expected}, but {names} has {shape}: "
        "download these files again"
    )


def _check_orientation(item: Item, picture: Picture) -> list[Note]:
    """Return a note if the picture has an EXIF orientation that its masks lack: the masks may need the same turn."""
    if picture.orientation == 1:
        return []
    mask_pictures = [path for path in item.masks if path.suffix.lower() in PICTURES]  # others hold no orientation
    if mask_pictures and all(stored_orientation(path) == picture.orientation for path in mask_pictures):
        return []
    text = (
        f"its EXIF orientation {picture.orientation} turns it; its masks are assumed to fit the turned picture. Check "
        "with `data check --sheet`; if they do not fit, save pictures and masks upright"
    )
    return [Note("turned picture", text, serious=False)]


def _shrink_masks(masks: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (R, K, h, w) to (R, K, H, W) by the nearest pixel, so that no new values arise."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, masks.shape[-2:], strict=True)
    )
    return masks[..., rows[:, None], columns]
