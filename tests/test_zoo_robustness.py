"""The robustness table: from scores of images to a run's folder, an entry and its card."""

import shutil
from types import SimpleNamespace

import corrupted_images
import pytest
import torch
from helpers.isic_files import write
from rows import read_rows, write_rows

from diffmedseg import zoo
from diffmedseg.data import ISIC2016DataModule, ISIC2017DataModule
from diffmedseg.evaluation.corruptions import CORRUPTIONS
from diffmedseg.zoo import Source, ZooError, file_sha256
from diffmedseg.zoo.registry import ROBUSTNESS
from diffmedseg.zoo.robustness import RobustnessRow, read_robustness, robustness_section, write_robustness

NAME = "medsegdiff-lite_synthetic.test"
ROWS = [
    RobustnessRow("official, validation", "none", 150, 0.86, 0.0, 0.0, 0.0),
    RobustnessRow("official, validation", "blur, strong", 150, 0.84, -0.02, -0.0312, -0.0101),
]


def scores(path, dice):
    """Write the scores of two images in two models, in different orders."""
    rows = [
        {"model": model, "images": "tenth", "case": case, "corruption": kind, "severity": severity, "dice": value}
        for (model, case, kind, severity), value in dice.items()
    ]
    write_rows(rows, path)
    return path


DICE = {
    ("a", "x", "none", ""): 0.9, ("a", "y", "none", ""): 0.7,
    ("a", "x", "blur", "mild"): 0.8, ("a", "y", "blur", "mild"): 0.4,
    ("a", "x", "noise", "mild"): 0.6, ("a", "y", "noise", "mild"): 0.6,
    ("b", "y", "none", ""): 0.8, ("b", "x", "none", ""): 1.0,
    ("b", "y", "blur", "mild"): 0.5, ("b", "x", "blur", "mild"): 0.9,
    ("b", "y", "noise", "mild"): 0.6, ("b", "x", "noise", "mild"): 0.6,
}  # fmt: skip


def test_models_are_compared_image_by_image(tmp_path, capsys):
    corrupted_images.table(scores(tmp_path / "s.csv", DICE))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| tenth | none | 2 | 0.800 | 0.900 | +0.100 (+0.100 to +0.100) |",
        "| tenth | blur, mild | 2 | 0.600 | 0.700 | +0.100 (+0.100 to +0.100) |",
        "| tenth | noise, mild | 2 | 0.600 | 0.600 | +0.000 (+0.000 to +0.000) |",
        "| tenth | mean of all corruptions | 2 | 0.600 | 0.650 | +0.050 (+0.050 to +0.050) |",
    ]


def test_a_score_that_is_missing_is_named(tmp_path):
    part = {key: value for key, value in DICE.items() if key != ("b", "x", "blur", "mild")}
    with pytest.raises(SystemExit, match="b has no score of x \\(tenth, blur, mild\\)"):
        corrupted_images.table(scores(tmp_path / "s.csv", part))


def test_scores_are_those_of_the_same_corrupted_images_and_of_none_that_is_trained_on(tmp_path, monkeypatch, capsys):
    class Dark:
        """Finds what is darker than half grey; and notes how many copies it is given."""

        def segment(self, images, keys):
            assert images.dtype == torch.uint8
            assert len(set(keys)) == 1
            copies.append(len(images))
            return SimpleNamespace(mask=images.float().mean(1, keepdim=True) < 128)

    copies = []
    monkeypatch.setattr(corrupted_images, "load_model", lambda name: Dark())
    write(tmp_path / "2017", ISIC2017DataModule, training=20)
    write(tmp_path / "2016", ISIC2016DataModule, training=22)  # two images that 2017 does not have
    output = tmp_path / "s.csv"
    corrupted_images.score(
        ["dark"], tmp_path / "2017", elsewhere=tmp_path / "2016", severities=["strong"], output=output
    )
    assert "4 of 22 images" in capsys.readouterr().out  # these two, and the seeded tenth
    assert copies == [1 + len(CORRUPTIONS)] * (2 + 4)
    rows = read_rows(output)
    clean = {row["case"]: float(row["dice"]) for row in rows if row["corruption"] == "none"}
    assert {"ISIC_0000020", "ISIC_0000021"} < clean.keys()
    assert min(clean.values()) > 0.95
    dark = [float(row["dice"]) for row in rows if row["corruption"] == "dark"]
    assert max(dark) < 0.5  # all of the image is found


def test_a_models_changes_are_written_for_its_card(tmp_path):
    path = scores(tmp_path / "s.csv", DICE)
    corrupted_images.card(path, "a", tmp_path)
    found = {row.corruption: row for row in read_robustness(tmp_path / ROBUSTNESS)}
    assert found["none"] == RobustnessRow("tenth", "none", 2, 0.8, 0, 0, 0)
    assert found["blur, mild"] == RobustnessRow("tenth", "blur, mild", 2, 0.6, -0.2, -0.3, -0.1)
    with pytest.raises(SystemExit, match="no model 'c'"):
        corrupted_images.card(path, "c", tmp_path)


def test_a_table_is_read_as_it_was_written_and_shown(tmp_path):
    assert robustness_section(tmp_path) == ""
    assert read_robustness(write_robustness(tmp_path, ROWS)) == ROWS
    section = robustness_section(tmp_path)
    assert section.startswith("## Robustness\n")
    assert "| official, validation | none | 150 | 0.860 |  |\n" in section
    assert "| official, validation | blur, strong | 150 | 0.840 | -0.020 (-0.031 to -0.010) |\n" in section


def test_a_damaged_table_is_refused_by_name(tmp_path):
    path = write_robustness(tmp_path, ROWS)
    for text in ("", path.read_text().replace("0.8400", "much"), path.read_text().replace("cases", "n")):
        path.write_text(text or "\n")
        with pytest.raises(ZooError, match=r"robustness\.csv is no robustness table"):
            robustness_section(tmp_path)


def test_an_entry_takes_the_table_of_its_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    write_robustness(tmp_path / "run", ROWS)
    folder = zoo.export(tmp_path / "run", NAME, tmp_path / "zoo")
    assert robustness_section(tmp_path / "run") in (folder / "README.md").read_text()
    entry = Source(tmp_path / "zoo").entries()[NAME]
    assert entry.sha256[ROBUSTNESS] == file_sha256(folder / ROBUSTNESS)
