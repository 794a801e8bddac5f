"""The size that a header announces is known before a pixel is decoded."""

import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.mri_files import write_dicom
from PIL import Image

from diffmedseg.reading.extent import announced_size

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def test_pictures_count_their_pixels(tmp_path):
    picture = Image.new("RGB", (30, 20))
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp"):
        picture.save(tmp_path / name)
        assert announced_size(tmp_path / name) == 600


def test_pages_are_summed(tmp_path):
    pages = [Image.new("L", (30, 20)) for _ in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert announced_size(tmp_path / "a.tif") == 2400


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
def test_volumes_count_their_voxels(name, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name))
    assert announced_size(tmp_path / name) == VOXELS.size


def test_four_dimensional_volumes_count_all_voxels(tmp_path):
    image = sitk.GetImageFromArray(VOXELS.astype(np.float32))
    sitk.WriteImage(sitk.JoinSeries([image] * 3), str(tmp_path / "a.nii.gz"))
    assert announced_size(tmp_path / "a.nii.gz") == 3 * VOXELS.size


def test_a_dicom_slice_counts_its_pixels(tmp_path):
    write_dicom(tmp_path, VOXELS)
    assert sum(map(announced_size, tmp_path.iterdir())) == VOXELS.size


def test_a_small_file_can_announce_much(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7000, 7000, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    assert announced_size(tmp_path / "a.png") == 49_000_000


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.mha", "a.tif", "a.dcm", "a", "missing.png"])
def test_what_cannot_be_read_counts_nothing(name, tmp_path):
    if name != "missing.png":
        (tmp_path / name).write_bytes(b"neither picture nor volume")
    assert announced_size(tmp_path / name) == 0
