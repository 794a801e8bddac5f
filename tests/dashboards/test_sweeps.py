"""Sweeps call the command line with what it takes."""

import pytest
import yaml
from helpers.composing import compose, name
from helpers.tiny_run import EXPERIMENTS

SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))


def ends(parameter):
    """The values of a parameter between which all others lie."""
    return [*parameter.get("values", []), *(parameter[key] for key in ("min", "max") if key in parameter)]


@pytest.mark.parametrize("sweep", SWEEPS, ids=name)
def test_a_sweep_is_understood(sweep, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    settings = yaml.safe_load(sweep.read_text())
    start, (model, data, *words) = settings["command"][:5], settings["command"][5:]
    assert start == ["${env}", "${interpreter}", "-m", "diffmedseg", "train"]
    assert words.count("${args}") == 1
    assert "--logger=wandb" in words
    assert settings["metric"]["name"] in {"val/dice", "test/dice"}
    assert settings["method"] in {"grid", "random", "bayes"}
    seen = []
    for number in range(max(len(ends(one)) for one in settings["parameters"].values())):
        values = {key: ends(one)[number % len(ends(one))] for key, one in settings["parameters"].items()}
        swept = [f"--{key}={value}" for key, value in values.items()]
        arguments = [part for word in words for part in (swept if word == "${args}" else [word])]
        words_set = [word.replace("${envvar:DIFFMEDSEG_DATA}", "/data") for word in arguments]
        cli = compose(model.replace("${envvar:MODEL}", "supervised"), data, *words_set)
        seen.append(str(cli.config))
    assert len({*seen}) == len(seen)  # each value changes something
