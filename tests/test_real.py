"""Runs on the real data sets: ``make test-real`` with DIFFMEDSEG_DATA set to the folder that holds them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.staple import simpleitk_staple

from diffmedseg import load_pretrained
from diffmedseg.cli import main
from diffmedseg.data import ISIC2016DataModule, ISIC2017DataModule
from diffmedseg.postprocessing.fusion import STAPLEFusion

pytestmark = [pytest.mark.real, pytest.mark.pictures]
DATA = Path(os.environ.get("DIFFMEDSEG_DATA", "."))
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize(("module", "name"), [(ISIC2016DataModule, "isic2016"), (ISIC2017DataModule, "isic2017")])
def test_every_image_has_a_sensible_mask(module, name):
    data = module(DATA / name, image_size=32)
    data.setup("fit")
    data.setup("test")
    for store in data.stores.values():
        for index in range(0, len(store), 25):
            reference, mask = store.reference(index), store.masks(index)
            assert 0.002 < reference.float().mean() < 0.99
            assert mask.float().mean() == pytest.approx(float(reference.float().mean()), abs=0.05)


def test_splits_of_isic2017_are_the_official_ones():
    data = ISIC2017DataModule(DATA / "isic2017", image_size=32)
    data.setup("fit")
    data.setup("test")
    assert {split: len(store) for split, store in data.stores.items()} == {"train": 1800, "val": 200, "test": 150}
    ids = {split: set(store.ids) for split, store in data.stores.items()}
    assert not ids["train"] & ids["val"]
    assert not ids["test"] & (ids["train"] | ids["val"])


@pytest.mark.parametrize("model", ["medsegdiff-lite", "medsegdiff", "supervised"])
def test_a_few_steps_on_isic2017_learn_something(model, tmp_path):
    options = ["--data.image_size=32", "--data.steps_per_epoch=150", "--trainer.max_steps=150", "--model.num_samples=2"]
    options += ["--model.num_steps=2", "--trainer.limit_test_batches=4", f"--data.root={DATA / 'isic2017'}"]
    main(["train", model, "isic2017", *options, f"--runs={tmp_path}"])
    checkpoint = torch.load(next(tmp_path.rglob("best.ckpt")), weights_only=True)
    scores = [
        state["best_model_score"]
        for name, state in checkpoint["callbacks"].items()
        if "val/dice" in name and "Model" in name
    ]
    assert float(scores[0]) > 0.4


@pytest.fixture
def mri(tmp_path):
    def load(name, **options):
        root = DATA / name
        if not root.is_dir():
            pytest.skip(f"no {root}")
        from helpers.mri_files import data_module

        return data_module(name, root, **options)

    return load


def test_brats2015_cases(mri):
    """Facts of the DeepMedic samples: 240 x 240 x 155 at 1 mm; about half of the slices have a tumour."""
    data = mri("brats2015", image_size=64, folds=4, train_slices="all")
    data.prepare_data()
    store = data.load("train")
    for case in set(store.cases):
        labels = [store.label(index) for index in range(len(store)) if store.cases[index] == case]
        assert len(labels) == 155
        assert 73 <= sum(labels) <= 84
    assert store.reference(0).shape == (1, 3, 240, 240)
    assert store.spacing(0) == (1.0, 1.0, 1.0)
    inside = torch.cat([store.image(index)[0][store.image(index)[0] > -1] for index in range(60, 90)])
    assert -0.2 < float(inside.mean()) < 0.2


def test_lgg_cases(mri):
    """107 slices of five patients, 41 of them with a tumour."""
    data = mri("lgg", image_size=64, folds=5, val_fraction=0.0, train_slices="all")
    data.prepare_data()
    train, test = data.load("train"), data.load("test")
    stores = [train, test]
    assert len({case for store in stores for case in store.cases}) == 5
    assert sum(len(store) for store in stores) == 107
    assert sum(store.label(index) for store in stores for index in range(len(store))) == 41


def test_staple_of_real_samples_is_that_of_simpleitk():
    data = ISIC2017DataModule(DATA / "isic2017", image_size=64)
    data.setup("test")
    model, rule = load_pretrained("medsegdiff-lite_isic2017.cpu64"), STAPLEFusion()
    for _, batch in zip(range(5), data.test_dataloader(), strict=False):
        batch = data.on_after_batch_transfer(batch, 0)
        samples = model.sample(batch["image"], 8, 4, keys=batch["case"]).samples
        for found, masks in zip(rule(samples.double())[:, 0].numpy(), samples[:, :, 0].numpy() > 0.5, strict=True):
            expected, _, _ = simpleitk_staple(masks)
            assert np.allclose(found, expected, atol=5e-3)
            assert np.array_equal(found > 0.5, expected > 0.5)
