"""Weights in float16: which are rounded, and what is refused because its output would change."""

import pytest
import torch
from helpers.tiny_run import tiny_data, tiny_model
from safetensors.torch import load_file

from diffmedseg import load_pretrained, zoo
from diffmedseg.cli import main
from diffmedseg.data import SyntheticDataModule
from diffmedseg.errors import DataError
from diffmedseg.models import SMPNetwork, SupervisedSegmenter
from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo import Source, ZooError, storing
from diffmedseg.zoo.checking import example_image, verify_entry
from diffmedseg.zoo.storing import CheckImage, compare, store_weights, validation_images


@pytest.fixture
def baseline():
    """A model with BatchNorm, whose statistics are no numbers of float16."""
    torch.manual_seed(0)
    network = SMPNetwork(3, 1, encoder="mobilenetv3_small_050", decoder_channels=[8] * 5)
    for _ in range(3):
        network.maps(torch.rand(2, 3, 32, 32) * 2 - 1)
    return SupervisedSegmenter(network, image_size=(32, 32)).eval()


def stored(model, dtype="float16", weights=None, **data):
    weights = weights or {name: value.clone() for name, value in model.state_dict().items()}
    return store_weights(model, weights, dtype, tiny_data(image_size=32, **data), example_image(model).float())


def test_parameters_are_rounded_and_statistics_are_not(baseline):
    given = {name: value.clone() for name, value in baseline.state_dict().items()}
    found, storage = stored(baseline)
    parameters = dict(baseline.named_parameters())
    assert found.keys() == given.keys()
    for name, value in found.items():
        assert value.dtype == (torch.float16 if name in parameters else given[name].dtype)
        if name not in parameters:
            assert torch.equal(value, given[name])
    assert "network.encoder" in next(name for name in found if name.endswith("running_var"))
    assert 0 < storage.probability <= storing.PROBABILITY
    assert storage.checked_on == "4 validation images"
    assert all(torch.equal(found[name].float(), value) for name, value in parameters.items())  # it has what users load


def test_buffers_that_float16_holds_are_rounded(baseline):
    weights = {name: value.clone() for name, value in baseline.state_dict().items()}
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name] = weights[name].half().float()
    assert stored(baseline, weights=weights)[0][name].dtype == torch.float16


def test_float32_changes_nothing(baseline):
    weights = {name: value.clone() for name, value in baseline.state_dict().items()}
    found, storage = stored(baseline, "float32")
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    assert "changes nothing" in storage.summary()


def test_a_change_of_the_output_is_refused_with_its_number(baseline, monkeypatch):
    monkeypatch.setattr(storing, "PROBABILITY", 1e-9)
    with pytest.raises(ZooError, match=r"The probability of an image changes by 0\.\d{4} .*at most 1e-09 .*float32"):
        stored(baseline)


@pytest.mark.parametrize(("value", "remedy"), [(1e6, "Export with --dtype float32"), (float("nan"), "has diverged")])
def test_weights_that_float16_cannot_hold_are_refused(baseline, value, remedy):
    weights = {name: value.clone() for name, value in baseline.state_dict().items()}
    name = next(name for name, _ in baseline.named_parameters())
    weights[name] = torch.full_like(weights[name], value)
    with pytest.raises(ZooError, match=f"{name} is not finite as torch.float16. .*{remedy}"):
        stored(baseline, weights=weights)


def result(probability, mask):
    soft = torch.full((1, 1, 4, 4), probability)
    return Segmentation(soft[None], soft, soft * 0, mask)


def test_differences_are_of_the_worst_image_and_of_the_mean():
    empty, full = torch.zeros(1, 1, 4, 4, dtype=torch.bool), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    half = full.clone()
    half[..., 2:, :] = False  # its Dice with all is 2/3
    images = [CheckImage(full.float(), name, full.float()) for name in "abc"]
    before = [result(0.5, full), result(0.5, full), result(0.5, half)]
    after = [result(0.6, half), result(0.5, full), result(0.5, half)]
    storage = compare(images, before, after, "float16", "three")
    assert (storage.probability, storage.samples) == (0.1, 0.1)
    assert (storage.dice, storage.mean_dice) == (0.333333, 0.111111)
    unknown = [CheckImage(full.float(), "a")]
    assert compare(unknown, [result(0.5, full)], [result(0.5, empty)], "float16", "one").dice == 1


def test_slices_of_a_volume_count_together():
    full, none = torch.ones(1, 1, 4, 4, dtype=torch.bool), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    small, pixel = none.clone(), none.clone()
    small[..., 0, :2] = pixel[..., 0, 0] = True
    images = [CheckImage(none.float(), "volume", mask.float()) for mask in (full, full, small)]
    before, after = ([result(0.5, mask) for mask in (full, full, last)] for last in (small, pixel))
    # One of 34 pixels is lost. In the last slice alone Dice would fall by a third.
    assert compare(images, before, after, "float16", "three").dice == pytest.approx(1 - 66 / 67, abs=1e-6)


@pytest.mark.parametrize(
    "values", [(0.1, 0, 0, 0), (0, 0.1, 0, 0), (0, 0, 0.1, 0), (0, 0, 0, 0.1), (float("nan"), 0, 0, 0)]
)
def test_each_difference_has_a_limit(values):
    from diffmedseg.zoo.registry import Storage

    with pytest.raises(ZooError, match="changes by"):
        storing._refuse_changes(Storage("float16", "one", *map(float, values)))


def test_images_are_spread_over_the_validation_split():
    data = tiny_data(num_val=40)
    images = validation_images(tiny_model().eval(), data)
    keys = [image.key for image in images]
    assert len(set(keys)) == storing.IMAGES
    assert {int(key.rpartition("-")[2]) // 20 for key in keys} == {0, 1}
    assert all(image.mask.any() for image in images)


def test_without_the_data_the_made_up_image_is_compared(run, tmp_path, monkeypatch):
    def load(self, split):
        raise DataError("data/x holds nothing: download it.")

    monkeypatch.setattr(SyntheticDataModule, "load", load)
    folder = zoo.export(run, "a_b.c", tmp_path / "zoo")
    storage = Source(tmp_path / "zoo").entries()["a_b.c"].storage
    assert "one made-up image" in storage.checked_on
    assert "one made-up image" in (folder / "README.md").read_text()


def test_the_command_says_what_rounding_changed_and_verifying_still_works(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    main(["zoo", "export", str(run), "--name", "a_b.half"])
    printed = capsys.readouterr().out
    assert "compared on 2 validation images. The largest differences were" in " ".join(printed.split())
    main(["zoo", "export", str(run), "--name", "a_b.whole", "--dtype", "float32"])
    half, full = (load_file(tmp_path / "zoo" / name / "model.safetensors") for name in ("a_b.half", "a_b.whole"))
    assert {value.dtype for value in full.values() if value.is_floating_point()} == {torch.float32}
    loaded = load_pretrained("a_b.half").state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in half.items() if value.is_floating_point())
    for name in ("a_b.half", "a_b.whole"):
        assert verify_entry(Source(tmp_path / "zoo"), name) < 1e-3
