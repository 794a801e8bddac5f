"""Several models by name: lists, experiments and patterns, in Python and on the command line."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers.dark_disc import picture
from helpers.tiny_run import load
from PIL import Image

from diffmedseg import load_model, load_pretrained
from diffmedseg.cli import main
from diffmedseg.errors import ZooError
from diffmedseg.zoo.members import find_members, names_models

ENTRY = "medsegdiff-lite_synthetic.tiny"
QUICK = ["--num_samples=4", "--num_steps=1"]

#: Settings that a test of an ensemble does not take, and what is said of them.
WRONG = {
    "--model.prior_share=0.1": "--model.prior_share cannot be changed in a trained ensemble",
    "--model.num_samples=1": "num_samples is 1, and there are 2 members and views",
    "--model.num_steps=0": "--model.num_steps: '0' is not a whole number of at least 1",
    "--model.threshold=2": "--model.threshold: '2' is not a number between 0 and 1",
    "--model.tta=turns": "tta is 'turns'; it may be none or flips",
}


@pytest.fixture
def experiment(run):
    """An experiment with two runs that differ in their weights, one that has no checkpoint yet, and a test."""
    other = run.parent / "version_1"
    shutil.copytree(run, other)
    for path in (other / "checkpoints").glob("*.ckpt"):
        checkpoint = load(path)
        checkpoint["state_dict"] = {
            name: value * 0.9 if value.is_floating_point() and "denoiser" in name else value
            for name, value in checkpoint["state_dict"].items()
        }
        checkpoint["hyper_parameters"]["seed"] = 1
        torch.save(checkpoint, path)
    (run.parent / "version_2").mkdir()
    (run.parent / "test_0").mkdir()
    return run.parent


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def test_an_experiment_is_all_of_its_runs(experiment):
    runs = [str(experiment / f"version_{i}") for i in (0, 1)]
    assert find_members(experiment) == find_members(f"{experiment}/version_*") == runs
    assert find_members(f"{experiment.parent}/*") == runs
    assert find_members(runs[0]) == runs[:1]
    assert find_members(ENTRY) == [ENTRY]
    assert list(load_model(experiment).members) == runs
    (experiment / "version_2" / "checkpoints").mkdir()
    shutil.copy(experiment / "version_0/checkpoints/last.ckpt", experiment / "version_2/checkpoints/last.ckpt")
    with pytest.warns(UserWarning, match=r"version_2 has no checkpoints/best.ckpt yet and is left out"):
        assert find_members(experiment) == runs
    config = experiment / "version_2" / "config.yaml"
    config.write_text("trainer: {limit_val_batches: 0}")  # never validates: its last checkpoint is what it chose
    assert find_members(experiment) == [*runs, str(experiment / "version_2")]
    config.unlink()
    for name in ("version_0", "version_1"):
        shutil.rmtree(experiment / name)
    with pytest.raises(ZooError, match=r"has a checkpoints/best.ckpt yet\. Wait"):
        find_members(experiment)
    with pytest.raises(ZooError, match="matches no run"):
        find_members(f"{experiment}/nothing_*")


def test_what_names_models(experiment, photos):
    run = experiment / "version_0"
    for name in (run, experiment, run / "checkpoints/best.ckpt", f"{experiment}/version_[01]", ENTRY):
        assert names_models(str(name)), name
    for name in (photos, photos / "a.png", f"{photos}/*.png", "nothing", f"{experiment}/*", experiment / "test_0"):
        assert not names_models(str(name)), name


def test_lists_are_loaded(run):
    assert load_pretrained([ENTRY]).name == "medsegdiff"
    ensemble = load_pretrained([ENTRY, "supervised_isic2017.cpu64"])
    assert list(ensemble.members) == [ENTRY, "supervised_isic2017.cpu64"]
    assert not ensemble.training
    with pytest.raises(ZooError, match=f"{ENTRY} is named twice. Name each member of an ensemble once"):
        load_pretrained([ENTRY, ENTRY])
    with pytest.raises(ZooError, match=r"cannot form an ensemble: their channels are red/green/blue and flair/t1ce"):
        load_model([ENTRY, "supervised_brats2015.cpu64"])


def test_a_run_is_one_member_whatever_its_path(experiment, monkeypatch):
    monkeypatch.chdir(experiment.parent)
    run = experiment / "version_0"
    for other in (f"{run}/", f"{experiment.name}/version_0", run / "checkpoints/best.ckpt"):
        with pytest.raises(ZooError, match=rf"named twice: it is the same as {run}\. Name each member"):
            load_model([run, other])


def test_a_model_where_an_input_belongs_is_said(photos, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        ([ENTRY, "supervised_isic2017.cpu64"], "supervised_isic2017.cpu64 is a model, and no input follows it"),
        ([ENTRY, "supervised_isic2017.cpu6", str(photos)], "Did you mean supervised_isic2017.cpu64"),
        ([ENTRY, "fotos"], "There is no file or folder fotos"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["predict", *arguments, *out])


def test_predict_takes_all_models_before_the_first_input(experiment, photos, tmp_path, capsys):
    runs, out = [str(experiment / f"version_{i}") for i in (0, 1)], tmp_path / "out"
    command = ["predict", *runs, str(photos), "--out", str(out), *QUICK]
    main(command)
    said = capsys.readouterr().err
    assert f"Ensemble of 2 models: {runs[0]}, {runs[1]}" in said
    settings = yaml.safe_load((out / "predictions.yaml").read_text())
    assert list(settings["members"]) == runs
    assert (settings["num_samples"], settings["num_steps"], settings["seed"]) == (4, 1, None)
    image = Image.open(photos / "a.png")
    found = load_model(runs).segment(image, 4, 1, keys=["a"])
    probability = torch.from_numpy(np.array(Image.open(out / "a_probability.png"))) / 255
    assert (probability - found.probability[0, 0]).abs().max() < 0.05  # predict shrinks pictures as it reads them
    main([*command, "--resume"])
    assert "kept 1" in capsys.readouterr().err
    for other in (
        [*command[:2], *command[3:]],
        ["predict", *runs[::-1], *command[3:]],
        [*command, "--tta=flips", "--num_samples=8"],
    ):
        with pytest.raises(SystemExit, match="was predicted with other settings"):
            main([*other, "--resume"])
    main(["predict", str(experiment), str(photos), "--out", str(tmp_path / "all"), *QUICK])
    assert (tmp_path / "all" / "a_probability.png").read_bytes() == (out / "a_probability.png").read_bytes()


def test_predict_refuses_too_few_samples_and_members_that_disagree(experiment, photos, tmp_path):
    where = [str(photos), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="error: num_samples is 4, and there are 8 members and views"):
        main(["predict", str(experiment), *where, *QUICK, "--tta=flips"])
    with pytest.raises(SystemExit, match=r"error: .* cannot form an ensemble: their channels are"):
        main(["predict", ENTRY, "supervised_brats2015.cpu64", *where])
    assert not (tmp_path / "out").exists()


def test_evaluate_scores_an_ensemble_as_a_run(experiment, tmp_path, capsys):
    main(["evaluate", str(experiment), "--tta=flips", "--model.num_steps=1", f"--runs={tmp_path}"])
    folder = tmp_path / "ensemble" / "test_0"
    policy = json.loads((folder / "metrics.json").read_text())["policy"]
    assert policy["members"] == [str(experiment / f"version_{i}") for i in (0, 1)]
    assert (policy["tta"], policy["num_steps"]) == ("flips", 1)
    assert policy["network"].startswith("Ensemble of MedSegDiff-Lite")
    with (folder / "cases.csv").open(newline="") as file:
        assert {row["num_samples"] for row in csv.DictReader(file)} == {"8"}
    assert not (folder / "config.yaml").exists()  # of the first member alone
    main(["compare", f"first={experiment / 'version_0'}", f"both={folder}", "--scores=dice", "--format=csv"])
    assert {row["test"] for row in csv.DictReader(capsys.readouterr().out.splitlines()[-3:])}
    for setting, said in WRONG.items():
        with pytest.raises(SystemExit, match=f"error: {said}"):
            main(["evaluate", str(experiment), setting, f"--runs={tmp_path / 'wrong'}"])
    assert not (tmp_path / "wrong").exists()


def test_an_ensemble_of_one_scores_as_the_run(run, tmp_path):
    """By way of a checkpoint and a pattern, which are tested alike."""
    main(["evaluate", f"{run.parent}/version_*", f"--runs={tmp_path}", "--experiment=one"])
    first, again = (list(csv.DictReader((one / "cases.csv").open())) for one in (run, tmp_path / "one" / "test_0"))
    for row in (*first, *again):
        row.pop("seconds")
    assert first == again


def test_calibrate_keeps_the_augmentation_that_it_was_fitted_with(run):
    main(["calibrate", str(run), "--tta=flips"])
    model = load_model(run)
    assert (model.tta, model.fitted_tta) == ("flips", "flips")
    settings = yaml.safe_load((run / "calibration.yaml").read_text())["model"]["init_args"]
    assert (settings["tta"], settings["fitted_tta"]) == ("flips", "flips")
    assert model.segment(torch.rand(1, 3, 16, 16) - 0.5).samples.shape[1] == 4
    assert load(run / "checkpoints/best.ckpt")["hyper_parameters"]["tta"] == "none"
