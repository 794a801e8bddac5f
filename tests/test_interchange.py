"""What works for one model works for every other with MODEL changed and nothing else."""

import csv
import json
import math

import pytest
import torch
from helpers.isic_files import write as write_isic
from helpers.mri_files import write_layout
from helpers.process_state import kept_process_state
from helpers.tiny_run import EXPERIMENTS, TINY, copy_run

from diffmedseg.cli import main
from diffmedseg.data import DataError, ISIC2018DataModule
from diffmedseg.evaluation.calibrating import calibrate_run
from diffmedseg.experiments import list_models
from diffmedseg.models.diffseg.segmenter import DiffSegSegmenter
from diffmedseg.zoo import ZooError, export, load_checkpoint, load_pretrained

DATA = ["synthetic", "isic2018", "brats", "lgg"]
CALLBACKS = ["staple", "crf", "subset_crf"]
# MedSegDiff-Lite and DiffSeg, which learn from masks and from labels, meet all; of the others each meets some: a run
# takes seconds, and what is of one family or of one kind of data alone fails there, too.
WIDE = ["medsegdiff-lite", "diffseg"]
ON_DATA = [
    *((model, data) for model in WIDE for data in DATA),
    ("medsegdiff", "isic2018"),
    ("medsegdiff-v2", "brats"),
    ("supervised", "lgg"),
    ("ssn", "brats"),
    ("medsegdiff-lite-3d", "brats"),
]
WITH_CALLBACKS = [
    *((model, callbacks) for model in WIDE for callbacks in CALLBACKS),
    ("medsegdiff", "staple"),
    ("medsegdiff-v2", "crf"),
    ("supervised", "subset_crf"),
    ("ssn", "staple"),
    ("medsegdiff-lite-3d", "staple"),
]


def test_every_model_meets_data_and_callbacks():
    assert {model for model, _ in ON_DATA} == {model for model, _ in WITH_CALLBACKS} == set(list_models())


def arguments(model, data, tmp_path):
    root = tmp_path / "data"
    options = [option for option in TINY if not option.startswith("--data.num_")]
    if data == "synthetic":
        options = list(TINY)
    elif data == "isic2018":
        write_isic(root, ISIC2018DataModule, training=12, validation=3)
        options += [f"--data.root={root}", "--data.label_recipe.share=0.25", "--data.image_size=32"]
    else:
        write_layout(data, root)
        options += [f"--data.root={root}", "--data.folds=2", "--data.train_slices=all"]
    return ["train", model, data, f"--runs={tmp_path / 'runs'}", *options]


def pictures_of_each_kind(model, data):
    """Mark a run that draws: what is drawn depends on the kind of data, and on regions that a model does not find."""
    drawn = model == "medsegdiff-lite" or (model, data) == ("diffseg", "brats")
    return pytest.param(model, data, marks=pytest.mark.pictures if drawn else ())


@pytest.mark.parametrize(("model", "data"), [pictures_of_each_kind(*pair) for pair in ON_DATA])
def test_models_run_on_every_kind_of_data(model, data, request, tmp_path):
    main(arguments(model, data, tmp_path))
    run = tmp_path / "runs" / f"{model}-{data}" / "version_0"
    rows = list(csv.DictReader((run / "cases.csv").open()))
    assert rows
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    if request.node.get_closest_marker("pictures"):
        assert (run / "panel.png").is_file()
        assert (run / "report.html").is_file()
    if (model, data) == ("diffseg", "isic2018"):  # crops of this size were all that the network has seen
        assert int(load_checkpoint(run).tiling.crop) == 8


@pytest.mark.parametrize(("model", "callbacks"), WITH_CALLBACKS)
def test_callbacks_take_models(model, callbacks, tmp_path):
    if "crf" in callbacks:
        pytest.importorskip("pydensecrf")
    data = "lgg" if model.endswith("-3d") else "synthetic"
    main([*arguments(model, data, tmp_path), "-c", str(EXPERIMENTS / "callbacks" / f"{callbacks}.yaml")])
    run = tmp_path / "runs" / f"{model}-{data}" / "version_0"
    rows = list(csv.DictReader((run / "cases.csv").open()))
    assert {row["dice_unrefined"] == "" for row in rows} == {callbacks == "staple"}
    assert json.loads((run / "metrics.json").read_text())["policy"]["changed_by"]


@pytest.fixture(scope="module")
def finished_diffseg_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffseg")
    with kept_process_state():
        main(arguments("diffseg", "brats", folder))
    return folder / "runs" / "diffseg-brats" / "version_0"


@pytest.fixture
def diffseg_run(finished_diffseg_run, tmp_path_factory):
    return copy_run(finished_diffseg_run, tmp_path_factory.mktemp("runs"))


def test_a_run_of_diffseg_loads_calibrates_and_predicts(diffseg_run, finished_diffseg_run, tmp_path):
    """On data with regions of which it finds the outermost alone."""
    model = load_checkpoint(diffseg_run)
    assert isinstance(model, DiffSegSegmenter)
    assert model.regions == ("whole_tumour",)
    assert model.learned_from == "image-level labels"
    found = calibrate_run(diffseg_run, "isotonic")
    assert found["regions"] == ["whole_tumour"]
    assert "too few for a coverage" in found["without_contours"]
    data = finished_diffseg_run.parents[2] / "data"
    case = sorted(path for path in data.iterdir() if path.is_dir())[0]
    main(["predict", str(diffseg_run), str(case), "--out", str(tmp_path / "out"), "--num_samples=2"])
    written = [path.name for path in (tmp_path / "out").iterdir()]
    assert any("whole_tumour" in name or name.endswith("_mask.nii.gz") for name in written)
    assert not any("core" in name for name in written)
    policy = json.loads((diffseg_run / "metrics.json").read_text())["policy"]
    assert policy["learned_from"] == "image-level labels"


def test_a_run_of_diffseg_becomes_an_entry_of_a_zoo(diffseg_run, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path))
    export(diffseg_run, "diffseg_brats.test", dtype="float32")
    model, image = load_pretrained("diffseg_brats.test"), torch.rand(1, 4, 20, 24) * 2 - 1
    assert model.learned_from == "image-level labels"
    expected = load_checkpoint(diffseg_run).segment(image, 2, 2).probability
    torch.testing.assert_close(model.segment(image, 2, 2).probability, expected)
    main(["zoo", "verify"])


def test_what_counts_as_nothing_is_fitted_to_healthy_images(diffseg_run, run, tmp_path):
    with pytest.raises(DataError, match="0 of 4 validation images are healthy; --nothing"):
        calibrate_run(diffseg_run, "isotonic", nothing=0.5)
    main([*arguments("diffseg", "synthetic", tmp_path), "--data.num_val=40"])
    own = tmp_path / "runs" / "diffseg-synthetic" / "version_0"
    found = calibrate_run(own, "isotonic", nothing=0.5)
    presence = found["presence"]
    healthy = presence["healthy"]
    assert 0 < presence["false_positives"] * healthy <= healthy - math.ceil(0.5 * (healthy + 1))
    calibrated = load_checkpoint(own / "checkpoints" / "calibrated.ckpt")
    assert calibrated.least_contrast == presence["least_contrast"] > 0
    with pytest.raises(ZooError, match="medsegdiff can return an empty mask"):
        calibrate_run(run, "isotonic", nothing=0.5)


def test_data_without_healthy_images_is_refused_by_name(tmp_path):
    options = arguments("diffseg", "isic2018", tmp_path)
    options = [option for option in options if not option.startswith("--data.label_recipe")]
    with pytest.raises(SystemExit, match=r"(?s)all are diseased: OwnLabels needs healthy and .*\n  BorderCrops"):
        main([*options, "--data.label_recipe=null"])
