import csv
import json
import shutil

import pytest
import torch
import yaml
from tiny_run import EXPERIMENTS

from diffmedseg import load_checkpoint
from diffmedseg.calibration import TemperatureScaling
from diffmedseg.cli import main
from diffmedseg.conformal import ConformalArea, ConformalContours
from diffmedseg.evaluation.calibrating import calibrate_run, map_counts
from diffmedseg.metrics.calibration import expected_calibration_error, reliability_counts


@pytest.fixture
def own_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_run_is_calibrated_and_its_masks_stay(method, own_run, tmp_path, capsys):
    main(["calibrate", str(own_run), "--method", method])
    said = capsys.readouterr().out
    assert "Fitted to 2 validation cases" in said
    assert "2 cases are too few for a coverage of 0.9: 9 are needed" in said
    plain, calibrated = (load_checkpoint(own_run / "checkpoints" / f"{name}.ckpt") for name in ("best", "calibrated"))
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = plain.segment(image), calibrated.segment(image)
    assert not torch.equal(before.probability, after.probability)
    assert torch.equal(before.samples, after.samples)
    if method == "temperature":
        assert torch.equal(before.mask, after.mask)
    found = json.loads((own_run / "calibration.json").read_text())
    assert found["cases"] == 2
    assert found["contours"] == {}


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_test_takes_it_and_scores_the_same_masks(method, own_run, tmp_path):
    main(["calibrate", str(own_run), "--method", method])
    config = own_run / "calibration.yaml"
    best = str(own_run / "checkpoints" / "best.ckpt")
    rows = []
    for name, files in (("plain", []), ("calibrated", ["-c", str(config)])):
        main(["test", "-c", str(own_run / "config.yaml"), *files, f"--runs={tmp_path}", f"--experiment={name}",
              f"--ckpt_path={best}"])  # fmt: skip
        with (tmp_path / name / "test_0" / "cases.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert [row["brier"] for row in rows[0]] != [row["brier"] for row in rows[1]]
    for name in ("dice", "iou", "uncertainty"):
        assert [float(row[name]) for row in rows[0]] == pytest.approx([float(row[name]) for row in rows[1]], abs=5e-3)
    threshold = yaml.safe_load(config.read_text())["model"]["init_args"]["threshold"]
    assert (threshold == pytest.approx(0.5)) == (method == "temperature")


def test_calibration_is_neither_forgotten_nor_mixed(own_run, tmp_path):
    main(["calibrate", str(own_run)])
    calibrated = str(own_run / "checkpoints" / "calibrated.ckpt")
    common = ["test", "-c", str(own_run / "config.yaml"), f"--runs={tmp_path}", "--experiment=x"]
    with pytest.raises(SystemExit, match=r"is calibrated: add -c .*calibration\.yaml"):
        main([*common, f"--ckpt_path={calibrated}"])
    staple = str(EXPERIMENTS / "callbacks" / "staple.yaml")
    with pytest.raises(ValueError, match="what the model's calibration was fitted to"):
        main([*common, "-c", str(own_run / "calibration.yaml"), "-c", staple, f"--ckpt_path={calibrated}"])


def test_what_cannot_be_calibrated(own_run, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*config\.yaml is missing"):
        main(["calibrate", str(tmp_path / "nothing")])
    main(["calibrate", str(own_run)])
    shutil.copy(own_run / "checkpoints" / "calibrated.ckpt", own_run / "checkpoints" / "best.ckpt")
    with pytest.raises(SystemExit, match="has a calibration already"):
        main(["calibrate", str(own_run)])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_an_inner_contour_that_has_to_be_empty_stays_so(method, own_run, monkeypatch):
    """A calibration maps to [0, 1], which a sure and wrong pixel reaches."""
    impossible = ConformalContours(inner=float("inf"), outer=0.0, share=0.95, coverage=0.9, cases=9)
    monkeypatch.setattr(ConformalContours, "fit", lambda *_: impossible)
    monkeypatch.setattr(ConformalArea, "fit", lambda *_: ConformalArea(1.0, 0.9, 9))
    found = calibrate_run(own_run, method)["contours"]["lesion"]
    assert found["inner"] == float("inf")
    assert json.loads((own_run / "calibration.json").read_text())["contours"]["lesion"]["inner"] is None


def test_counts_are_mapped_as_pixels_are():
    p = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (torch.rand(20_000, generator=torch.Generator().manual_seed(1)) < p**2).double()
    calibration = TemperatureScaling(2.0, 0.5)
    mapped, direct = map_counts(reliability_counts(p, y), calibration), reliability_counts(calibration(p), y)
    assert expected_calibration_error(mapped) == pytest.approx(expected_calibration_error(direct), abs=2e-3)
    torch.testing.assert_close(mapped.sum(1), direct.sum(1), rtol=1e-3, atol=1)
