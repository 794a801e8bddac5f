"""The scripts under experiments/benchmarks, as far as that takes no training."""

import csv

import choices
import isic2017_result
import pytest
from test_cli import instantiate
from tiny_run import EXPERIMENTS


@pytest.mark.parametrize("variant", choices.VARIANTS)
def test_every_variant_changes_something(variant):
    files = [EXPERIMENTS / "base.yaml", EXPERIMENTS / "medsegdiff" / "synthetic.yaml"]
    changed, first = (instantiate(files, *choices.FIRST, *changes) for changes in (choices.VARIANTS[variant], []))
    same = str(changed.config.model) == str(first.config.model)
    assert same == (variant in {choices.START, choices.CONTROL})


def test_table_of_choices(tmp_path, monkeypatch, capsys):
    columns = {"start": 0.8, "dice=1": 0.9, "no EMA": 0.8}
    with (tmp_path / "choices_isic2017.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = [f"{name}.{seed}" for name in columns for seed in (0, 1)]
        writer.writerow(["case", *(f"{name}.{score}" for name in names for score in ("dice", "diversity"))])
        for case in range(20):
            own = [columns[name.rsplit(".", 1)[0]] + case / 1000 for name in names]
            writer.writerow([case, *(value for dice in own for value in (dice, 0.25))])
    monkeypatch.setattr(choices, "__file__", str(tmp_path / "choices.py"))
    choices.table("isic2017")
    printed = capsys.readouterr().out
    assert "| start | 0.8095 |  |  |  | 0.250 |" in printed
    assert "| dice=1 | 0.9095 | +0.1000 | +0.1000 to +0.1000 | +0.1000, +0.1000 | 0.250 |" in printed


def test_table_of_the_result(tmp_path, capsys):
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "seed", "case", *isic2017_result.COLUMNS])
        for number, model in enumerate((*isic2017_result.MODELS, isic2017_result.BOTH)):
            for seed in (0, 1):
                for case in range(10):
                    dice = 0.8 + 0.05 * number + case / 100
                    writer.writerow([model, seed, case, dice, dice, 1 - dice, 1 - dice])
    isic2017_result.table(tmp_path / "scores.csv")
    printed = capsys.readouterr().out
    assert "| medsegdiff less supervised | -0.0500 | -0.0500 to -0.0500 | -0.050, -0.050 |" in printed
    assert "| medsegdiff | uncertainty | -1.00, -1.00 | 0.870 | 0.820 |" in printed
