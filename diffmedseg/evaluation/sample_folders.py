"""Folders with the samples of every image of a split: one .npz file, or one folder of PNG files, for each image."""

import re
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.atomic import write_whole
from diffmedseg.errors import DataError
from diffmedseg.reading.masks import read_values
from diffmedseg.reading.names import composed, is_hidden, listing, refuse_clashes
from diffmedseg.wording import count, first_names

#: The array in an .npz file.
ARRAY = "samples"
_PNG = re.compile(r"sample-(\d+)\.png")
_SAVE = f"Save it by numpy.savez_compressed(file, {ARRAY}=masks)."


def sample_file(image: str) -> str:
    """Return the name of the .npz file of an image: its id, with ``_`` for ``/``."""
    return f"{composed(image).replace('/', '_')}.npz"


def write_samples(folder: Path, image: str, samples: Tensor) -> None:
    """Write the samples of an image, completely or not at all.

    Args:
        folder: The folder of all samples.
        image: Id of the image.
        samples: (S, K, H, W), bool, at the image's native size.
    """
    masks = samples.to(torch.uint8).numpy()

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **{ARRAY: masks})  # type: ignore[arg-type]  # for allow_pickle

    write_whole(folder / sample_file(image), save)


class SampleFolder:
    """Reads the samples of a split.

    Args:
        folder: Folder with the samples of each image: ``<id>.npz`` with an array ``samples`` of 0 and 1, or
            ``<id>/sample-00.png`` and so on, of 0 and 255.
        images: Ids of the images that need samples.
        split: Ids of all images of the split; any of them may have samples.

    Raises:
        DataError: If there is no such folder, images have no samples or samples of both kinds, or there are samples
            of other images.
    """

    def __init__(self, folder: Path, images: Sequence[str], split: Collection[str]) -> None:
        self.folder = folder
        refuse_clashes([(sample_file(image), Path(image)) for image in split], "images", "Rename one of each pair.")
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}. Name the folder that holds the samples.")
        paths = [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]
        keyed_paths = [(_key(path), path) for path in paths]
        refuse_clashes(keyed_paths, "sets of samples", "Keep one set for each image.")
        self._paths = dict(keyed_paths)
        missing = [image for image in images if _stem(image) not in self._paths]
        if missing:
            raise DataError(
                f"{len(missing)} of {count(len(images), 'image')} have no samples in {folder}: expected "
                f"{first_names([sample_file(image) for image in missing])}. --list FILE.csv writes all expected names.",
                missing,
            )
        extra = [path.name for path in paths if _key(path) not in {_stem(image) for image in split}]
        if extra:
            raise DataError(
                f"{folder} has {first_names(extra)}, and no image of the split has this name. Remove files that are "
                "not samples, or choose the split of the samples by --split.",
                extra,
            )

    def read(self, image: str, size: tuple[int, int], regions: int) -> Tensor:
        """Read the samples of an image.

        Args:
            image: Id of the image.
            size: Height and width that the samples must have.
            regions: K, the number of regions that the samples must have.

        Returns:
            (S, K, H, W), bool.

        Raises:
            DataError: If the samples cannot be read, or have another shape or other values than masks.
        """
        path = self._paths[_stem(image)]
        masks = _read_pngs(path) if path.is_dir() else _read_npz(path)
        height, width = size
        shape = (regions, height, width)
        if masks.ndim == 3 and regions == 1:
            masks = masks[:, None]
        if masks.ndim != 4 or masks.shape[1:] != shape or not len(masks):
            plain = f"(S, {height}, {width}) or " if regions == 1 else ""
            raise DataError(
                f"{path}: the samples have shape {masks.shape}; expected {plain}(S, {', '.join(map(str, shape))}) with "
                "S of at least 1. Save samples at the size of the original image, one channel for each region."
            )
        return torch.from_numpy(masks)


def _stem(image: str) -> str:
    return sample_file(image).removesuffix(".npz")


def _key(path: Path) -> str:
    """Return the file name, without suffix, of the image that a file or folder of samples belongs to."""
    name = composed(path.name)
    return name if path.is_dir() else name.removesuffix(".npz")


def _read_npz(path: Path) -> NDArray[np.bool_]:
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither an .npz file nor a folder of PNG files. {_SAVE}")
    try:
        with zipfile.ZipFile(path) as archive:  # NumPy would read any other file as a pickle
            names = sorted(name.removesuffix(".npy") for name in archive.namelist())
        values: NDArray[Any] | None = np.load(path, allow_pickle=False)[ARRAY] if ARRAY in names else None
    except Exception as error:  # zipfile and NumPy raise many kinds of errors for damaged files
        raise DataError(f"{path} cannot be read ({error}). {_SAVE}") from error
    if values is None:
        raise DataError(f"{path} has no array {ARRAY}; it holds {first_names(names) or 'nothing'}. {_SAVE}")
    return _as_masks(values, (0, 1), path)


def _read_pngs(folder: Path) -> NDArray[np.bool_]:
    files = {path.name: path for path in sorted(folder.iterdir()) if not is_hidden(path.name)}
    numbers = {int(match[1]): files[name] for name in files if (match := _PNG.fullmatch(name))}
    if not files or len(numbers) < len(files) or sorted(numbers) != list(range(len(files))):
        raise DataError(
            f"{folder} holds {count(len(files), 'file')} ({listing(folder)}); expected sample-00.png, sample-01.png "
            "and so on, without a gap and without other files. Rename or remove files."
        )
    masks = [_as_masks(read_values(numbers[number]), (0, 255), numbers[number]) for number in range(len(files))]
    shapes = {mask.shape for mask in masks}
    if len(shapes) > 1:
        raise DataError(
            f"The samples in {folder} have different sizes, {first_names([str(shape) for shape in shapes])}."
        )
    return np.stack(masks)


def _as_masks(values: NDArray[Any], levels: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    """Return where values equal the upper of two levels; refuse other values than the two levels."""
    if values.dtype == np.bool_:
        return values.astype(np.bool_)
    low, high = levels
    numbers = values if values.dtype.kind in "iuf" else np.full(1, np.nan)
    mask: NDArray[np.bool_] = numbers == high
    if not (mask | (numbers == low)).all():
        wrong_values = first_names(
            [f"{value:g}" for value in np.unique(numbers[~mask & (numbers != low)])[:3].tolist()]
        )
        kind = wrong_values if values.dtype.kind in "iuf" else f"of type {values.dtype}"
        raise DataError(
            f"{path} has values {kind}; expected only {low} and {high}. Threshold the samples before saving them."
        )
    return mask
