"""Files that say where a mask is not sure."""

import numpy as np
import pytest
import torch
from helpers.picture_files import SIZE, lesion, photo, save, save_mask, yaml_module

from diffmedseg.data import DermoscopyAugmentation
from diffmedseg.data.views import TrainingView, collate
from diffmedseg.errors import DataError


def write(root, number=6, doubted=range(3)):
    for i in range(number):
        save(root / "images" / f"p{i}.png", photo(i))
        save_mask(root / "masks" / f"p{i}.png", lesion(i))
    for i in doubted:
        save_mask(root / "unsure" / f"p{i}.png", border(i))


def border(seed):
    return lesion(seed, 1.3) & ~lesion(seed, 0.7)


def module(root, **options):
    return yaml_module("folder", root, image_size=SIZE, folds=2, val_fraction=0.34, **options)


def test_masks_are_read_as_without_and_unsure_pixels_beside_them(tmp_path):
    write(tmp_path)
    data = module(tmp_path)
    for split in ("train", "val", "test"):
        store = data.load(split)
        for index, name in enumerate(store.ids):
            number = int(name[1:])
            assert np.array_equal(store.masks(index)[0, 0], lesion(number))
            assert np.array_equal(store.reference(index)[0, 0], lesion(number))
            assert store.filled(index).all()
            unsure = store.unsure(index)
            expected = border(number) if number < 3 else np.zeros(SIZE, bool)
            assert unsure is None or np.array_equal(unsure[0], expected)
            assert (unsure is None) == (not any(int(one[1:]) < 3 for one in store.ids))


def test_an_unsure_mask_that_is_all_background_stays_empty(tmp_path):
    write(tmp_path, doubted=range(6))
    save_mask(tmp_path / "masks" / "p0.png", np.zeros(SIZE, bool))
    data = module(tmp_path)
    found = {
        name: store.filled(index)
        for split in ("train", "val", "test")
        for store in [data.load(split)]
        for index, name in enumerate(store.ids)
    }
    assert not found["p0"].any()
    assert found["p1"].all()


def test_without_files_nothing_is_unsure(tmp_path):
    write(tmp_path, doubted=())
    store = module(tmp_path).load("train")
    assert store.unsure(0) is None
    assert "unsure" not in TrainingView(store, 0)[0, 0]


def test_augmentation_moves_unsure_pixels_with_the_masks(tmp_path):
    write(tmp_path, doubted=range(6))
    for i in range(6):
        save_mask(tmp_path / "unsure" / f"p{i}.png", lesion(i))  # just where the mask is
    data = module(tmp_path, augment={"class_path": "diffmedseg.data.DermoscopyAugmentation"})
    assert isinstance(data.augment, DermoscopyAugmentation)
    view = TrainingView(data.load("train"), 0)
    batch = data.on_after_batch_transfer(collate([view[0, draw] for draw in range(8)]), 0)
    assert torch.equal(batch["mask"], batch["unsure"])
    assert not torch.equal(batch["mask"], collate([view[0, draw] for draw in range(8)])["mask"].float())


def test_the_mask_under_unsure_pixels_changes_no_image(tmp_path):
    write(tmp_path, doubted=range(6))
    data = module(tmp_path, augment={"class_path": "diffmedseg.data.DermoscopyAugmentation"})
    view = TrainingView(data.load("train"), 0)
    batches = [collate([view[0, draw] for draw in range(16)]) for _ in range(2)]
    batches[1]["mask"] = batches[1]["mask"] * (1 - batches[1]["unsure"])
    one, other = (data.on_after_batch_transfer(batch, 0) for batch in batches)
    assert torch.equal(one["image"], other["image"])


def test_patches_hold_the_unsure_pixels_of_their_place(tmp_path):
    write(tmp_path, doubted=range(6))
    for i in range(6):
        save_mask(tmp_path / "unsure" / f"p{i}.png", lesion(i))
    item = TrainingView(module(tmp_path).load("train"), 0, patch=12)[0, 3]
    assert item["unsure"].shape == (1, 12, 12)
    assert torch.equal(item["unsure"], item["mask"])


def test_a_file_of_another_size_is_named(tmp_path):
    write(tmp_path)
    save_mask(tmp_path / "unsure" / "p0.png", np.zeros((5, 7), bool))
    with pytest.raises(DataError, match=r"p0\.png has 7 x 5 pixels.*30 x 24"):
        module(tmp_path).load("train")
