"""Data sets written as raw data sets of nnU-Net, and read back."""

import json

import numpy as np
import pytest
import torch
from helpers.mri_files import data_module, write_layout
from helpers.nnunet_files import CASES, nnunet_label_map, read_labels, write_ct, write_pictures, write_volumes
from helpers.picture_files import SIZE as PICTURE, lesion, photo, save, save_mask, yaml_module

from diffmedseg.cli import main
from diffmedseg.data.nnunet.description import read_description
from diffmedseg.data.nnunet.labels import count_patterns, label_scheme
from diffmedseg.data.nnunet.writing import write_nnunet
from diffmedseg.errors import DataError

SPLITS = ("train", "val", "test")


def read_back(out, data):
    options = {"image_size": list(data.image_size), "folds": data.folds}
    return yaml_module("nnunet", out, **options)


def assert_same(data, again):
    """Both have the same splits, images, regions and unsure pixels."""
    for split in SPLITS:
        first, second = data.dataset(split), again.dataset(split)
        assert list(first.ids) == list(second.ids)
        assert len(first)
        for index in range(len(first)):
            assert torch.equal(first.image(index), second.image(index))
            assert torch.equal(first.reference(index), second.reference(index))
            unsure = first.unsure(index)
            assert (unsure is None) == (second.unsure(index) is None)
            if unsure is not None:
                assert torch.equal(unsure, second.unsure(index))


@pytest.mark.parametrize("name", ["brats", "brats2015", "msd_brain", "lgg", "volumes"])
def test_volumes_come_back_as_they_were(name, tmp_path):
    write_layout(name, tmp_path / "data")
    data, out = data_module(name, tmp_path / "data", val_fraction=0.34), tmp_path / "Dataset501_Brain"
    facts = write_nnunet(data, out)
    assert json.loads((out / "dataset.json").read_text()) == facts
    again = read_back(out, data)
    assert (again.info.regions, again.info.nested) == (data.info.regions, data.info.nested)
    assert again.info.channels == data.info.channels
    assert_same(data, again)
    if data.info.nested:
        assert facts["labels"]["whole_tumour"] == [1, 2, 3]
        assert facts["regions_class_order"] == [1, 2, 3]
    description = read_description(out)
    for path in (out / "labelsTr").iterdir():  # a perfect prediction gives the label map that was written
        truth = read_labels(path)
        masks = np.stack([np.isin(truth, values) for values in description.labels.values()])
        assert np.array_equal(nnunet_label_map(masks, facts.get("regions_class_order", [1])), truth)


def test_a_written_set_is_written_again_as_it_is(tmp_path):
    root = write_volumes(
        tmp_path / "Dataset001_A", labels_of={"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}, order=None
    )
    data = yaml_module("nnunet", root, folds=2)
    out = tmp_path / "Dataset002_B"
    facts = write_nnunet(data, out)
    assert facts["labels"] == {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}
    assert "regions_class_order" not in facts
    assert_same(data, read_back(out, data))


def test_ct_stays_ct(tmp_path):
    data = yaml_module("nnunet", write_ct(tmp_path / "Dataset001_CT"), folds=2)
    out = tmp_path / "Dataset002_CT"
    assert write_nnunet(data, out)["channel_names"] == {"0": "CT"}
    again = read_back(out, data)
    assert again.info.slice_input == data.info.slice_input
    assert_same(data, again)


@pytest.mark.parametrize("ignore", [None, 3])
def test_pictures_come_back_as_they_were(ignore, tmp_path):
    data = yaml_module("nnunet", write_pictures(tmp_path / "Dataset003_Eyes", ignore=ignore), folds=2)
    out = tmp_path / "Dataset004_Eyes"
    facts = write_nnunet(data, out)
    assert facts["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert facts["labels"]["cup"] == 2
    assert_same(data, read_back(out, data))


def write_two_raters(root):
    for number in range(6):
        save(root / "images" / f"p{number}.png", photo(number))
        for rater in (0, 1):
            save_mask(root / f"masks_{rater}" / f"p{number}.png", lesion(number, 1 - rater / 3))


def test_several_raters_are_refused_or_fused_as_said(tmp_path, capsys):
    write_two_raters(tmp_path / "data")
    data, out = yaml_module("folder", tmp_path / "data", folds=3, image_size=list(PICTURE)), tmp_path / "Dataset005_F"
    with pytest.raises(DataError, match=r"has 2 raters; nnU-Net takes one label map .* --raters majority"):
        write_nnunet(data, out)
    assert not out.exists()
    options = ["--set", "folds=3", "--out", str(out), "--raters", "majority"]
    main(["data", "convert", "folder", str(tmp_path / "data"), *options])
    assert "Label maps have the mask of the first rater of 2 raters." in capsys.readouterr().out
    again = read_back(out, data)
    for split in SPLITS:
        first, second = data.dataset(split), again.dataset(split)
        assert list(first.ids) == list(second.ids)
        for index in range(len(first)):
            assert torch.equal(first.image(index), second.image(index))
            assert torch.equal(first.reference(index)[:1], second.reference(index))


def test_a_folder_that_nnunet_does_not_take_is_refused(tmp_path):
    data = yaml_module("nnunet", write_pictures(tmp_path / "p"), folds=2)
    with pytest.raises(DataError, match="eyes is no name of nnU-Net"):
        write_nnunet(data, tmp_path / "eyes")
    (tmp_path / "Dataset001_A").mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_nnunet(data, tmp_path / "Dataset001_A")


def test_generated_images_are_refused(tmp_path):
    from helpers.tiny_run import tiny_data

    with pytest.raises(DataError, match="nothing to convert"):
        write_nnunet(tiny_data(raters=1), tmp_path / "Dataset001_A")


@pytest.mark.parametrize("regions", [1, 2, 3, 4])
def test_every_pattern_of_regions_is_told_apart(regions):
    """Whatever overlaps whatever: the values of a label map give each region back."""
    masks = np.random.default_rng(regions).integers(0, 2, (regions, 20, 20), dtype=np.uint8)
    scheme = label_scheme([f"r{k}" for k in range(regions)], count_patterns([masks]), False)
    drawn, said = scheme.draw(masks, None), scheme.as_dict()["labels"]
    for k, mask in enumerate(masks):
        assert np.array_equal(np.isin(drawn, said[f"r{k}"]), mask > 0)
    assert sorted(set(np.unique(drawn)) - {0}) == list(range(1, 2**regions))


def test_larger_regions_are_drawn_first(tmp_path):
    outer = np.zeros((1, 9, 9), np.uint8)
    outer[:, 1:8, 1:8] = 1
    inner = np.zeros_like(outer)
    inner[:, 3:5, 3:5] = 1
    masks = np.concatenate([inner, outer])
    said = label_scheme(["inner", "outer"], count_patterns([masks]), False).as_dict()
    assert list(said["labels"]) == ["background", "outer", "inner"]
    truth = label_scheme(["inner", "outer"], count_patterns([masks]), False).draw(masks, None)
    assert np.array_equal(nnunet_label_map(masks[::-1], said["regions_class_order"]), truth)


def test_test_cases_lie_apart(tmp_path):
    data, out = yaml_module("nnunet", write_pictures(tmp_path / "p"), folds=2), tmp_path / "Dataset001_A"
    write_nnunet(data, out)
    assert {path.stem for path in (out / "labelsTs").iterdir()} == data.split_cases("test")
    assert {path.stem for path in (out / "labelsTr").iterdir()} == set(CASES) - data.split_cases("test")
    [fold] = json.loads((out / "splits_final.json").read_text())
    assert set(fold["train"]) == data.split_cases("train")
