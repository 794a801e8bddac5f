"""Unfamiliar images are told from new cases that are like the validation cases."""

import csv
import json
import shutil
import warnings

import pytest
import torch
from helpers.dark_disc import dark_segmenter
from helpers.small_networks import concrete_denoisers, small
from helpers.tiny_run import tiny_model
from PIL import Image
from safetensors.torch import load_file

from diffmedseg import load_checkpoint, load_pretrained
from diffmedseg.cli import main
from diffmedseg.configurable import to_config
from diffmedseg.errors import TooFewCasesError
from diffmedseg.evaluation import calibrating
from diffmedseg.familiarity import Familiarity
from diffmedseg.prediction import find_pictures, predict_pictures
from diffmedseg.zoo import Source, ZooError, build, export
from diffmedseg.zoo.checking import verify_entry
from diffmedseg.zoo.familiarising import add_familiarity


def drawn(number, seed, size=6):
    """Features of cases that are all drawn alike."""
    return torch.randn(number, size, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, size + 1)


def names(number):
    return [f"case-{i}" for i in range(number)]


def fit(number, seed=0, size=6):
    return Familiarity.fit(drawn(number, seed, size), names(number))


@pytest.mark.parametrize("number", [19, 120])
def test_of_new_cases_no_more_are_unfamiliar_than_the_level_says(number):
    """Over 150 fits with 20 new cases each; the bound is three standard deviations of as many independent fits."""
    warned = []
    for seed in range(150):
        fitted = fit(number, seed)
        warned.append(float((fitted(drawn(20, 10_000 + seed)) <= fitted.level).float().mean()))
    rate, spread = torch.tensor(warned).mean(), torch.tensor(warned).std() / 150**0.5
    assert fitted.level <= 0.05
    assert rate <= fitted.level + 3 * spread
    assert rate > 0


def test_what_is_far_away_has_the_lowest_familiarity_and_a_fitted_case_a_high_one():
    fitted = fit(40)
    assert fitted(drawn(3, 1) + 100).tolist() == pytest.approx([1 / 41] * 3)
    assert fitted(drawn(40, 0)).min() > 0.9  # their nearest neighbours are themselves
    assert (fitted(torch.full((1, 6), torch.finfo(torch.float32).max / 1e10)) <= fitted.level).all()


def test_few_cases_are_refused_and_many_are_thinned():
    with pytest.raises(TooFewCasesError, match=r"18 cases: too few .* 19 are needed"):
        fit(18)
    assert fit(1201).cases == 401


def test_slices_of_a_case_are_taken_together():
    features, cases = drawn(60, 0), names(60)
    fitted = Familiarity.fit(torch.cat([features - 1, features + 1]), cases * 2)
    alone = Familiarity.fit(features, cases)
    assert (fitted.by_slices, alone.by_slices) == (True, False)
    assert torch.allclose(fitted.points, alone.points, atol=1e-2)
    model = tiny_model()
    model.familiarity = Familiarity(20, 2, by_slices=True)
    assert model.segment(torch.zeros(1, 3, 16, 16)).familiarity is None  # a slice alone is no case


@pytest.mark.parametrize("network", concrete_denoisers())
def test_every_network_has_features_of_an_image_alone(network):
    model = tiny_model(image_size=(32, 32))
    model.denoiser = small(network)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together, alone = model.features(images), torch.cat([model.features(one[None]) for one in images])
    assert together.shape[0] == 3
    assert torch.isfinite(together).all()
    assert torch.allclose(together, alone, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(together, model.features(images), atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def skin(number, seed=0, side=32):
    """Bright images with little noise."""
    return (0.2 + 0.3 * torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


def fitted_segmenter(number=40):
    model = dark_segmenter()
    model.familiarity = Familiarity.fit(model.features(skin(number)), names(number))
    return model


def test_segmenting_warns_once_of_a_black_image():
    model = fitted_segmenter()
    black = torch.full((1, 3, 32, 32), -1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        usual = model.segment(skin(40)[:2])
        dark_segmenter().segment(black)  # without a familiarity
    assert usual.familiarity.shape == (2,)
    with pytest.warns(UserWarning, match="unlike the images this model was validated on") as warned:
        found = model.segment(torch.cat([black, skin(40)[:1]]))
    assert len(warned) == 1
    assert found.familiarity[0] == pytest.approx(1 / 41)
    assert found.familiarity[1] > model.familiarity.level
    assert dark_segmenter().segment(black).familiarity is None


def test_predicting_notes_and_reports_it(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        pixels = ((skin(40)[number] + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "in" / f"skin{number}.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "black.png")
    files, model = find_pictures([tmp_path / "in"]), fitted_segmenter()
    report = predict_pictures(model, files, tmp_path / "out", batch_size=2)
    assert [path.name for path in report.notes if path.parent == tmp_path / "in"] == ["black.png"]
    assert "familiarity 0.024" in report.notes[tmp_path / "in" / "black.png"]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["image"]: float(row["familiarity"]) for row in csv.DictReader(file)}
    assert rows["black"] == pytest.approx(1 / 41, abs=1e-4)
    assert min(rows["skin0"], rows["skin1"]) > model.familiarity.level
    again = predict_pictures(model, files, tmp_path / "out", resume=True)
    assert len(again.kept) == 3
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert {row["image"]: float(row["familiarity"]) for row in csv.DictReader(file)} == rows
    silent = predict_pictures(dark_segmenter(), files, tmp_path / "plain")
    assert not any(path.parent == tmp_path / "in" for path in silent.notes)
    assert "familiarity" not in (tmp_path / "plain" / "predictions.csv").read_text()


def test_a_run_is_fitted_and_its_entry_keeps_it(run, monkeypatch, capsys):
    """The tiny run has two validation cases: here are the images of many."""
    main(["calibrate", str(run)])
    assert "No warning of unfamiliar images: 2 cases: too few" in capsys.readouterr().out
    assert "19 are needed" in json.loads((run / "calibration.json").read_text())["without_familiarity"]
    assert load_checkpoint(run).familiarity is None
    images = skin(30, side=16)
    monkeypatch.setattr(
        calibrating, "fit_familiarity", lambda model, data: Familiarity.fit(model.features(images), names(30))
    )
    main(["calibrate", str(run)])
    assert "with a familiarity of 0.032 or less" in capsys.readouterr().out
    model = load_checkpoint(run)
    expected = model.familiarity(model.features(skin(9, 3, side=16)))
    best = load_checkpoint(run / "checkpoints" / "best.ckpt")
    assert best.familiarity is None
    # Tests build the model from calibration.yaml, which has none.
    best.load_state_dict(torch.load(run / "checkpoints" / "calibrated.ckpt", weights_only=True)["state_dict"])
    main(["evaluate", str(run), f"--runs={run / 'tests'}"])
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(run / "zoo"))
    entry = export(run, "a_b.c")
    assert "30 validation cases" in (entry / "README.md").read_text()
    again = load_pretrained("a_b.c")
    for name, value in model.familiarity.state_dict().items():
        assert torch.equal(value, again.familiarity.state_dict()[name])
    assert again.familiarity(again.features(skin(9, 3, side=16))).tolist() == pytest.approx(expected.tolist(), abs=0.1)
    assert verify_entry(Source(run / "zoo"), "a_b.c") < 1e-3


def test_an_entry_of_before_takes_one_on(run, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(run / "zoo"))
    folder = export(run, "a_b.c")
    before, plain = load_file(folder / "model.safetensors"), load_pretrained("a_b.c")
    assert plain.familiarity is None
    fitted = Familiarity.fit(plain.features(skin(30, side=16)), names(30))
    add_familiarity(Source(run / "zoo"), "a_b.c", fitted)
    model, after = load_pretrained("a_b.c"), load_file(folder / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(model.familiarity.points, fitted.points)
    assert verify_entry(Source(run / "zoo"), "a_b.c") < 1e-3
    assert not list(folder.glob("*.before"))
    assert "**Unfamiliar images**" in (folder / "README.md").read_text()
    with pytest.raises(ZooError, match="has a familiarity already"):
        add_familiarity(Source(run / "zoo"), "a_b.c", fitted)
    shutil.rmtree(folder)


def test_it_is_built_again_from_its_config_and_weights():
    fitted = fit(30)
    again = build(to_config(fitted))
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again(drawn(5, 2)), fitted(drawn(5, 2)))


def test_a_model_saves_what_it_was_given():
    model = fitted_segmenter()
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["familiarity"]["init_args"]["cases"] == 40
    assert checkpoint["state_dict"]["familiarity.points"].shape == (40, 6)
