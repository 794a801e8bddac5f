"""Slices that are shown with their neighbours (2.5-D)."""

import csv

import numpy as np
import pytest
import torch
from helpers.mri_files import LAYOUTS, SIZE, data_module, write_layout, write_nifti
from helpers.small_networks import small

import diffmedseg.prediction.watching as watching
from diffmedseg import load_checkpoint
from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.models import Ensemble, SMPNetwork, SupervisedSegmenter
from diffmedseg.models.finetuning import initialise
from diffmedseg.prediction import Naming, find_cases, predict_volumes
from diffmedseg.reading.slice_input import SliceInput

CHANNELS = ("flair", "t1ce")


def test_edges_are_repeated_and_the_slice_itself_comes_first():
    shown = SliceInput(context=2)
    assert shown.neighbours(3, 9, 5.0) == [3, 2, 4, 1, 5]
    assert shown.neighbours(0, 9, 5.0) == [0, 0, 1, 0, 2]
    assert shown.neighbours(8, 9, 5.0) == [8, 7, 8, 6, 8]
    assert shown.image_channels(CHANNELS) == tuple(f"{c}{o}" for o in ("", "-1", "+1", "-2", "+2") for c in CHANNELS)
    assert SliceInput().neighbours(0, 1, 1.0) == [0]


@pytest.mark.parametrize(("spacing", "step"), [(1.0, 3), (1.5, 2), (3.0, 1), (2.9, 1)])
def test_a_distance_in_mm_skips_thin_slices(spacing, step):
    assert SliceInput(1, distance=3.0).neighbours(10, 20, spacing) == [10, 10 - step, 10 + step]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"context": -1}, "context is -1"), ({"context": 1, "distance": 0.0}, "context_distance is 0"),
     ({"ranges": {"ct": (3, 3)}}, "range of ct is 3, 3")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SliceInput(**settings)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_volume_data_set_shows_neighbours(name, tmp_path):
    write_layout(name, tmp_path)
    single = data_module(name, tmp_path, train_slices="all")
    plain, data = single.load("train"), data_module(name, tmp_path, train_slices="all", context=1)
    store, channels = data.load("train"), len(data.info.channels)
    assert len(data.info.image_channels) == 3 * channels
    assert data.info.channels == single.info.channels
    for index in range(len(store)):
        number, last = store.position(index), SIZE[0] - 1
        first = index - number  # of the case
        expected = [plain.image(first + one) for one in (number, max(number - 1, 0), min(number + 1, last))]
        assert torch.equal(store.image(index), torch.cat(expected))
        assert torch.equal(store.masks(index), plain.masks(index))


def test_prediction_shows_what_training_showed(tmp_path, monkeypatch):
    for number in range(3):
        rng = np.random.default_rng(number)
        values = np.zeros((7, 20, 16))
        values[1:-1, 2:-2, 2:-2] = rng.integers(50, 200, (5, 16, 12))
        for folder, one in (("images", values), ("masks", values > 150)):
            write_nifti(tmp_path / "own" / folder / f"p{number}.nii.gz", one)
    settings = {"context": 2, "context_distance": 4.0, "ranges": {"image": [40, 180]}, "train_slices": "all"}
    data = data_module("volumes", tmp_path / "own", folds=3, image_size=32, **settings)
    store, info = data.load("test"), data.info
    assert info.slice_input == SliceInput(2, 4.0, {"image": (40.0, 180.0)})
    model = SupervisedSegmenter(
        small(SMPNetwork, 5, 1), image_size=(32, 32), channels=info.channels, regions=info.regions,
        slice_input=info.slice_input,
    )  # fmt: skip
    seen = []

    def spy(images, *others):
        seen.append(images)
        return draw(images, *others)

    draw = watching.draw_samples
    monkeypatch.setattr(watching, "draw_samples", spy)
    [case] = set(store.cases)
    cases = find_cases([tmp_path / "own" / "images" / f"{case}.nii.gz"], Naming(info.channels, {}))
    assert predict_volumes(model, cases, tmp_path / "out").failed == {}
    trained = torch.stack([store.image(index) for index in range(len(store))])
    assert trained.shape == (7, 5, 32, 32)  # every slice: a channel with a range has no brain to be found
    assert torch.allclose(torch.cat(seen), trained, atol=1e-4)


def test_a_model_keeps_how_it_was_shown_slices(tmp_path):
    with pytest.raises(ValueError, match="takes 3 channels and gives 1 regions; the data has 9"):
        SupervisedSegmenter(small(SMPNetwork), (16, 16), channels=("a", "b", "c"), slice_input=SliceInput(1))
    models = [
        SupervisedSegmenter(small(SMPNetwork), (16, 16), channels=("a",), slice_input=SliceInput(1, distance))
        for distance in (None, 2.0)
    ]
    with pytest.raises(ValueError, match="how slices become images"):
        Ensemble({"a": models[0], "b": models[1]})
    assert Ensemble({"a": models[0], "b": models[0]}).slice_input == SliceInput(1)
    assert models[0].segment(torch.zeros(1, 3, 16, 16)).mask.shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        models[0].segment(torch.zeros(1, 1, 16, 16))


def test_neighbours_change_nothing_when_single_slices_are_fine_tuned():
    """What was learned on single slices holds at the start: neighbours come in with weight 0."""
    source = SupervisedSegmenter(small(SMPNetwork, 2), (32, 32), channels=CHANNELS)
    model = SupervisedSegmenter(small(SMPNetwork, 6), (32, 32), channels=CHANNELS, slice_input=SliceInput(1))
    found = initialise(model, source)
    assert found.channels == ("flair", "t1ce", "flair-1", "t1ce-1", "flair+1", "t1ce+1")
    image = torch.rand(1, 6, 32, 32) * 2 - 1
    single, together = source.segment(image[:, :2]), model.segment(image)
    assert torch.allclose(single.probability, together.probability, atol=1e-5)


def test_models_of_labels_are_shown_single_slices(tmp_path):
    write_layout("brats2015", tmp_path)
    data = data_module("brats2015", tmp_path, context=1)
    data.setup("fit")
    with pytest.raises(DataError, match=r"single slices: set data\.context to 0"):
        data.configure_targets(["label"], data.info.regions[:1])


def test_train_and_predict_with_an_encoder(tmp_path):
    write_layout("volumes", tmp_path / "data")
    options = [
        "--data.image_size=32", "--data.batch_size=2", "--data.steps_per_epoch=2", "--data.folds=2", "--data.context=1",
        "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--model.num_samples=2", "--model.num_steps=2",
        "--encoder=tu-test_efficientnet", "--encoder_weights=none", f"--runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    main(["train", "medsegdiff-lite", "volumes", f"--data.root={tmp_path / 'data'}", *options])
    run = tmp_path / "runs" / "medsegdiff-lite-volumes" / "version_0"
    model = load_checkpoint(run / "checkpoints" / "best.ckpt")
    assert model.slice_input == SliceInput(1)
    assert model.denoiser.image_channels == 3
    main(
        [
            "predict",
            str(run),
            str(tmp_path / "data" / "images"),
            "--modality",
            "image=*",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
