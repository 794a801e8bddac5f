"""Predicting pictures and volumes by ensembles, in flipped views."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from helpers.dark_disc import bright_segmenter, dark_segmenter, disc, picture
from helpers.mri_files import labels, write_brats
from PIL import Image, ImageOps

from diffmedseg.models import Ensemble
from diffmedseg.prediction import (
    Naming,
    Outputs,
    Settings,
    find_cases,
    find_pictures,
    predict_pictures,
    predict_volumes,
)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("orientation", [1, 6])
def test_turned_pictures_by_members_of_several_grids(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture().save(tmp_path / "a.jpg", exif=exif)
    members = {"a": dark_segmenter(image_size=(32, 48)), "b": dark_segmenter(image_size=(48, 16), seed=1)}
    model, settings = Ensemble(members), Settings(num_samples=9, tta="flips")
    report = predict_pictures(
        model,
        find_pictures([tmp_path / "a.jpg"]),
        tmp_path / "out",
        settings,
        outputs=Outputs(samples="npz"),
        panels=True,
    )
    assert (report.done, report.failed) == (["a"], {})
    with Image.open(tmp_path / "out" / "a_mask.png") as mask:
        assert overlap(np.asarray(mask) > 0, disc()) > 0.85
        assert ImageOps.exif_transpose(mask).size == ((60, 90) if orientation == 6 else (90, 60))
    samples = np.load(tmp_path / "out" / "a_samples.npz")["samples"]
    assert samples.shape == (9, 1, 60, 90)
    assert all(overlap(sample[0], disc()) > 0.8 for sample in samples)
    stored = yaml.safe_load((tmp_path / "out" / "predictions.yaml").read_text())
    assert (stored["tta"], list(stored["members"])) == ("flips", ["a", "b"])
    assert len(set(stored["members"].values()) | {stored["model"]}) == 3


def test_a_prediction_depends_neither_on_others_nor_on_the_batch(tmp_path):
    for i in range(3):
        picture(left=5 * i).save(tmp_path / f"p{i}.png")
    model = Ensemble({"a": dark_segmenter(), "b": dark_segmenter(seed=1)})
    files, settings = find_pictures([tmp_path]), Settings(tta="flips")
    predict_pictures(model, files, tmp_path / "all", settings)
    predict_pictures(model, files[2:], tmp_path / "one", settings, batch_size=1)
    assert (tmp_path / "all/p2_probability.png").read_bytes() == (tmp_path / "one/p2_probability.png").read_bytes()


def test_volumes(tmp_path):
    write_brats(tmp_path / "in", ["BraTS2021_00001"])
    channels = ("flair", "t1ce")
    model = Ensemble({"a": bright_segmenter(channels), "b": bright_segmenter(channels, seed=1)})
    cases = find_cases([tmp_path / "in"], Naming(channels, {}))
    outputs = Outputs(samples="image")
    report = predict_volumes(model, cases, tmp_path / "out", Settings(tta="flips"), outputs=outputs)
    assert (report.failed, report.done) == ({}, ["BraTS2021_00001"])
    mask, samples = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"BraTS2021_00001_{kind}.nii.gz"))) > 0
        for kind in ("mask", "samples")
    )
    assert samples.shape == (8, *mask.shape)
    assert overlap(mask, labels() > 0) > 0.8
    predict_volumes(model, cases, tmp_path / "again", Settings(tta="flips"), batch_size=1)
    again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "again" / "BraTS2021_00001_mask.nii.gz"))) > 0
    assert np.array_equal(mask, again)


def test_nan_of_one_member_is_an_error(tmp_path):
    picture().save(tmp_path / "a.png")
    broken = dark_segmenter(seed=1)
    draw = broken.draw_samples
    broken.draw_samples = lambda *arguments: draw(*arguments).map(lambda maps: maps * torch.nan)
    model = Ensemble({"a": dark_segmenter(), "b": broken})
    report = predict_pictures(model, find_pictures([tmp_path / "a.png"]), tmp_path / "out")
    assert "The model gives NaN" in report.failed[tmp_path / "a.png"]
    assert not list((tmp_path / "out").glob("*.png"))
