"""Noise that is alike in near slices of a volume."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from helpers.dark_disc import bright_segmenter
from helpers.mri_files import data_module, modality, write_brats2015, write_nifti

from diffmedseg.errors import DataError
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.prediction import Naming, Settings, find_cases, predict_volumes
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.prediction.volumes.segmenting import Kept, segment_volume
from diffmedseg.prediction.volumes.slices import SliceRun

CHANNELS = ("flair", "t1ce")


def cases(folder):
    return find_cases([folder], Naming(CHANNELS, {}))


def write(folder):
    for number, name in enumerate(CHANNELS):
        write_nifti(folder / f"{name}.nii.gz", modality(number))  # slices of 2 mm
    return cases(folder.parent)


@pytest.mark.parametrize("length", [0, 6])
def test_a_prediction_has_the_noise_of_the_test(length, tmp_path):
    write_brats2015(tmp_path / "in", ["brats_2013_pat0003_1", "brats_2013_pat0004_1", "brats_2013_pat0105_1"])
    data = data_module("brats2015", tmp_path / "in", image_size=32)
    data.prepare_data()
    data.setup("test")
    model = bright_segmenter(CHANNELS, data.info.regions, slice_correlation=length)
    tested = {}
    for batch in data.test_dataloader():
        found = model.test_step(data.on_after_batch_transfer(batch, 0), 0)["segmentation"]
        for case, index, samples in zip(batch["case"], batch["index"], found.binary_samples, strict=True):
            tested[case, index] = samples
    [found] = [one for one in cases(tmp_path / "in") if one.name == case]
    volume = read_case(found)

    def unlike(model, settings, batch_size):
        samples = segment_volume(SliceRun(model, volume, case, settings.filled_from(model), batch_size)).samples
        pairs = [(samples[:, :, index], one) for (name, index), one in tested.items() if name == case]
        return float(torch.stack([(a != b).float().mean() for a, b in pairs]).mean())

    shared = unlike(bright_segmenter(CHANNELS, data.info.regions), Settings(), 4)
    for batch_size in (1, 4):
        assert unlike(model, Settings(), batch_size) < shared / 4  # the cache keeps 16 bits
    other = bright_segmenter(CHANNELS, data.info.regions)
    assert unlike(other, Settings(slice_correlation=length), 4) < shared / 4


def test_slices_share_noise_by_their_distance(tmp_path):
    """Slices that look alike differ by their noise alone."""
    [case] = write(tmp_path / "in" / "p")
    volume = read_case(case)
    flat = np.full_like(volume.channels[0], 100)
    flat[:, 10:] = 130  # which the model finds in half of all draws
    volume = replace(volume, channels=[flat, flat], brain=np.ones_like(volume.brain))
    model = bright_segmenter(CHANNELS, num_samples=8)

    def unlike(length):
        settings = Settings(slice_correlation=length).filled_from(model)
        samples = segment_volume(SliceRun(model, volume, "p", settings, 4), Kept(samples=True)).full_samples[:][:, 0]
        return [float((samples[:, :-far] != samples[:, far:]).mean()) for far in (1, 4)]

    assert unlike(None) == [0, 0]
    near, far = unlike(8.0)
    assert 0 < near < 0.75 * far
    near, far = unlike(0)
    assert near == pytest.approx(far, rel=0.1)


def test_the_setting_is_recorded(tmp_path):
    found = write(tmp_path / "in" / "p")
    model = bright_segmenter(CHANNELS)
    predict_volumes(model, found, tmp_path / "out", Settings(slice_correlation=4.5))
    assert yaml.safe_load((tmp_path / "out" / "predictions.yaml").read_text())["slice_correlation"] == 4.5
    predict_volumes(model, found, tmp_path / "shared")
    assert "slice_correlation" not in (tmp_path / "shared" / "predictions.yaml").read_text()
    with pytest.raises(DataError, match=r"slice_correlation 4\.5 then and None now"):
        predict_volumes(model, found, tmp_path / "out", resume=True)


def test_intervals_of_volume_hold_for_the_noise_they_were_fitted_with(tmp_path):
    found = write(tmp_path / "in" / "p")
    model = bright_segmenter(CHANNELS, slice_correlation=4.0)
    model.conformal = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, model.num_samples, model.num_steps)
    assert predict_volumes(model, found, tmp_path / "own").failed == {}
    [reason] = predict_volumes(model, found, tmp_path / "out", Settings(slice_correlation=0)).failed.values()
    assert "fitted with another --slice_correlation" in reason


@pytest.mark.parametrize("length", [-1, float("nan"), float("inf")])
def test_what_is_no_distance_is_refused(length):
    for make in (
        lambda: Settings(slice_correlation=length),
        lambda: bright_segmenter(CHANNELS, slice_correlation=length),
    ):
        with pytest.raises(ValueError, match="expected a distance in mm"):
            make()


def test_slices_segmented_together_or_alone_have_the_same_noise():
    model = bright_segmenter(CHANNELS, slice_correlation=6.0)
    images = torch.linspace(-1, 0.9, 5 * 2 * 32 * 32).reshape(5, 2, 32, 32)
    together = model.segment(images, spacing=(2, 1, 1), keys=["p"] * 5)
    batch = {"case": ["p", "q", "p"], "index": [3, 0, 1], "spacing": [(2.0, 1.0, 1.0), None, (2.0, 1.0, 1.0)]}
    keys = model.noise_keys(batch)
    assert keys == ["p", "q", "p"]
    apart = model.segment(images[[3, 0, 1]], keys=keys)
    assert torch.equal(apart.samples[[0, 2]], together.samples[[3, 1]])
    plain = bright_segmenter(CHANNELS).segment(images[:1], keys=["q"])
    assert torch.equal(apart.samples[1], plain.samples[0])  # an image that is no slice


def test_a_slice_that_does_not_say_where_it_lies_is_refused():
    model = bright_segmenter(CHANNELS, slice_correlation=6.0)
    with pytest.raises(ValueError, match=r"slice 2 of p has no distance of slices\. Give spacing"):
        model.noise_keys({"case": ["p"], "index": [2], "spacing": [None]})
