"""LIDC-IDRI in folders of slices: written here in the layout of the real files."""

import json

import numpy as np
import pytest
from helpers.picture_files import save, yaml_module
from helpers.slice_files import PATIENTS, ROOT, SIDE, nodule, texture, write_slice, write_slices

from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.recipes import recipe


@pytest.fixture
def root(tmp_path):
    write_slices(tmp_path)
    return tmp_path


def stores(data):
    return {split: data.load(split) for split in ("train", "val", "test")}


def test_empty_masks_are_masks_of_raters(root):
    data = yaml_module("lidc_slices", root)
    assert (data.info.raters, data.info.regions, data.info.channels) == (4, ("nodule",), ("grey",))
    for store in stores(data).values():
        for i, name in enumerate(store.ids):
            drawn = int(name[-1])
            assert name == f"{data.patient(store.cases[i])}_nodule-0_slice-{drawn}"
            assert store.masks(i).shape == (4, 1, 16, 16)
            assert store.reference(i).flatten(1).any(1).tolist() == [rater < drawn for rater in range(4)]
            assert store.filled(i)[:, 0].tolist() == [rater < drawn for rater in range(4)]


def test_six_of_ten_patients_train_and_the_split_is_read_back(root, tmp_path):
    file = tmp_path / "splits.yaml"
    data = yaml_module("lidc_slices", root, splits=str(file))
    data.prepare_data()
    patients = {split: {data.patient(case) for case in store.cases} for split, store in stores(data).items()}
    assert {split: len(found) for split, found in patients.items()} == {"train": 6, "val": 2, "test": 2}
    assert set.union(*patients.values()) == set(PATIENTS)
    assert file.is_file()
    again = yaml_module("lidc_slices", root, splits=str(file), min_nonempty=2)
    assert again.split_ids == data.split_ids
    drawn_anew = yaml_module("lidc_slices", root)
    assert drawn_anew.split_ids == data.split_ids


def test_a_track_keeps_slices_with_enough_masks_in_the_same_splits(root):
    everything = stores(yaml_module("lidc_slices", root))
    for least in range(5):
        for split, store in stores(yaml_module("lidc_slices", root, min_nonempty=least)).items():
            assert store.ids == [name for name in everything[split].ids if int(name[-1]) >= least]
    with pytest.raises(DataError, match=r"no picture of the train split has 5 masks that are not empty\. Set min_none"):
        yaml_module("lidc_slices", root, min_nonempty=5).load("train")


def test_a_mask_that_the_grid_loses_is_still_a_mask(root):
    """A nodule of one pixel is empty on a third of the grid; the files decide which track a slice is in."""
    for rater in range(4):
        dot = np.zeros((SIDE, SIDE), np.uint8)
        dot[12, 12] = 255
        save(root / ROOT / PATIENTS[0] / "nodule-0" / f"mask-{rater}" / "slice-0.png", dot)
    found = stores(yaml_module("lidc_slices", root, image_size=8, min_nonempty=4))
    [(store, i)] = [
        (store, store.ids.index(f"{PATIENTS[0]}_nodule-0_slice-0"))
        for store in found.values()
        if f"{PATIENTS[0]}_nodule-0_slice-0" in store.ids
    ]
    assert not store.masks(i).any()
    assert store.filled(i).all()


def test_a_slice_without_its_four_masks_is_refused(root):
    folder = root / ROOT / PATIENTS[3] / "nodule-0"
    (folder / "mask-2" / "slice-1.png").unlink()
    with pytest.raises(DataError, match=r"1 picture without all of the 4 .*slice-1\.png has no mask .*mask-2/slice-1"):
        yaml_module("lidc_slices", root).load("train")
    for file in (folder / "mask-2").iterdir():
        file.unlink()
    (folder / "mask-2").rmdir()
    with pytest.raises(
        DataError, match=r"5 pictures without all .*mask-2/slice-0.*Download these files again"
    ) as error:
        yaml_module("lidc_slices", root).load("train")
    assert len(error.value.names) == 5


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (nodule(5) // 255, r"slice-2\.png has values 1; this data set has 0, 255"),
        (nodule(5) // 2, r"slice-2\.png has values 127; this data set has 0, 255"),
        (nodule(5)[:-2], r"have different sizes"),
    ],
)
def test_a_mask_of_other_values_or_size_is_refused(root, mask, message):
    save(root / ROOT / PATIENTS[5] / "nodule-0" / "mask-1" / "slice-2.png", mask)
    with pytest.raises(DataError, match=message) as error:
        yaml_module("lidc_slices", root).load("train")
    assert f"{PATIENTS[5]}" in str(error.value)


def test_masks_of_another_size_than_their_picture_are_refused(root):
    save(root / ROOT / PATIENTS[5] / "nodule-0" / "images" / "slice-2.png", texture(3)[:12])
    with pytest.raises(DataError, match=rf"{PATIENTS[5]}.*slice-2\.png needs masks of"):
        yaml_module("lidc_slices", root).load("train")


def test_nodules_that_share_slices_are_named_and_stay_in_one_split(root, capsys):
    """As nodule-2 and nodule-3 of LIDC-IDRI-0733; neighbouring slices of a patient may be nearly the same."""
    for index in range(3):
        write_slice(root, PATIENTS[0], 1, index, 4, seed=index)  # the pixels of nodule-0
    near = texture(70).copy()
    near[0, 0] ^= 1
    save(root / ROOT / PATIENTS[7] / "nodule-0" / "images" / "slice-1.png", near)
    with pytest.raises(SystemExit) as done:
        main(["data", "check", "lidc_slices", str(root), "--json", "--set", "image_size=24"])
    found = json.loads(capsys.readouterr().out)
    assert done.value.code == 0
    [problem] = found["problems"]
    assert (problem["kind"], problem["serious"]) == ("same image", False)
    assert "Pairs of one patient, who is in one split only: 3." in problem["text"]
    assert problem["names"][0] == f"{PATIENTS[0]}_nodule-0_slice-0 = {PATIENTS[0]}_nodule-1_slice-0"


def test_the_yaml_says_what_the_data_is():
    assert yaml_module("lidc_slices", ".").augment.translate == 0  # each nodule lies at the centre
    names = {file.name for file in recipe("medsegdiff-v2", "lidc_slices").files}
    assert {"medsegdiff+often_empty.yaml", "medsegdiff+several_raters.yaml"} <= names
