import itertools
import logging
import os
import random
from pathlib import Path

import pytest
import torch
from helpers.isic_files import SPLITS, all_ids, folders, ids, numbered, write
from PIL import Image

from diffmedseg.data import isic
from diffmedseg.data.isic import ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule
from diffmedseg.errors import DataError


def test_training_archive_alone(tmp_path, caplog):
    write(tmp_path, ISIC2018DataModule, training=30)
    found = all_ids(ISIC2018DataModule(tmp_path))
    assert {split: len(names) for split, names in found.items()} == {"train": 24, "val": 3, "test": 3}
    assert sorted(itertools.chain(*found.values())) == numbered("training", 30)
    assert all(names == sorted(names) for names in found.values())
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "test split is a tenth of the training set" in warning


def test_validation_images_without_masks(tmp_path, caplog):
    write(tmp_path, ISIC2018DataModule, training=10, validation=2)
    images, masks = folders(tmp_path, part="validation")
    for path in masks.iterdir():
        path.unlink()
    masks.rmdir()
    found = all_ids(ISIC2018DataModule(tmp_path))
    assert sorted(itertools.chain(*found.values())) == numbered("training", 10)
    assert f"{images} is left out, since {masks.name} is missing" in caplog.text


def test_auto_prefers_test_to_validation(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, ISIC2018DataModule, training=10, validation=2)
    assert ids(ISIC2018DataModule(tmp_path), "test") == numbered("validation", 2)
    assert "test is 2 of the 2 images of ISIC2018_Task1-2_Validation_Input" in caplog.text
    assert "train is 9 of the 10 images of ISIC2018_Task1-2_Training_Input" in caplog.text
    write(tmp_path, ISIC2018DataModule, test=3)
    assert ids(ISIC2018DataModule(tmp_path), "test") == numbered("test", 3)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_reported_set_can_be_chosen(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10, validation=2, test=3)
    assert ids(ISIC2018DataModule(tmp_path, reported="validation"), "test") == numbered("validation", 2)
    assert ids(ISIC2018DataModule(tmp_path, reported="test"), "test") == numbered("test", 3)
    with pytest.raises(ValueError, match=r"reported is 'validation'; expected one of auto, tenth, test"):
        ISIC2016DataModule(tmp_path, reported="validation")


def test_settings_can_be_compared_on_the_tenth(tmp_path, caplog):
    write(tmp_path, ISIC2018DataModule, training=30, test=3)
    usual, tenth = all_ids(ISIC2018DataModule(tmp_path)), all_ids(ISIC2018DataModule(tmp_path, reported="tenth"))
    assert tenth["test"] == usual["val"]
    assert (tenth["train"], tenth["val"]) == (usual["train"], usual["val"])
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_chosen_set_that_is_missing_is_found_before_training(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    with pytest.raises(DataError, match="No test set of ISIC 2018"):
        ISIC2018DataModule(tmp_path, reported="test").load("train")


def test_splits_depend_on_seed_and_ids_alone(tmp_path, monkeypatch):
    write(tmp_path, ISIC2018DataModule, training=30)
    expected = all_ids(ISIC2018DataModule(tmp_path, split_seed=1))
    assert expected != all_ids(ISIC2018DataModule(tmp_path, split_seed=2))
    listed = Path.iterdir
    shuffled = random.Random(0)

    def in_any_order(folder):
        paths = list(listed(folder))
        shuffled.shuffle(paths)
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", in_any_order)
    data = ISIC2018DataModule(tmp_path, split_seed=1)
    assert {split: ids(data, split) for split in reversed(SPLITS)} == {s: expected[s] for s in reversed(SPLITS)}
    write(tmp_path, ISIC2018DataModule, test=2)
    assert ids(ISIC2018DataModule(tmp_path, split_seed=1), "val") == expected["val"]


# The cache


def test_seeds_and_splits_share_one_cache(tmp_path, monkeypatch):
    write(tmp_path, ISIC2018DataModule, training=10)
    store = ISIC2018DataModule(tmp_path).load("train")

    def unused(item, reader):
        raise AssertionError("decoded again")

    monkeypatch.setattr(isic, "_read_masks", unused)
    again = ISIC2018DataModule(tmp_path)
    assert torch.equal(again.load("train").image(2), store.image(2))
    again.load("val")
    ISIC2018DataModule(tmp_path, split_seed=1).load("test")
    with pytest.raises(AssertionError, match="decoded again"):
        ISIC2018DataModule(tmp_path, image_size=32).load("val")


def test_changed_file_is_read_again(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    before = ISIC2018DataModule(tmp_path).load("train")
    path = folders(tmp_path)[1] / f"{before.ids[0]}_segmentation.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    after = ISIC2018DataModule(tmp_path).load("train")
    assert torch.equal(after.reference(0), before.reference(0))
    assert not torch.equal(after.masks(0), before.masks(0))
    assert torch.equal(after.masks(1), before.masks(1))


def test_data_folder_is_only_read(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    before = sorted(tmp_path.rglob("*"))
    for folder in (*folders(tmp_path), tmp_path):
        folder.chmod(0o555)
    try:
        assert len(ids(ISIC2018DataModule(tmp_path), "train")) == 8
    finally:
        for folder in (tmp_path, *folders(tmp_path)):
            folder.chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(os.listdir(os.environ["DIFFMEDSEG_CACHE"])) == 1


# All together


def test_batches(tmp_path):
    write(tmp_path, ISIC2017DataModule, training=20, validation=3)
    data = ISIC2017DataModule(tmp_path, image_size=(16, 24), batch_size=4, eval_batch_size=2, steps_per_epoch=3)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for raw in batches:
        assert raw["image"].dtype == raw["mask"].dtype == torch.uint8
        batch = data.on_after_batch_transfer(raw, 0)
        assert batch["image"].shape == (4, 3, 16, 24)
        assert batch["mask"].shape == (4, 1, 16, 24)
        assert batch["image"].dtype == batch["mask"].dtype == torch.float32
        assert -1 <= batch["image"].min() < 0 < batch["image"].max() <= 1
        assert batch["mask"].unique().tolist() == [0, 1]
    data.setup("test")
    [first, last] = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    assert first["id"] + last["id"] == numbered("validation", 3)
    assert first["raters"].shape == (2, 1, 1, 16, 24)
    assert first["rater_valid"].tolist() == [[True], [True]]
    assert torch.equal(first["raters"][:, 0].float(), first["mask"])
    assert [tuple(masks.shape) for masks in first["reference"]] == [(1, 1, 32, 24), (1, 1, 12, 16)]
    assert -1 <= first["image"].min() < 0 < first["image"].max() <= 1
    [validation] = data.val_dataloader()
    assert set(validation["id"]) < set(numbered("training", 20))
