"""LIDC-IDRI as the pickle that the probabilistic U-Net's PyTorch port spread: converted once, to pictures.

Unpickling runs whatever code a file asks for. This one is taken apart by an unpickler that knows arrays and plain
values and refuses all else.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from diffmedseg.atomic import temporary_folder
from diffmedseg.errors import DataError

_RATERS = 4
_LONGEST_NAME = 200  # file systems take 255 bytes
#: What arrays and numbers of numpy, and bytes that Python 2 wrote, are made of.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and plain values, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  pickle's signature
        """Return what builds an array.

        Raises:
            DataError: If the file asks for anything else.
        """
        if (module, name) not in _ALLOWED:
            raise DataError(f"it asks for {module}.{name}, which is no array: it is not the file that was spread")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def convert_lidc(source: Path, target: Path) -> int:
    """Write every slice as pictures: ``images/<name>.png`` and ``masks_<rater>/<name>.png``.

    Args:
        source: data_lidc.pickle: by name a slice's ``image`` (H, W) in [0, 1], ``masks`` (4 times H, W) and
            ``series_uid``.
        target: A folder that does not exist yet; it appears whole or not at all.

    Returns:
        The number of slices.

    Raises:
        DataError: If the file is not what it should be, or the folder is there already.
    """
    if target.exists():
        raise DataError(f"{target} is there already: name a new folder.")
    try:
        with source.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            slices = ArrayUnpickler(io.BufferedReader(file), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{source}: {error}.") from error
    except Exception as error:  # a damaged file can call what it allows in any way, or ask for all memory
        raise DataError(f"{source} cannot be read ({error!r}): download it again.") from error
    if not isinstance(slices, dict) or not slices:
        raise DataError(f"{source} holds no slices by name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target) as folder:
        for name in ("images", *(f"masks_{rater}" for rater in range(_RATERS))):
            (folder / name).mkdir(parents=True)
        for name, content in track(slices.items(), "Converting", len(slices)):
            image, masks = _slice(str(name), content, source)
            file_name = f"{str(name).replace('/', '-')}.png"
            Image.fromarray((image * 255).round().astype(np.uint8)).save(folder / "images" / file_name)
            for rater, mask in enumerate(masks):
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks_{rater}" / file_name)
        folder.rename(target)
    return len(slices)


def _check_memo(file: BinaryIO) -> None:
    """Refuse places in the unpickler's memory beyond the number of things it holds, which it would take memory for.

    Raises:
        DataError: If there are any.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > number:
            raise DataError("it is damaged, or not the file that was spread")


def _slice(name: str, content: Any, source: Path) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:  # noqa: ANN401
    if not 0 < len(name) <= _LONGEST_NAME or "\0" in name:
        raise DataError(f"{source}: {name[:50]!r} is no name of a slice: download it again.")
    try:
        image, masks = np.asarray(content["image"], dtype=float), np.asarray(content["masks"])
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{source}: {name} has no image and masks ({error!r}).") from error
    if image.ndim != 2 or masks.shape != (_RATERS, *image.shape):
        raise DataError(
            f"{source}: {name} has an image of {image.shape} and masks of {masks.shape}; expected (H, W) and "
            f"({_RATERS}, H, W)."
        )
    if not (image.min() >= 0 and image.max() <= 1) or not np.isin(masks, (0, 1)).all():
        raise DataError(f"{source}: {name} leaves the range, [0, 1] of images and 0 or 1 of masks.")
    return image, masks.astype(bool)
