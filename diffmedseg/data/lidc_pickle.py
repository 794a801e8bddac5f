"""Convert LIDC-IDRI from the pickle of the probabilistic U-Net's PyTorch port to pictures.

Unpickling can run any code in a file. The unpickler here builds only arrays and plain values, and refuses all else.
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
#: Constructors of NumPy arrays and numbers, and of bytes that Python 2 wrote.
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
        """Return the constructor of an array.

        Raises:
            DataError: If the file asks for any other object.
        """
        if (module, name) not in _ALLOWED:
            raise DataError(f"it asks for {module}.{name}, which is no array. It is not data_lidc.pickle")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def convert_lidc(source: Path, target: Path) -> int:
    """Write every slice as pictures: ``images/<name>.png`` and ``masks_<rater>/<name>.png``.

    Args:
        source: data_lidc.pickle: a dictionary of slices by name, each with ``image`` (H, W) in [0, 1], ``masks``
            (4 times H, W) and ``series_uid``.
        target: A folder that does not exist yet; it is written completely or not at all.

    Returns:
        The number of slices.

    Raises:
        DataError: If the file has other content, or the folder exists.
    """
    if target.exists():
        raise DataError(f"{target} already exists. Name a new folder.")
    try:
        with source.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            slices = ArrayUnpickler(io.BufferedReader(file), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{source}: {error}.") from error
    except Exception as error:  # a damaged file can call the allowed constructors with any arguments
        raise DataError(f"{source} cannot be read ({error!r}). Download it again.") from error
    if not isinstance(slices, dict) or not slices:
        raise DataError(f"{source} is no dictionary of slices. Download it again.")
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
    """Refuse memo indices larger than the number of objects: the unpickler would allocate memory for them.

    Raises:
        DataError: If the file has such an index.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > number:
            raise DataError("it is damaged, or it is not data_lidc.pickle")


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
        raise DataError(f"{source}: {name} has values out of range; expected images in [0, 1] and masks of 0 and 1.")
    return image, masks.astype(bool)
