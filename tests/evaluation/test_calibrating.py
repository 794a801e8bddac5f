import csv
import json
import os
import shutil
import warnings

import pytest
import torch
import yaml
from helpers.tiny_run import EXPERIMENTS, tiny_data, tiny_model, tiny_trainer

from diffmedseg import load_checkpoint, load_pretrained
from diffmedseg.callbacks import CaseMetrics
from diffmedseg.cli import main
from diffmedseg.data.configured import build_data
from diffmedseg.evaluation.calibrating import map_counts
from diffmedseg.metrics.calibration import expected_calibration_error, reliability_counts
from diffmedseg.postprocessing.calibration import IsotonicCalibration, TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.segmentation import SampleSet, majority
from diffmedseg.zoo import export


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_run_is_calibrated_and_its_masks_stay(method, run, tmp_path, capsys):
    main(["calibrate", str(run), "--method", method])
    said = capsys.readouterr().out
    assert "Fitted to 2 validation cases" in said
    assert "2 cases: too few for a coverage of 0.9; 9 are needed" in said
    plain, calibrated = (load_checkpoint(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "calibrated"))
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = plain.segment(image), calibrated.segment(image)
    assert not torch.equal(before.probability, after.probability)
    assert torch.equal(before.samples, after.samples)
    if method == "temperature":
        assert torch.equal(before.mask, after.mask)
    found = json.loads((run / "calibration.json").read_text())
    assert found["cases"] == 2
    assert "conformal" not in found


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_test_takes_it_and_scores_the_same_masks(method, run, tmp_path):
    main(["calibrate", str(run), "--method", method])
    config = run / "calibration.yaml"
    best = str(run / "checkpoints" / "best.ckpt")
    rows = []
    for name, files in (("plain", []), ("calibrated", ["-c", str(config)])):
        main(["test", "-c", str(run / "config.yaml"), *files, f"--runs={tmp_path}", f"--experiment={name}",
              f"--ckpt_path={best}"])  # fmt: skip
        with (tmp_path / name / "test_0" / "cases.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert [row["brier"] for row in rows[0]] != [row["brier"] for row in rows[1]]
    for name in ("dice", "iou", "uncertainty"):
        assert [float(row[name]) for row in rows[0]] == pytest.approx([float(row[name]) for row in rows[1]], abs=5e-3)
    threshold = yaml.safe_load(config.read_text())["model"]["init_args"]["threshold"]
    assert (threshold == pytest.approx(0.5)) == (method == "temperature")


def test_calibration_is_neither_forgotten_nor_mixed(run, tmp_path):
    main(["calibrate", str(run)])
    calibrated = str(run / "checkpoints" / "calibrated.ckpt")
    common = ["test", "-c", str(run / "config.yaml"), f"--runs={tmp_path}", "--experiment=x"]
    with pytest.raises(SystemExit, match=r"is a calibrated checkpoint.*Add -c .*calibration\.yaml"):
        main([*common, f"--ckpt_path={calibrated}"])
    staple = str(EXPERIMENTS / "callbacks" / "staple.yaml")
    with pytest.raises(ValueError, match="that the model's calibration was fitted to"):
        main([*common, "-c", str(run / "calibration.yaml"), "-c", staple, f"--ckpt_path={calibrated}"])


def test_what_cannot_be_calibrated(run, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*config\.yaml is missing"):
        main(["calibrate", str(tmp_path / "nothing")])
    main(["calibrate", str(run)])
    shutil.copy(run / "checkpoints" / "calibrated.ckpt", run / "checkpoints" / "best.ckpt")
    with pytest.raises(SystemExit, match="has a calibration already"):
        main(["calibrate", str(run)])


@pytest.fixture
def with_contours(monkeypatch):
    """The tiny run has too few validation cases for a coverage of 0.9; here are levels that many would give."""
    fitted = Conformal([0.6], [0.55], [1.5], 0.95, 0.9, 20, 2, 2)
    monkeypatch.setattr(Conformal, "fit", lambda *_: fitted)


def test_contours_come_with_the_model(with_contours, run, monkeypatch, capsys):
    main(["calibrate", str(run)])
    said = capsys.readouterr().out
    assert "inner contour at probability" in said
    assert "areas from least / 1.50 to most x 1.50" in said
    plain, model = load_checkpoint(run / "checkpoints" / "best.ckpt"), load_checkpoint(run)
    assert plain.calibration is None
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, after = plain.segment(image, 2, 2), model.segment(image, 2, 2)
    assert torch.equal(after.inner, before.probability >= 0.6)
    assert torch.equal(after.outer, before.probability >= 0.55)
    with pytest.warns(UserWarning, match="fitted with 2 samples of 2 steps, and need not hold with 3 of 2"):
        model.segment(image, 3, 2)
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(run / "zoo"))
    entry = export(run, "a_b.c", dtype="float32")
    assert "**Calibrated** probabilities" in (entry / "README.md").read_text()
    assert vars(load_pretrained("a_b.c").conformal) == vars(model.conformal)


@pytest.mark.pictures
def test_a_test_counts_how_often_they_held(with_contours, run, tmp_path):
    """At native resolution, from the calibrated probability there; and the report says so."""
    main(["calibrate", str(run)])
    main(["test", "-c", str(run / "config.yaml"), "-c", str(run / "calibration.yaml"), f"--runs={tmp_path}",
          "--experiment=x", f"--ckpt_path={run / 'checkpoints' / 'calibrated.ckpt'}"])  # fmt: skip
    with (tmp_path / "x" / "test_0" / "cases.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    model, data = load_checkpoint(run), build_data(yaml.safe_load((run / "config.yaml").read_text())["data"])
    data.setup("test")
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        size = tuple(batch["reference"][0].shape[-2:])
        found = model.fuse(model.sample(batch["image"], keys=batch["case"]), size, batch["image"], batch["case"])
        for i, case in enumerate(batch["case"]):
            truth, inner, outer = majority(batch["reference"][i]).bool(), found.inner[i], found.outer[i]
            assert float(rows[case]["inner_held"]) == ((inner & truth).sum() >= 0.95 * inner.sum())
            assert float(rows[case]["outer_held"]) == ((outer & truth).sum() >= 0.95 * truth.sum())
    assert len({row["inner_held"] for row in rows.values()} | {row["outer_held"] for row in rows.values()}) == 2
    summary = json.loads((tmp_path / "x" / "test_0" / "metrics.json").read_text())
    assert summary["policy"]["contours"] == {"share": 0.95, "coverage": 0.9, "cases": 20}
    assert "The fit on 20 cases aims at 90%" in (tmp_path / "x" / "test_0" / "report.html").read_text()


def test_a_calibration_of_another_checkpoint_is_not_taken(run, tmp_path):
    """Whatever the times of the files say, which copying changes."""
    main(["calibrate", str(run)])
    best = run / "checkpoints" / "best.ckpt"
    os.utime(best)
    shutil.copytree(run, tmp_path / "copy")
    assert load_checkpoint(run).calibration is not None
    assert load_checkpoint(tmp_path / "copy").calibration is not None
    checkpoint = torch.load(best, weights_only=True)
    torch.save(checkpoint | {"global_step": checkpoint["global_step"] + 1}, best)
    os.utime(best, (0, 0))
    with pytest.warns(UserWarning, match=r"calibrated\.ckpt was not made from this best\.ckpt"):
        assert load_checkpoint(run).calibration is None


@pytest.mark.parametrize("wrong", ["--share=1.5", "--coverage=90"])
def test_settings_that_cannot_be_change_nothing(wrong, with_contours, run):
    main(["calibrate", str(run)])
    before = (run / "calibration.json").read_text()
    with pytest.raises(SystemExit, match="has to lie"):
        main(["calibrate", str(run), wrong])
    assert (run / "calibration.json").read_text() == before
    assert load_checkpoint(run).conformal is not None


class Identity(Refinement):
    def refine(self, image, samples, probability, nested, key):
        return probability


def test_before_and_after_a_refinement_are_calibrated_alike(tmp_path):
    """A refinement that does nothing changes no score, and no map where it is resized."""
    torch.manual_seed(0)
    steep = IsotonicCalibration([0, 0.49, 0.51, 1], [0, 0.1, 0.8, 1])
    model = tiny_model(calibration=steep, threshold=0.45, refinement=Identity())
    trainer = tiny_trainer(tmp_path, callbacks=[CaseMetrics()])
    trainer.test(model, tiny_data(), verbose=False)
    with next(tmp_path.rglob("cases.csv")).open(newline="") as file:
        for row in csv.DictReader(file):
            for score in ("dice", "brier", "nll"):
                assert float(row[score]) == pytest.approx(float(row[f"{score}_unrefined"]), rel=1e-6)


@pytest.mark.parametrize("calibration", [None, IsotonicCalibration([0, 0.49, 0.51, 1], [0, 0.1, 0.8, 1])])
def test_a_result_can_be_had_at_another_size(calibration):
    """As if it had been fused there."""
    contours = Conformal([0.6], [0.4], [1.5], 0.95, 0.9, 20, 2, 2)
    model = tiny_model(calibration=calibration, conformal=contours, threshold=0.45)
    samples = torch.rand(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    image, keys = torch.zeros(2, 3, 16, 16), ["a", "b"]
    small, large = (model.fuse(SampleSet(samples), size, image, keys) for size in ((16, 16), (40, 24)))
    resized = model.at_size(small[1], (40, 24))
    for name in ("samples", "probability", "uncertainty", "mask", "inner", "outer"):
        assert torch.equal(getattr(resized, name), getattr(large, name)[1:])
    assert 0 < large.inner.sum() < large.outer.sum() < large.mask.numel()


def test_contours_need_no_calibration():
    model = tiny_model(conformal=Conformal([0.6], [0.4], [1.5], 0.95, 0.9, 20, 2, 2))
    result = model.segment(torch.zeros(1, 3, 16, 16))
    assert torch.equal(result.inner, result.probability >= 0.6)
    assert torch.equal(result.outer, result.probability >= 0.4)


def test_contours_that_say_nothing_are_said_to(run, monkeypatch, capsys):
    monkeypatch.setattr(Conformal, "fit", lambda *_: Conformal([float("inf")], [0.0], [1.0], 0.95, 0.9, 9, 2, 2))
    main(["calibrate", str(run)])
    said = capsys.readouterr().out
    assert "an empty inner contour, outer contour the whole image" in said
    assert "lower --coverage or --share" in said
    model = load_checkpoint(run)
    result = model.segment(torch.zeros(1, 3, 16, 16), 2, 2)
    assert not result.inner.any()
    assert result.outer.all()
    assert json.loads((run / "calibration.json").read_text())["conformal"]["init_args"]["inner"] == [None]


def test_counts_are_mapped_as_pixels_are():
    p = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (torch.rand(20_000, generator=torch.Generator().manual_seed(1)) < p**2).double()
    calibration = TemperatureScaling(2.0, 0.5)
    mapped, direct = map_counts(reliability_counts(p, y), calibration), reliability_counts(calibration(p), y)
    assert expected_calibration_error(mapped) == pytest.approx(expected_calibration_error(direct), abs=2e-3)
    torch.testing.assert_close(mapped.sum(1), direct.sum(1), rtol=1e-3, atol=1)
