"""Archives (``.npz``) with the samples of an image. Writing keeps one sample in memory at a time."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from diffmedseg.atomic import write_whole


def write_archive(path: Path, regions: Sequence[str], shape: tuple[int, ...], samples: Iterable[np.ndarray]) -> None:
    """Write an archive with the arrays ``samples``, (S, K, ...), bool, and ``regions``, the names of the regions.

    Args:
        path: The file.
        regions: Names of the K regions.
        shape: Shape of ``samples``: (S, K, ...).
        samples: Arrays, bool, in order. Together they have the values of ``samples``, such as S arrays (K, ...).
    """

    def save(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("samples.npy", "w", force_zip64=True) as file:
                header = {"descr": "|b1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for sample in samples:
                    file.write(np.ascontiguousarray(sample).data)
            with archive.open("regions.npy", "w") as file:
                np.lib.format.write_array(file, np.array(regions), allow_pickle=False)

    write_whole(path, save)


def archive_is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Return whether an archive is complete and its samples have a shape (S, K, ...). Errors of zipfile are raised."""
    with zipfile.ZipFile(path) as archive:
        with archive.open("samples.npy") as file:
            np.lib.format.read_magic(file)
            stored_shape, _, _ = np.lib.format.read_array_header_1_0(file)
        return stored_shape == shape and archive.testzip() is None
