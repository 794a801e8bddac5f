"""Slices with a margin that makes the pixels of a model's grid square in mm."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.dark_disc import BrightSegmenter, NoNetwork
from helpers.mri_files import data_module, write_nifti

from diffmedseg.data import measured, planning
from diffmedseg.errors import ExportError
from diffmedseg.export.writing import export_onnx
from diffmedseg.prediction import Naming, Outputs, Settings, find_cases, predict_volumes
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.reading.windows import CropWindow, square_window

SHAPE = (6, 30, 20)
SPACING = (4.0, 0.5, 1.5)  # mm: slices of 15 x 30 mm
SQUARE = SliceInput(square_pixels=True)
GRID = (32, 32)


@pytest.mark.parametrize("grid", [(64, 64), (64, 48)])
@pytest.mark.parametrize(
    ("size", "spacing"), [((30, 20), (0.5, 1.5)), ((155, 240), (1.0, 1.0)), ((240, 155), (1, 0.9))]
)
def test_pixels_of_the_grid_are_square_and_the_slice_lies_in_the_middle(size, spacing, grid):
    window = square_window(size, spacing, grid)
    down, across = (length * mm / n for length, mm, n in zip(window.size, spacing, grid, strict=True))
    assert down == pytest.approx(across, rel=0.5 / min(size))  # windows are whole pixels
    assert window.height >= size[0]
    assert window.width >= size[1]
    assert window.size[0] == size[0] or window.size[1] == size[1]
    assert abs(2 * window.top + window.height - size[0]) <= 1
    assert abs(2 * window.left + window.width - size[1]) <= 1
    maps = torch.rand(2, *size)
    assert torch.equal(window.place(window.cut(maps, -1.0), size), maps)  # and back exactly


def test_slices_of_the_shape_of_the_grid_have_no_margin():
    assert square_window((20, 40), (2.0, 1.0), (64, 64)) is None
    assert SliceInput().window((20, 30), (1.0, 1.0), GRID) is None


def disc(radius=6.0):
    """A cylinder through all slices, round in mm, that reaches the upper edge."""
    rows, columns = np.meshgrid((np.arange(30) + 0.5) * 0.5, (np.arange(20) + 0.5) * 1.5, indexing="ij")
    return np.broadcast_to((rows - 5) ** 2 + (columns - 12) ** 2 < radius**2, SHAPE)


def write_cases(folder, number=3):
    for case in range(number):
        noise = np.random.default_rng(case).normal(0, 3, SHAPE)
        for name, values in (("images", 100 + 200 * disc() + noise), ("masks", disc())):
            write_nifti(folder / name / f"p{case}.nii.gz", values, spacing=SPACING)
        (folder / "in" / f"p{case}").mkdir(parents=True)
        shutil.copy(folder / "images" / f"p{case}.nii.gz", folder / "in" / f"p{case}" / "image.nii.gz")


def module(folder, **settings):
    ranges = {"image": [0, 400]}
    return data_module("volumes", folder, folds=3, image_size=GRID[0], ranges=ranges, train_slices="all", **settings)


def segmenter(info):
    return BrightSegmenter(
        NoNetwork(1, 1), image_size=GRID, channels=info.channels, regions=info.regions, num_samples=2, num_steps=1,
        slice_input=info.slice_input,
    ).eval()  # fmt: skip


def extent(mask):
    return [int(np.ptp(np.flatnonzero(mask.any(axis)))) + 1 for axis in (1, 0)]


def test_a_round_lesion_is_round_on_the_grid(tmp_path):
    write_cases(tmp_path)
    stretched, data = module(tmp_path).load("train"), module(tmp_path, square_pixels=True)
    store = data.load("train")
    assert data.info.slice_input.square_pixels
    mask, image = store.masks(0)[0, 0].numpy().astype(bool), store.image(0)[0].numpy()
    tall, wide = extent(mask)
    assert wide / 32 * 30 == pytest.approx(12, abs=1)  # of 30 mm
    assert tall == pytest.approx(wide * 11 / 12, abs=1.5)  # its upper millimetre is cut off by the slice
    bright = image > 0
    assert (bright != mask).mean() < 0.03
    assert (image[:7] == -1).all()  # the margin is background
    assert not mask[:7].any()
    tall, wide = extent(stretched.masks(0)[0, 0].numpy().astype(bool))
    assert tall > 1.5 * wide
    assert torch.equal(store.reference(0), stretched.reference(0))
    assert store.window(0) == CropWindow(0, -15, 20, 60)


def test_test_prediction_and_segment_agree(tmp_path):
    write_cases(tmp_path / "own")
    data = module(tmp_path / "own", square_pixels=True)
    data.prepare_data()
    data.setup("test")
    model = segmenter(data.info)
    cases = find_cases([tmp_path / "own" / "in"], Naming(data.info.channels, {}))
    outputs = Outputs(samples="images", panel=True)
    report = predict_volumes(model, cases, tmp_path / "out", batch_size=4, outputs=outputs)
    assert report.failed == {}
    tested = 0
    for batch in data.test_dataloader():
        result = model.test_step(data.on_after_batch_transfer(batch, 0), 0)["segmentation"]
        for i, (case, index) in enumerate(zip(batch["case"], batch["index"], strict=True)):
            own = model.at_reference(result, batch, i)
            mask = batch["window"][i].place(own.mask[0], SHAPE[1:])[0].numpy()
            predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{case}_mask.nii.gz"))) > 0
            assert (predicted[index] != mask).mean() < 1e-2  # the cache keeps 16 bits
            assert (predicted[index] != disc()[0]).mean() < 0.05
            tested += 1
    assert tested == SHAPE[0]
    slices = torch.from_numpy(np.stack([100 + 200 * disc()[0] / 1.0] * SHAPE[0])).float()[:, None] / 200 - 1
    found = model.segment(slices.clamp(-1, 1), spacing=SPACING)
    assert found.mask.shape == (*SHAPE[:1], 1, *SHAPE[1:])
    assert (found.mask[0, 0].numpy() != disc()[0]).mean() < 0.05
    assert found.mean.shape == found.mask.shape
    millilitres = found.volume_ml()[model.regions[0]].ml
    assert millilitres == pytest.approx(disc().sum() * np.prod(SPACING) / 1000, rel=0.1)


def test_every_sample_has_the_size_of_the_volume(tmp_path):
    write_cases(tmp_path / "own", 1)
    info = module(tmp_path / "own", square_pixels=True).info
    cases = find_cases([tmp_path / "own" / "in"], Naming(info.channels, {}))
    for name, axes in (("one", None), ("all", ("axial", "coronal", "sagittal"))):
        out = tmp_path / name
        predict_volumes(segmenter(info), cases, out, Settings(axes=axes), outputs=Outputs(samples="images"))
        samples = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(out.glob("*sample*.nii.gz"))]
        assert samples
        for sample in samples:
            assert (sample.reshape(-1, *SHAPE)[0] != disc()).mean() < 0.08


def test_graphs_refuse_such_models(tmp_path):
    write_cases(tmp_path)
    with pytest.raises(ExportError, match="square_pixels"):
        export_onnx(segmenter(module(tmp_path, square_pixels=True).info), tmp_path / "x.onnx")


@pytest.mark.parametrize(("spacing", "proposed"), [(SPACING, True), ((4.0, 1.0, 1.0), False)])
def test_a_plan_proposes_a_margin_where_the_grid_would_stretch_slices(spacing, proposed):
    case = measured.Measured(
        "x", 1, sizes=[(256, 256)], spacings=[spacing], depths=[6], intensities={}, lesions=[50.0], thickness=[2],
        lost=dict.fromkeys(measured.SIDES, 0),
    )  # fmt: skip
    settings = planning.plan(case, planning.Machine("x", 2**16)).settings
    assert settings.get("square_pixels", (False, ""))[0] is proposed
