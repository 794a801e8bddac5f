"""Slices along other axes than the one that a model learned, and small parts of a volume's mask."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from helpers.dark_disc import BrightSegmenter, NoNetwork, bright_segmenter
from helpers.mri_files import write_nifti

from diffmedseg.data.mri.volumes import NormalVolume
from diffmedseg.errors import DataError
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.prediction import Naming, Outputs, Settings, find_cases, predict_volumes
from diffmedseg.prediction.volumes.planes import AXES, Plane
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.prediction.volumes.segmenting import STEPS, Kept, segment_volume
from diffmedseg.prediction.volumes.slices import SliceRun
from diffmedseg.reading.slice_input import SliceInput

SPACING = (2.5, 1.0, 1.5)  # mm, of slices, rows and columns
SHAPE = (16, 44, 30)
ALL = tuple(AXES)


def ball(radius=9.0, middle=(20.0, 18.0, 24.0)):
    """A ball in mm, off the middle."""
    places = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    return sum((axis - one) ** 2 for axis, one in zip(places, middle, strict=True)) <= radius**2


def write(path, values, axes="LPS", dtype=np.float32):
    write_nifti(path, values, dtype, spacing=SPACING)
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), axes), str(path))


def scan(found):
    head = np.zeros(SHAPE, dtype=bool)
    head[1:-1, 2:-2, 2:-2] = True
    noise = np.random.default_rng(0).normal(0, 5, SHAPE)
    return np.where(head, 100 + 300 * found + noise, 0)


def as_lps(path):
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"))


def predict(folder, out, model=None, outputs=None, **settings):
    model = model or bright_segmenter(("flair",))
    cases = find_cases([folder], Naming(("flair",), {}))
    return predict_volumes(model, cases, out, Settings(**settings), outputs=outputs)


@pytest.mark.parametrize("axes", [ALL, ("coronal",), ("axial", "sagittal")])
def test_a_ball_is_the_same_whichever_way_its_array_lies(axes, tmp_path):
    write(tmp_path / "a" / "flair.nii.gz", scan(ball()))
    for way in ("RAS", "SPL", "AIR"):
        write(tmp_path / way / "flair.nii.gz", scan(ball()), way)
    report = predict(tmp_path, tmp_path / "out", axes=axes)
    assert (len(report.done), report.failed) == (4, {})
    first = as_lps(tmp_path / "out" / "a_mask.nii.gz") > 0
    assert 2 * (first & ball()).sum() / (first.sum() + ball().sum()) > 0.85
    for way in ("RAS", "SPL", "AIR"):
        found, given = (
            sitk.ReadImage(str(tmp_path / path)) for path in (f"out/{way}_mask.nii.gz", f"{way}/flair.nii.gz")
        )
        assert found.GetSize() == given.GetSize()
        assert (found.GetSpacing(), found.GetOrigin(), found.GetDirection()) == (
            given.GetSpacing(), given.GetOrigin(), given.GetDirection()
        )  # fmt: skip
        assert (as_lps(tmp_path / "out" / f"{way}_mask.nii.gz") > 0).sum() == pytest.approx(first.sum(), rel=0.1)


def test_the_learned_axis_alone_is_no_setting(tmp_path):
    write(tmp_path / "in" / "flair.nii.gz", scan(ball()))
    predict(tmp_path / "in", tmp_path / "plain")
    predict(tmp_path / "in", tmp_path / "axial", axes=("axial",))
    for kind in ("mask", "probability", "disagreement"):
        one, other = (as_lps(tmp_path / out / f"in_{kind}.nii.gz") for out in ("plain", "axial"))
        assert np.array_equal(one, other)
    written = [(tmp_path / out / "predictions.yaml").read_text() for out in ("plain", "axial")]
    assert written[0] == written[1]
    assert "axes" not in written[0]


def volume_of(path, found=None):
    write(path, scan(ball() if found is None else found))
    return read_case(find_cases([path], Naming(("flair",), {}))[0])


def test_several_axes_are_averaged(tmp_path):
    volume = volume_of(tmp_path / "flair.nii.gz")
    model = bright_segmenter(("flair",))
    filled = Settings().filled_from(model)

    def along(*axes):
        return segment_volume(SliceRun(model, volume, "case", replace(filled, axes=axes), 4), Kept(samples=True))

    single = [along(axis) for axis in AXES]
    mean = along("sagittal", "axial", "coronal")
    expected, found = np.mean([one.probability[:] for one in single], 0), mean.probability[:]
    assert found == pytest.approx(expected, abs=1.01 / STEPS)
    clear = abs(found - 0.5) > 1 / STEPS
    assert np.array_equal(mean.mask[clear], found[clear] > 0.5)
    assert not np.array_equal(single[0].probability.levels, single[1].probability.levels)
    samples = mean.full_samples[:]
    votes = np.sum([one.full_samples[:] for one in single], 0)
    sure = (votes == 0) | (votes == len(single))
    assert sure.mean() > 0.9
    assert np.array_equal(samples[sure], votes[sure] > 0)  # sample by sample: they share their noise
    assert mean.sample_voxels.tolist() == samples.sum((2, 3, 4)).tolist()
    assert 0 < mean.uncertainty[:].max() <= 0.5
    assert mean.samples.shape == (3, 1, SHAPE[0], *model.image_size)


def test_the_setting_is_recorded(tmp_path):
    write(tmp_path / "in" / "flair.nii.gz", scan(ball()))
    predict(tmp_path / "in", tmp_path / "out", axes=("sagittal", "axial"), smallest={"lesion": 4})
    said = yaml.safe_load((tmp_path / "out" / "predictions.yaml").read_text())
    assert (said["axes"], said["smallest"]) == (["axial", "sagittal"], {"lesion": 4})
    cases = find_cases([tmp_path / "in"], Naming(("flair",), {}))
    for settings in (Settings(smallest={"lesion": 4}), Settings(axes=("axial", "sagittal"))):
        with pytest.raises(DataError, match="was predicted with other settings"):
            predict_volumes(bright_segmenter(("flair",)), cases, tmp_path / "out", settings, resume=True)


class OfNeighbours(BrightSegmenter):
    """Bright is what is bright in all slices that are shown."""

    def draw_samples(self, image, generators, num_steps):
        return super().draw_samples(image.amin(1, keepdim=True), generators, num_steps)


def test_neighbouring_slices_are_those_of_the_axis(tmp_path):
    shown = SliceInput(context=1, distance=2.5)
    model = OfNeighbours(
        NoNetwork(3, 1), image_size=(32, 32), channels=("flair",), regions=("lesion",), num_samples=2, num_steps=1,
        slice_input=shown,
    ).eval()  # fmt: skip
    volume = volume_of(tmp_path / "flair.nii.gz")
    sizes = []
    for axis in AXES:
        settings = replace(Settings().filled_from(model), axes=(axis,))
        found = segment_volume(SliceRun(model, volume, "case", settings, 4))
        inside = found.mask[0] & ball(11)
        assert inside.sum() == found.mask[0].sum() > 0
        reach = np.ptp(np.argwhere(found.mask[0]), axis=0) + 1
        sizes.append(reach[AXES[axis]] * SPACING[AXES[axis]])
    whole = 2 * 9.0
    assert all(size < whole for size in sizes)  # the slices at both ends have a neighbour without the ball


def test_slices_along_other_axes_have_square_pixels():
    plane = Plane.of("coronal", SHAPE, SPACING, (64, 64), SliceInput())
    assert (plane.shape, plane.spacing) == ((44, 16, 30), (1.0, 2.5, 1.5))
    assert plane.window == (0, -1, 30, 18)  # 45 x 45 mm around 40 x 45 mm
    assert Plane.of("axial", SHAPE, SPACING, (64, 64), SliceInput()).window is None
    marked = np.zeros((1, *SHAPE), np.float32)
    marked[0, -1, 20, 3] = 1  # at the top of the head
    assert np.argwhere(plane.turn(marked)[0]).tolist() == [[20, 0, 3]]
    images = plane.images(NormalVolume.of(marked, np.ones(SHAPE, bool), ["flair"], {0: (0, 1)}))
    assert images.shape == (44, 1, 64, 64)
    assert (images[20, 0, :2] == -1).all()  # the margin is background
    assert images[20, 0, 2:8].max() > images[20, 0, 12:].max() == -1


def test_axes_that_cannot_be_are_refused(tmp_path):
    write(tmp_path / "in" / "flair.nii.gz", scan(ball()))
    for axes, said in ((("axail",), "Did you mean axial"), (("axial", "axial"), "name each axis once")):
        with pytest.raises(DataError, match=said):
            predict(tmp_path / "in", tmp_path / "out", axes=axes)
    model = bright_segmenter(("flair",))
    model.conformal = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, model.num_samples, model.num_steps)
    [reason] = predict(tmp_path / "in", tmp_path / "out", model, axes=ALL).failed.values()
    assert "fitted to axial slices" in reason


def two_balls():
    return ball() | ball(3.0, (30.0, 34.0, 12.0))


@pytest.mark.parametrize("axes", [("axial",), ALL])
def test_small_parts_are_dropped(axes, tmp_path):
    volume, model = volume_of(tmp_path / "flair.nii.gz", two_balls()), bright_segmenter(("flair",))
    filled = replace(Settings().filled_from(model), axes=axes)
    plain = segment_volume(SliceRun(model, volume, "case", filled, 4))
    dropped = segment_volume(SliceRun(model, volume, "case", replace(filled, smallest={"lesion": 100}), 4))
    small = ball(4.5, (30.0, 34.0, 12.0))
    assert plain.mask[0][small].any()
    assert np.array_equal(dropped.mask[0], plain.mask[0] & ~small)
    assert np.array_equal(dropped.probability.levels, plain.probability.levels)
    assert torch.equal(dropped.samples, plain.samples)
    assert dropped.doubt[0] > plain.doubt[0]  # the probability still says that something is there
    nothing = replace(filled, smallest={"lesion": 1})
    same = segment_volume(SliceRun(model, volume, "case", nothing, 4))
    assert np.array_equal(same.mask, plain.mask)
    assert same.doubt == plain.doubt


def test_a_small_enhancing_tumour_becomes_core(tmp_path):
    write(tmp_path / "in" / "flair.nii.gz", scan(ball()))
    regions = ("whole_tumour", "tumour_core", "enhancing_tumour")
    model = bright_segmenter(("flair",), regions)
    maps = []
    for number, smallest in enumerate((None, {"enhancing_tumour": 10**6})):
        out = tmp_path / f"out{number}"
        report = predict(tmp_path / "in", out, model, Outputs(labels="brats2023"), smallest=smallest)
        assert not any("codes" in note for note in report.notes.values())
        maps.append(as_lps(out / "in_labels.nii.gz"))
    assert set(np.unique(maps[0])) >= {0, 3}
    assert np.array_equal(maps[1], np.where(maps[0] == 3, 1, maps[0]))
    report = predict(tmp_path / "in", tmp_path / "order", model, Outputs(labels="order"))
    assert "1 for whole_tumour, 2 for tumour_core" in report.notes[tmp_path / "order"]
    assert "--labels brats2023" in report.notes[tmp_path / "order"]


def test_all_ways_to_turn_a_volume_are_views():
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for axis, flip in itertools.product(AXES, (False, True)):
        turned = Plane.of(axis, SHAPE, SPACING, (8, 8), SliceInput()).turn(values[::-1] if flip else values)
        assert np.shares_memory(turned, values)
        assert turned.shape == Plane.of(axis, SHAPE, SPACING, (8, 8), SliceInput()).shape
