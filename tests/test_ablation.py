"""The script of the paper's ablation: what its variants are, and the table that it makes."""

import csv

import ablation
import pytest
from helpers.composing import compose

from diffmedseg.data.splits import write_splits
from diffmedseg.files import read_yaml
from diffmedseg.models import MedSegDiffLite, MedSegDiffV1, ResidualUNet


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_variants_differ_in_what_they_say(variant):
    model, changes = ablation.VARIANTS[variant]
    network = compose(model, "synthetic", *changes).model.denoiser
    if (other := {"lite": MedSegDiffLite, "supervised": ResidualUNet}.get(variant)) is not None:
        assert isinstance(network, other)
        return
    assert isinstance(network, MedSegDiffV1)
    joins = list(network.dynamic.values())
    encodes = any(join.affinity for join in joins)
    filters = any("filter" in name for name, _ in network.named_parameters())
    assert encodes == (variant in {"V1", "without FF-Parser"})
    assert filters == (variant in {"V1", "without dynamic encoding"})


def test_every_run_takes_the_same_steps(monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(ablation, "train_run", lambda *arguments: runs.append(arguments))
    ablation.train("lidc", tmp_path, steps=7, seeds=[3, 4], settings=["--data.reported=tenth"])
    assert len({(folder, name) for folder, name, *_ in runs}) == 2 * len(ablation.VARIANTS)
    for _, name, model, data, settings in runs:
        assert data == "lidc"
        assert {"--trainer.max_steps=7", f"--data.root={tmp_path}", "--data.reported=tenth"} <= set(settings)
        assert f"--seed_everything={name[-1]}" in settings
        assert model == {"lite": "medsegdiff-lite", "supervised": "supervised"}.get(name[:-2], "medsegdiff")


def write_cases(runs, variant, seed, dice):
    path = runs / "lidc" / "64px" / "7" / ablation._name(variant, seed) / "version_0" / "cases.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "region", "patient", "dice", "ged_unbiased", "diversity"])
        writer.writeheader()
        for case, value in dice.items():
            scores = {"dice": value, "ged_unbiased": "", "diversity": 0.25}
            writer.writerow({"case": case, "region": "nodule", "patient": case[0]} | scores)


def test_the_table_pairs_patients(tmp_path, capsys):
    for seed in (0, 1):
        write_cases(tmp_path, "V1", seed, {"a1": 0.8, "a2": 0.6, "b1": 0.5})
        write_cases(tmp_path, "without both", seed, {"a1": 0.7, "a2": 0.5, "b1": 0.5 - 0.1 * seed})
    ablation.collect(tmp_path, tmp_path / "ablation.csv")
    ablation.table(tmp_path / "ablation.csv")
    printed = capsys.readouterr().out
    assert "lidc, 64 px, 7 steps" in printed
    assert "GED" not in printed  # no case has it
    assert "| V1 | 2 | 2 | 0.6000 | 0.2500 |" in printed
    [line] = [line for line in printed.splitlines() if line.startswith("| without both")]
    assert "0.5250, -0.0750 (-0.1000 to -0.0500; -0.0500, -0.1000)" in line
    ablation.collect(tmp_path, tmp_path / "ablation.csv")
    assert len((tmp_path / "ablation.csv").read_text().splitlines()) == 1 + 2 * 2 * 3
    with pytest.raises(FileNotFoundError, match="train first"):
        ablation.collect(tmp_path / "none", tmp_path / "ablation.csv")


def test_a_thinned_file_of_splits_differs_in_its_test_cases_alone(tmp_path):
    splits = {"train": ["1", "2"], "val": ["010"], "test": ["a", "b", "0c", "d", "1e5"]}
    write_splits(tmp_path / "all.yaml", splits, {"folds": 5})
    ablation.thin(tmp_path / "all.yaml", 2, tmp_path / "fewer.yaml")
    whole, fewer = (read_yaml(tmp_path / name, as_text=True) for name in ("all.yaml", "fewer.yaml"))
    assert fewer["test"] == ["a", "0c", "1e5"]
    assert {**whole, "test": []} == {**fewer, "test": []}
