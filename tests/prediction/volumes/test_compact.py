"""Arrays that take few bytes per voxel, and files that are written slab by slab."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from diffmedseg.prediction.volumes.compact import PackedMasks, SteppedMap, compact
from diffmedseg.prediction.volumes.nifti_writing import write_nifti
from diffmedseg.prediction.volumes.segmenting import FRACTIONS, STEPS
from diffmedseg.reading.grid import Frame

SHAPE = (3, 5, 11)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([-1024, 0, 3071], np.int16),
        ([-32768, 32767], np.int16),
        ([0, 32768], np.float32),
        ([0, 1e30], np.float32),
        ([0.5], np.float32),
    ],
)
def test_only_what_survives_becomes_whole_numbers(values, dtype):
    given = np.zeros(SHAPE, np.float32)
    given.ravel()[-len(values) :] = values
    held = compact(given)
    assert held.dtype == dtype
    assert np.array_equal(held, given)
    assert not np.shares_memory(held, given)  # which may be the view of an image that goes


@pytest.mark.parametrize(
    ("steps", "highest", "dtype"), [(STEPS, 1, np.uint16), (STEPS, 0.5, np.uint8), (FRACTIONS, 1, np.uint8)]
)
def test_a_map_in_steps_is_the_rounded_map(steps, highest, dtype):
    values = (np.random.default_rng(0).random((2, *SHAPE)) * highest).astype(np.float32)
    values[0, 0, 0, :4] = 0, highest, 0.5 / steps, 1.5 / steps
    held = SteppedMap(values.shape, steps, highest)
    held[0], held[1, 1:] = values[0], values[1, 1:]
    values[1, 0] = 0
    assert held.levels.dtype == dtype
    assert np.array_equal(held[:], np.round(values * np.float32(steps)) / np.float32(steps))
    assert held[0].dtype == np.float32


def test_packed_masks_are_the_masks():
    masks = np.random.default_rng(0).random((4, *SHAPE)) < 0.5
    held = PackedMasks(masks.shape)
    held[0] = masks[0]
    held[1:, [2, 0]] = masks[1:, [2, 0]]
    masks[1:, 1] = False
    assert np.array_equal(held[:], masks)
    assert np.array_equal(held[1, 2], masks[1, 2])


@pytest.mark.parametrize("shape", [SHAPE, (1, 5, 11), (3, 1, 11), (1, 1, 1)])
@pytest.mark.parametrize("volumes", [None, 1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_file_is_the_one_that_itk_writes(shape, volumes, dtype, tmp_path):
    values = (np.random.default_rng(0).random((volumes or 1, *shape)) * 9).astype(dtype)
    cos, sin = np.cos(0.3), np.sin(0.3)
    images = [sitk.GetImageFromArray(one) for one in values]
    for image in images:
        image.SetSpacing((0.7, 1.3, 2.5))
        image.SetOrigin((11.5, -20.3, 7))
        image.SetDirection((-cos, 0, -sin, 0, -1, 0, -sin, 0, cos))
    sitk.WriteImage(images[0] if volumes is None else sitk.JoinSeries(images), str(tmp_path / "itk.nii"))
    write_nifti(tmp_path / "slabs.nii.gz", Frame.of(images[0]), dtype, (one[::-1][::-1] for one in values), volumes)
    assert gzip.decompress((tmp_path / "slabs.nii.gz").read_bytes()) == (tmp_path / "itk.nii").read_bytes()


def test_an_axis_that_nifti_cannot_hold_is_refused(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((1, 2**15, 1), np.uint8))
    with pytest.raises(ValueError, match="at most 32767 voxels along an axis"):
        write_nifti(tmp_path / "long.nii.gz", Frame.of(image), np.uint8, [])
    assert not list(tmp_path.iterdir())
