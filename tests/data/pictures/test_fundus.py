"""The official layouts of fundus data sets, with their traps."""

import csv

import numpy as np
import pytest
import torch
from helpers.picture_files import SIZE, lesion, photo, save, save_mask, write_refuge, yaml_module
from helpers.tiny_run import TINY
from PIL import Image

from diffmedseg import load_checkpoint
from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.segmentation import majority


def write_chase(root, children):
    """Both eyes, two observers, masks of one bit."""
    for child in children:
        for eye in "LR":
            save(root / f"Image_{child:02d}{eye}.jpg", photo(child))
            for observer, scale in (("1st", 1), ("2nd", 0.8)):
                path = root / f"Image_{child:02d}{eye}_{observer}HO.png"
                Image.fromarray(lesion(child, scale)).convert("1").save(path)


def test_chase_has_two_published_splits_and_eyes_stay_together(tmp_path):
    write_chase(tmp_path, range(1, 15))
    for split, tested in (("first_ten", {11, 12, 13, 14}), ("last_four", set(range(1, 11)))):
        data = yaml_module("chase", tmp_path, split_by=split)
        found = {name: [int(id_[6:8]) for id_ in data.load(name).ids] for name in ("train", "val", "test")}
        assert set(found["test"]) == tested
        assert len(found["test"]) == 2 * len(tested)
        assert not set(found["test"]) & set(found["train"] + found["val"])
        assert set(found["test"] + found["train"] + found["val"]) == set(range(1, 15))
    store = data.load("test")
    assert store.reference(0).shape == (2, 1, *SIZE)
    assert np.array_equal(store.reference(0)[0, 0], lesion(int(store.ids[0][6:8])))


def test_a_published_split_whose_test_set_is_not_there_is_refused(tmp_path):
    write_chase(tmp_path, range(1, 11))
    with pytest.raises(DataError, match=r"None of the 20 cases belongs to the published test set.*split_by folds"):
        yaml_module("chase", tmp_path).load("train")
    folds = yaml_module("chase", tmp_path, split_by="folds", folds=5)
    assert len(folds.load("test")) == 4
    with pytest.raises(DataError, match="split_by is 'last'; it may be first_ten, folds, last_four"):
        yaml_module("chase", tmp_path, split_by="last")


def write_drive(root, truth_of_test=True):
    """Grey GIFs of the first observer, GIFs with a palette of the second."""
    for part, numbers in (("training", (21, 22, 23, 24)), ("test", (1, 2))):
        folder = root / "DRIVE" / part
        for number in numbers:
            save(folder / "images" / f"{number:02d}_{part}.tif", photo(number))
            seen = np.zeros(SIZE, bool)
            seen[:, 4:-4] = True
            save_mask(folder / "mask" / f"{number:02d}_{part}_mask.gif", seen)
            if part == "training" or truth_of_test:
                save_mask(folder / "1st_manual" / f"{number:02d}_manual1.gif", lesion(number))
            if part == "test" and truth_of_test:
                second = Image.fromarray(lesion(number, 0.8).astype(np.uint8), "P")
                second.putpalette([4, 2, 4, 252, 254, 252])
                (folder / "2nd_manual").mkdir(exist_ok=True)
                second.save(folder / "2nd_manual" / f"{number:02d}_manual2.gif")


def test_drive_reads_both_kinds_of_gif(tmp_path):
    write_drive(tmp_path)
    data = yaml_module("drive", tmp_path)
    assert data.info.raters == 2
    train, test = data.load("train"), data.load("test")
    assert sorted(test.ids) == ["01_test", "02_test"]
    assert train.reference(0).shape == (1, 1, *SIZE)
    first, second = test.reference(0)[:, 0].numpy()
    assert np.array_equal(first, lesion(1))
    assert np.array_equal(second, lesion(1, 0.8))
    seen = test.field_of_view(0)
    assert seen.shape == SIZE
    assert seen.float().mean() == pytest.approx(22 / 30)


def test_drive_without_its_hidden_masks_says_so(tmp_path):
    write_drive(tmp_path, truth_of_test=False)
    with pytest.raises(DataError, match=r"(?s)published test set.*split_by folds.*no masks of the test set"):
        yaml_module("drive", tmp_path).load("train")
    assert len(yaml_module("drive", tmp_path, split_by="folds", folds=2).load("test")) == 2


def test_a_missing_field_of_view_is_named(tmp_path):
    write_drive(tmp_path)
    (tmp_path / "DRIVE" / "test" / "mask" / "01_test_mask.gif").unlink()
    with pytest.raises(DataError, match=r"01_test\.tif has no field of view"):
        yaml_module("drive", tmp_path).load("test")


@pytest.mark.parametrize("suffix", ["bmp", "png"])
def test_refuge_is_inverted_and_nested(suffix, tmp_path):
    write_refuge(tmp_path, suffix)
    data = yaml_module("refuge", tmp_path)
    assert (data.info.regions, data.info.nested) == (("disc", "cup"), True)
    assert {name: sorted(data.load(name).ids) for name in ("train", "val", "test")} == {
        "train": ["g0001", "n0001", "n0002"], "val": ["V0001"], "test": ["T0001", "T0002"],
    }  # fmt: skip
    disc, cup = data.load("test").reference(1)[0].numpy()
    assert np.array_equal(disc, lesion(5))
    assert np.array_equal(cup, lesion(5, 0.5))


def test_refuge_coded_otherwise_is_refused(tmp_path):
    """A copy on Kaggle has the cup at 255."""
    places = write_refuge(tmp_path)
    coded = np.zeros(SIZE, np.uint8)
    coded[lesion(3)], coded[lesion(3, 0.5)] = 64, 255
    save(tmp_path / f"{places['Test400/T0001']}.bmp", coded)
    with pytest.raises(DataError, match=r"T0001\.bmp has values 64; this data set has 0, 128, 255"):
        yaml_module("refuge", tmp_path).load("test")


def test_refuge_by_seven_raters(tmp_path):
    for part in ("Training-400", "Test-400"):
        for name in ("g0001", "n0002", "n0003"):
            folder = tmp_path / part / name
            save(folder / f"{name}.jpg", photo(1))
            save(folder / f"{name}_cropped.jpg", photo(1)[:9])
            for rater in range(1, 8):
                save_mask(folder / f"{name}_seg_disc_{rater}.png", lesion(1, 0.8 + rater / 20))
                save_mask(folder / f"{name}_seg_cup_{rater}.png", lesion(1, 0.4))
    data = yaml_module("refuge_multirater", tmp_path)
    assert (data.info.raters, data.info.regions) == (7, ("disc", "cup"))
    store = data.load("test")
    assert store.ids == ["Test-400_g0001", "Test-400_n0002", "Test-400_n0003"]
    assert np.array_equal(store.reference(0)[6, 0], lesion(1, 1.15))


def test_vessels_are_trained_on_patches(tmp_path):
    write_chase(tmp_path, range(1, 15))
    data = yaml_module("chase", tmp_path, image_size=32, patch=12, batch_size=6, augment=False)
    data.setup("fit")
    batches = [next(iter(data.train_dataloader())) for _ in range(2)]
    batch = batches[0]
    assert batch["image"].shape == (6, 3, 12, 12)
    assert batch["mask"].shape == (6, 1, 12, 12)
    assert torch.equal(batch["image"], batches[1]["image"])  # keyed by the draw
    assert next(iter(data.val_dataloader()))["image"].shape[-2:] == (32, 32)
    store, index = data.stores["train"], data.stores["train"].ids.index(batch["id"][0])
    places = store.image(index).unfold(1, 12, 1).unfold(2, 12, 1).permute(1, 2, 0, 3, 4)
    top, left = (places == batch["image"][0]).flatten(2).all(2).nonzero()[0].tolist()
    masks = store.masks(index)[:, :, top : top + 12, left : left + 12]
    assert any(torch.equal(mask, batch["mask"][0]) for mask in masks)
    with pytest.raises(DataError, match="patch is 4; it has to be at least 8"):
        yaml_module("chase", tmp_path, patch=4)


def test_of_two_raters_the_first_is_the_reference():
    masks = torch.tensor([1, 0, 1, 0, 1, 1, 0, 0]).reshape(2, 1, 2, 2)
    assert torch.equal(majority(masks), masks[0])
    assert torch.equal(majority(torch.cat([masks, masks])), torch.ones(1, 2, 2).long() * (masks.sum(0) > 0))


@pytest.mark.parametrize("name", ["chase", "drive"])
def test_make_train_on_vessels(name, tmp_path):
    """From patches to whole images, scored by their centrelines, too."""
    root = tmp_path / "data"
    write_chase(root, range(1, 15)) if name == "chase" else write_drive(root)
    tiny = [option for option in TINY if not option.startswith("--data.num_")]
    options = [f"--data.root={root}", f"--runs={tmp_path}", "--data.image_size=32", "--data.patch=16"]
    main(["train", "medsegdiff-lite", name, *tiny, *options])
    run = tmp_path / f"medsegdiff-lite-{name}" / "version_0"
    rows = list(csv.DictReader((run / "cases.csv").open()))
    assert all(0 <= float(row["cl_dice"]) <= 1 for row in rows)
    assert {row["num_raters"] for row in rows} == {"2"}
    pixels = SIZE[0] * SIZE[1] if name == "chase" else SIZE[0] * (SIZE[1] - 8)  # of the field of view
    seen = slice(None) if name == "chase" else slice(4, -4)
    for row in rows:
        number = int(row["case"][6:8] if name == "chase" else row["case"][:2])
        assert float(row["density_reference"]) == pytest.approx(lesion(number)[:, seen].sum() / pixels)
        assert float(row["density_low"]) <= float(row["density_high"])
    assert int(load_checkpoint(run).tiling.crop) == 16
