"""The samples of an image in one ``.npz``, written and checked without having all of them in memory."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from diffmedseg.atomic import write_whole


def write_archive(path: Path, regions: Sequence[str], shape: tuple[int, ...], samples: Iterable[np.ndarray]) -> None:
    """Write ``samples`` (S, K, ...), bool, and ``regions``; one sample in memory at a time.

    Args:
        path: The file.
        regions: Names of the K regions.
        shape: (S, K, ...).
        samples: S arrays (K, ...), bool.
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
    """Tell whether an archive is whole and holds samples of a shape (S, K, ...); raises what zipfile raises."""
    with zipfile.ZipFile(path) as archive:
        with archive.open("samples.npy") as file:
            np.lib.format.read_magic(file)
            found, _, _ = np.lib.format.read_array_header_1_0(file)
        return found == shape and archive.testzip() is None
