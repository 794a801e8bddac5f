"""Cache of images on the model's grid: each image is decoded once, and memory-mapped from disk after that.

ISIC images have up to 29 megapixels. Decoding them in each epoch would take longer than training.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import track

from diffmedseg.atomic import temporary_folder, temporary_for
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
_BLOCK, _WHOLE = 4096, 128 * 1024  # bytes: see files_key
ReadImage = Callable[[Path, tuple[int, int], tuple[float, float] | None, CropWindow | None], Picture]
# Formats that may be uncompressed.
_UNCOMPRESSED = {".bmp", ".mha", ".nii", ".nrrd", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff"}


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
            stored = read_json(self.folder / "notes.json")
            notes = {name: [Note(*note) for note in image_notes] for name, image_notes in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(self.folder, error) from error
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


def map_array(path: Path) -> NDArray[Any]:
    """Memory-map an array of the cache, read-only.

    Raises:
        DataError: If the file is missing or damaged; the message names its folder.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except Exception as error:  # numpy parses the header as Python, which raises many kinds
        raise _damaged(path.parent, error) from error
    return array


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(f"The cache {folder} is damaged ({error}). Delete this folder; the next run makes it again.")


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
    also = [] if settings is None else [settings]
    if value_range is not None:
        also.append(("range", *map(float, value_range)))
    if any(item.window for item in items):
        also.append([item.window for item in items])
    return files_key(files, (FORMAT, size, mask_shape, *also))


def build_once(target: Path, megabytes: float, write: Callable[[Path], None]) -> None:
    """Make a folder of the cache unless it exists: completely or not at all, also if several processes start together.

    Args:
        target: The folder.
        megabytes: Size of its content in MB.
        write: Makes and fills the folder that it is given.

    Raises:
        DataError: If there is no room or no permission to write. Errors of ``write`` pass through. No partial folder
            is left.
    """
    if target.is_dir():
        return
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < megabytes * 1e6:  # writing to a map on a full disk kills the process
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary_folder(target) as complete:
            write(complete)
            try:
                complete.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process was first, with the same result
                    raise
    except OSError as error:
        raise DataError(
            f"Cannot write decoded data to {folder} ({error}). Set DIFFMEDSEG_CACHE to a folder with room for "
            f"{megabytes:.0f} MB."
        ) from error


def cache_entries(folder: Path) -> list[Path]:
    """Return the folders that :func:`build_once` made in a folder, including those of killed processes."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(path for path in folders if re.fullmatch(r"[\w.-]+-[0-9a-f]{16}", temporary_for(path) or path.name))


def files_key(files: Iterable[tuple[str, Path]], settings: object) -> str:
    """Compute a key of the files and settings of a result, without reading whole data sets of up to 15 GB.

    Of a file up to 128 KiB, all content counts. Of a larger file, its size and three blocks count: at the start, in the
    middle and at the end. The end of gzip and PNG files has a checksum of the content. An edit of an uncompressed file
    may change none of these, so the modification time of such a file counts, too. Moved or downloaded data keeps its
    key if the archive keeps modification times.

    The key misses two changes: in the middle of a large compressed file of the same size, which only a damaged disk
    makes; and in a large uncompressed file whose modification time was set back.

    Args:
        files: Each file with the id of its item; the folder of the file does not count.
        settings: Settings of the result; their ``repr`` counts.
    """
    digest = blake2b(repr(settings).encode(), digest_size=8)
    for name, path in files:
        try:
            facts = path.stat()
        except OSError:
            continue  # the reader reports the error, and no result is written
        edited = facts.st_mtime_ns if facts.st_size > _WHOLE and path.suffix.lower() in _UNCOMPRESSED else None
        digest.update(repr((name, path.name, facts.st_size, edited)).encode())
        digest.update(_sample(path, facts.st_size))
    return digest.hexdigest()


def _sample(path: Path, size: int) -> bytes:
    """Return the content of a small file, or three blocks of a large one."""
    try:
        with path.open("rb", buffering=0) as file:
            if size <= _WHOLE:
                return file.read()
            blocks = []
            for start in (0, (size - _BLOCK) // 2, size - _BLOCK):
                file.seek(start)
                blocks.append(file.read(_BLOCK))
            return b"".join(blocks)
    except OSError:
        return b""  # the reader reports the error, and no result is written


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
            shown = native if item.window is None else item.window.crop(native)
            masks[index], filled[index] = _shrink_masks(shown, size), (shown % 2 > 0).any((-2, -1))
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


def _check_masks(item: Item, found: tuple[int, ...], mask_shape: tuple[int, int], picture: Picture) -> None:
    """Refuse masks that do not fit the upright picture."""
    expected = (*mask_shape, *picture.upright_size)
    if found == expected:
        return
    names = " and ".join(path.name for path in item.masks)
    if found == (*mask_shape, *picture.size):
        (height, width), size = picture.upright_size, "{1} x {0}".format(*picture.size)
        raise DataError(
            f"{item.image}: with its EXIF orientation {picture.orientation} the picture has {width} x {height} pixels, "
            f"but {names} has {size}, as the picture without it. Turn the masks to fit the picture as viewers show it, "
            "or save both upright"
        )
    raise DataError(
        f"{item.image} needs masks of (raters, regions, height, width) = {expected}, but {names} has {found}: "
        "download these files again"
    )


def _check_orientation(item: Item, picture: Picture) -> list[Note]:
    """Return a note if the picture has an EXIF orientation that its masks lack: the masks may need the same turn."""
    if picture.orientation == 1:
        return []
    drawn = [path for path in item.masks if path.suffix.lower() in PICTURES]  # others hold no orientation
    if drawn and all(stored_orientation(path) == picture.orientation for path in drawn):
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
