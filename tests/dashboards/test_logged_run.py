"""A run of the command line with W&B offline, read back."""

import json
import socket
from pathlib import Path

import pytest
import torch
import yaml
from helpers.drawing import drawing
from helpers.process_state import kept_process_state
from helpers.tiny_run import EXPERIMENTS, tiny_fit
from helpers.wandb_offline import history, records
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.dashboards.workspace import build_workspace, workspace_json

LOGGED = ("config", "history", "artifact", "environment", "run")


def read(folder):
    [run] = (folder / "wandb").glob("offline-run-*")
    return {kind: records(run, kind) for kind in LOGGED} | {"folder": run}


def artifacts(logged):
    """By type: name, aliases, files, whether it is an input, and what is said of it."""
    found = {}
    for one in logged["artifact"]:
        files = [file["path"] for file in one["manifest"]["contents"]]
        facts = json.loads(one.get("metadata") or "{}")
        entry = (one["name"], one["aliases"], files, one.get("use_after_commit", False), facts, one["digest"])
        found.setdefault(one["type"], []).append(entry)
    return found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The user's home, and the folder in which the command is run."""
    return tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, elsewhere):
    """The folder of a run that W&B logged offline, and what it logged; then of a test of its checkpoint."""
    runs = tmp_path_factory.mktemp("runs")
    home, work = elsewhere
    with kept_process_state(), drawing(True), pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("HOME", str(home))
        patch.chdir(work)
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.delenv(name, raising=False)
        main(tiny_fit(runs))
        run = runs / "medsegdiff-lite-synthetic" / "version_0"
        fit = read(run)
        main(["test", "-c", str(run / "config.yaml"), f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"])
        main(["zoo", "export", str(run), "--name", "a_b.c", "--folder", str(runs / "zoo")])
        main(tiny_fit(runs, "--trainer.max_steps=3", "--ckpt_path=last"))
    return run, fit


def test_curves_scores_tables_and_plots_are_logged(trained):
    _, fit = trained
    keys = {name.split("._type")[0] for record in fit["history"] for name in record["item"]}
    curves = ("loss", "gradient_norm", "images_per_second", "learning_rate")
    assert keys >= {f"train/{name}" for name in curves} | {"val/dice", "val/ged", "val/diversity", "test/dice"}
    assert keys >= {"val/panels", "test/panels", "test/cases", "test/reliability", "test/risk_coverage"}
    norms = [r["item"]["train/gradient_norm"] for r in fit["history"] if "train/gradient_norm" in r["item"]]
    assert len(norms) == 2
    assert min(norms) > 0


def test_the_workspace_shows_what_is_logged(trained):
    """All but what this run has none of: distances in mm, and an encoder with a learning rate of its own."""
    _, fit = trained
    keys = {name.split("._type")[0] for record in fit["history"] for name in record["item"]}
    spec = json.loads(workspace_json(build_workspace("someone", "something")))
    shown = set()
    for section in spec["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            shown |= {*config.get("metrics", []), *config.get("mediaKeys", [])}
    assert len(shown) > 10
    rates = {f"train/learning_rate/{part}" for part in ("encoder", "network")}
    assert shown - {"test/hd95"} - rates <= keys


def test_panels_have_masks_that_can_be_toggled(trained):
    _, fit = trained
    shown = [record["item"] for record in fit["history"] if "val/panels._type" in record["item"]]
    assert len(shown) == 2  # epochs; not the sanity check
    assert [item["val/panels.captions"] for item in shown] == [["val-0000", "val-0001"]] * 2
    for item in shown:
        for masks in item["val/panels.all_masks"]:
            assert set(masks) == {"reference", "fused", "sample_1", "sample_2", "disagreement"}
            for mask in masks.values():
                with Image.open(fit["folder"] / "files" / mask["path"]) as image:
                    assert image.size == (16, 16)


def test_the_table_of_cases_is_that_of_the_csv(trained):
    run, fit = trained
    [path] = (fit["folder"] / "files" / "media" / "table" / "test").glob("cases_*.json")
    table = json.loads(path.read_text())
    lines = (run / "cases.csv").read_text().splitlines()
    assert [row[0] for row in table["data"]] == [line.split(",")[0] for line in lines[1:]]
    assert table["columns"][:4] == ["case", "region", "dice", "iou"]
    assert not {"hd95", "cl_dice"} & set(table["columns"])  # which no case has
    assert all(value is None or value == value for row in table["data"] for value in row)


def test_checkpoints_are_artifacts_best_and_latest(trained):
    _, fit = trained
    best, last = artifacts(fit)["model"]
    assert (best[0], best[2], best[3]) == (last[0], ["best.ckpt"], False)
    assert "best" in best[1]
    assert last[1:4] == (["latest"], ["last.ckpt"], False)  # the later one is W&B's latest


def test_lineage_leads_from_the_data_to_the_evaluation(trained):
    run, fit = trained
    made, tested = artifacts(fit), artifacts(read(run.parent / "test_0"))
    data = {name: (used, facts["fingerprint"]) for name, _, _, used, facts, _ in made["dataset"]}
    assert set(data) == {"synthetic-train", "synthetic-val", "synthetic-test"}
    assert all(used for used, _ in data.values())
    config = [record["update"]["fingerprints"] for record in fit["config"] if "fingerprints" in record["update"]]
    assert config[-1] == {name.split("-")[1]: fingerprint for name, (_, fingerprint) in data.items()}
    assert made["model"][0][4]["fingerprints"]["train"] == data["synthetic-train"][1]
    # The test of the checkpoint takes the very version of data and model that the training logged.
    assert [one[0] for one in tested["dataset"]] == ["synthetic-test"]
    assert tested["dataset"][0][5] == next(one[5] for one in made["dataset"] if one[0] == "synthetic-test")
    [(name, _, _, used, _, digest)] = tested["model"]
    assert (name, used, digest) == (made["model"][0][0], True, made["model"][0][5])
    for logged in (made, tested):
        [(_, _, files, used, facts, _)] = logged["evaluation"]
        assert (files, used) == (["cases.csv", "metrics.json", "panel.png", "report.html"], False)
        assert facts["fingerprint"] == data["synthetic-test"][1]
        assert len(facts["checkpoint"]) == 64


def entries(folder):
    return [one for one in records(folder, "artifact") if one["type"] == "zoo-entry"]


def test_an_export_and_a_run_that_goes_on_are_the_same_w_and_b_run(trained):
    run, fit = trained
    folders = set((run / "wandb").glob("offline-run-*"))
    [export] = [folder for folder in folders if entries(folder)]
    first, [resumed] = fit["folder"], folders - {fit["folder"], export}
    assert len({record["run_id"] for folder in folders for record in records(folder, "run")}) == 1
    [entry] = entries(export)
    assert entry["name"] == "a_b.c"
    assert {file["path"] for file in entry["manifest"]["contents"]} == {
        *(
            "README.md",
            "cases.csv",
            "cases.png",
            "config.yaml",
            "example.safetensors",
            "metrics.json",
            "model.safetensors",
            "run.yaml",
        )
    }
    trained_steps = [
        [record["item"]["trainer/global_step"] for record in history(one) if "train/loss" in record["item"]]
        for one in (first, resumed)
    ]  # a test is logged at the step of the best checkpoint, whichever that is
    assert trained_steps == [[0, 1], [2]]


def test_the_config_is_logged_and_nothing_of_the_machine(trained, elsewhere):
    run, fit = trained
    config = next(one["update"] for one in fit["config"] if "experiment" in one["update"])
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {name: config[name] for name in ("model", "data", "ema")} == {
        name: saved[name] for name in ("model", "data", "ema")
    }
    assert not fit["environment"]
    text = json.dumps({kind: fit[kind] for kind in ("config", "history", "run")})
    assert str(Path(torch.__file__).parents[1]) not in text
    assert json.dumps(socket.gethostname()) not in text
    assert str(elsewhere[1]) not in text


def test_an_offline_run_leaves_nothing_outside_its_folder(trained, elsewhere):
    home, work = elsewhere
    assert not [path for path in home.rglob("*") if "wandb" in path.parts]
    assert not list(work.iterdir())


def test_what_was_written_is_listed_without_w_and_bs_own(trained, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    main(["test", "-c", str(run / "config.yaml"), f"-c={EXPERIMENTS / 'logger' / 'wandb.yaml'}", f"--runs={tmp_path}"])
    printed = capsys.readouterr().out
    assert "cases.csv" in printed
    assert "\n  wandb/" not in printed
