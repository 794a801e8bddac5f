"""Raw data sets of nnU-Net as they are."""

import json

import numpy as np
import pytest
import torch
from helpers.mri_files import SIZE, SPACING, labels, modality, write_nifti
from helpers.nnunet_files import (
    CASES,
    REGIONS,
    hounsfield,
    nnunet_label_map,
    picture_labels,
    write_ct,
    write_json,
    write_pictures,
    write_volumes,
)
from helpers.picture_files import SIZE as PICTURE, photo, save, yaml_module
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data.checking import check_data
from diffmedseg.data.nnunet.description import read_description
from diffmedseg.errors import DataError
from diffmedseg.reading.label_maps import draw_labels


def module(root, **options):
    return yaml_module("nnunet", root, **{"folds": 2, **options})


def edit(root, **changes):
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def stores(data):
    return [data.load(split) for split in ("train", "test")]


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_volumes_are_read_by_the_numbers_of_their_channels(ending, tmp_path):
    root = write_volumes(tmp_path / "Dataset001_Brain", ending=ending)
    data = module(root)
    assert (data.info.channels, data.info.regions) == (("FLAIR", "T1"), ("whole_tumour", "core", "enhancing"))
    assert (data.info.nested, data.info.title) == (True, "Dataset001_Brain")
    assert sorted({case for store in stores(data) for case in store.cases}) == sorted(CASES)
    nested = np.stack([labels() > 0, np.isin(labels(), [1, 4]), labels() == 4])  # the writers' values are 2, 1, 4
    for store in stores(data):
        for index in range(len(store)):
            number = int(store.ids[index].rsplit("_", 1)[1])
            assert np.array_equal(store.reference(index)[0], nested[:, number])
            assert store.spacing(index) == SPACING
            assert store.unsure(index) is None


def test_channels_of_more_than_ten_keep_the_order_of_their_numbers(tmp_path):
    channels = [f"m{number}" for number in range(12)]
    root = write_volumes(tmp_path, CASES[:2], channels)
    told = json.loads((root / "dataset.json").read_text())["channel_names"]
    edit(root, channel_names=dict(sorted(told.items())))  # 0, 1, 10, 11, 2
    everything = module(root).load("train")
    assert module(root).info.channels == tuple(channels)
    alone = module(root, modalities=["m10"]).load("train")
    assert torch.equal(alone.image(1), everything.image(1)[10:11])
    assert not torch.equal(alone.image(1), everything.image(1)[2:3])


def test_ct_is_clipped_to_the_foreground_of_cases_that_are_not_tested(tmp_path):
    root = write_ct(tmp_path / "Dataset002_CT")
    data = module(root)
    tested = data.split_cases("test")
    inside = np.concatenate([hounsfield(n)[labels() > 0] for n, case in enumerate(CASES) if case not in tested])
    low, high = np.percentile(inside, (0.5, 99.5))
    assert data.info.slice_input.ranges["CT"] == pytest.approx((low, high), abs=1e-3)
    assert "CT by its range" in data.info.normalisation
    store = module(root, image_size=[20, 16]).load("test")
    assert len(store) == SIZE[0] * len(tested)  # all slices: CT has no brain to be found
    case, number = store.ids[2].rsplit("_", 1)
    expected = np.clip((hounsfield(CASES.index(case))[int(number)] - low) / (high - low) * 2 - 1, -1, 1)
    assert np.allclose(store.image(2)[0], expected, atol=1e-3)
    chosen = module(root, ranges={"CT": [-100, 300]})
    assert chosen.info.slice_input.ranges == {"CT": (-100.0, 300.0)}


def test_the_ignore_label_is_left_out_of_losses_and_scores(tmp_path):
    root = write_volumes(tmp_path / "v", labels_of=REGIONS | {"ignore": 4})
    ignored = labels((1, 2, 3))
    ignored[:, :4] = 4
    for case in CASES:
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", ignored, np.uint8)
    store = module(root, image_size=[20, 16]).load("train")
    for index in range(len(store)):
        number = int(store.ids[index].rsplit("_", 1)[1])
        assert np.array_equal(store.unsure(index)[0], ignored[number] == 4)
        assert np.array_equal(store.field_of_view(index), ignored[number] != 4)
        assert not store.masks(index)[..., :4, :].any()
    pictures = module(write_pictures(tmp_path / "p", ignore=3), image_size=list(PICTURE)).load("train")
    for index in range(len(pictures)):
        expected = picture_labels(CASES.index(pictures.ids[index]), 3)
        assert np.array_equal(pictures.unsure(index)[0], expected == 3)
        assert np.array_equal(pictures.field_of_view(index), expected != 3)
        assert np.array_equal(pictures.reference(index)[0], [np.isin(expected, (1, 2)), expected == 2])


@pytest.mark.parametrize("grey", [False, True])
def test_pictures_are_read(grey, tmp_path):
    data = module(write_pictures(tmp_path / "Dataset003_Eyes", grey=grey), image_size=list(PICTURE))
    assert data.info.channels == (("grey",) if grey else ("red", "green", "blue"))
    assert (data.info.regions, data.info.nested) == (("disc", "cup"), True)
    store = data.load("test")
    for index in range(len(store)):
        number = CASES.index(store.ids[index])
        assert np.array_equal(store.reference(index)[0], [picture_labels(number) > 0, picture_labels(number) == 2])
        colours = photo(number)
        assert np.array_equal(store.image(index), colours[None, ..., 0] if grey else colours.transpose(2, 0, 1))


def test_splits_final_is_used_and_its_val_is_the_test_without_test_cases(tmp_path):
    root = write_volumes(tmp_path)
    folds = [{"train": list(CASES[2:]), "val": list(CASES[:2])}, {"train": list(CASES[:4]), "val": list(CASES[4:])}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    data = module(root, fold=1, val_fraction=0.25)
    assert data.split_cases("test") == set(CASES[4:])
    assert len(data.split_cases("train")) == 3
    assert len(data.split_cases("val")) == 1
    assert data.split_cases("train") | data.split_cases("val") == set(CASES[:4])
    with pytest.raises(DataError, match=r"folds 0 to 1, but no fold 2\. Set data\.fold"):
        module(root, folds=3, fold=2).split_cases("test")
    folds[0]["train"][0] = "gone"
    (root / "splits_final.json").write_text(json.dumps(folds))
    with pytest.raises(DataError, match=r"splits_final\.json names 1 case that the data set does not have: gone"):
        module(root).split_cases("test")
    (root / "splits_final.json").write_text("{")
    with pytest.raises(DataError, match=r"splits_final\.json is damaged"):
        module(root).split_cases("test")


def test_labelled_test_cases_are_the_test_set(tmp_path):
    root = write_pictures(tmp_path, CASES[:4])
    write_pictures(root, ["t1", "t2"], part="Ts")
    save(root / "imagesTs" / "unlabelled_0000.png", photo(9))
    (root / "splits_final.json").write_text(json.dumps([{"train": list(CASES[:3]), "val": [CASES[3]]}]))
    data = module(root)
    assert {split: data.split_cases(split) for split in ("train", "val", "test")} == {
        "train": set(CASES[:3]), "val": {CASES[3]}, "test": {"t1", "t2"}
    }  # fmt: skip
    (root / "splits_final.json").unlink()
    data = module(root, val_fraction=0.5)
    assert data.split_cases("test") == {"t1", "t2"}
    assert len(data.split_cases("val")) == 2
    for label in (root / "labelsTs").iterdir():
        label.unlink()
    assert module(root).split_cases("test") < set(CASES[:4])


def test_cases_of_one_patient_stay_together(tmp_path):
    data = module(write_pictures(tmp_path, ["a_1", "a_2", "b_1", "b_2"]), case=r"(?P<patient>[ab])_\d")
    assert {case[0] for case in data.split_cases("test")} < {"a", "b"}
    assert len(data.split_cases("test")) == 2


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2]])
def test_label_maps_are_those_of_nnunet(order, tmp_path):
    """Regions that are predicted as they are give the values that nnU-Net would give, by its order of classes."""
    write_json(tmp_path, ["MRI"], REGIONS, order=order)
    description = read_description(tmp_path)
    masks = np.stack([np.isin(labels((1, 2, 3)), values) for values in description.labels.values()])
    drawn = draw_labels(torch.from_numpy(masks), description.codes, description.nested)
    assert np.array_equal(drawn, nnunet_label_map(masks, order))
    if order == [1, 2, 3]:
        assert np.array_equal(drawn, labels((1, 2, 3)))


def test_regions_that_nest_in_another_order_are_not_taken_for_nested(tmp_path):
    write_json(tmp_path, ["MRI"], {"background": 0, "core": [2, 3], "whole": [1, 2, 3]}, order=[2, 1])
    assert not read_description(tmp_path).nested


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"0": "background", "1": "liver"}}, "nnU-Net v1 or of the Medical Segmentation Decathlon"),
        ({"labels": {"liver": 1}}, "labels have no background with the value 0"),
        ({"labels": REGIONS, "regions_class_order": [1, 2]}, "expected one value for each of whole_tumour, core, enh"),
        ({"labels": {"background": 0, "a": 2, "ignore": 1}}, "label ignore is 1; expected one value above 2"),
        ({"labels": {"background": 0, "a": "1"}}, "label a is 1; expected whole numbers"),
        ({"labels": {"background": 0}}, "labels name only background"),
        ({"channel_names": {"0": "T1", "2": "T2"}}, "numbered 0, 2; expected 0 to 1"),
        ({"channel_names": {}}, "it has no channel_names"),
        ({"file_ending": ".b2nd"}, r"file_ending is \.b2nd; expected \.nii\.gz"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(changes, said, tmp_path):
    write_json(tmp_path, ["MRI"], REGIONS, order=[1, 2, 3])
    edit(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"dataset\.json cannot be used: .*{said}"):
        read_description(tmp_path)


def test_a_missing_description_names_what_may_be_meant(tmp_path):
    write_json(tmp_path / "Dataset007_X", ["MRI"], REGIONS, order=[1, 2, 3])
    with pytest.raises(DataError, match="Name a folder in it, such as Dataset007_X"):
        module(tmp_path).split_cases("test")


def test_a_missing_channel_is_named(tmp_path):
    root = write_volumes(tmp_path)
    (root / "imagesTr" / "d_0000_e_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"d_0000_e_0001\.nii\.gz is missing\. It is the channel T1 of 2 channels in"):
        module(root).split_cases("test")


@pytest.mark.parametrize(
    ("name", "said"),
    [("imagesTr/b_3_0002.nii.gz", "has the channel number 2; .* names channels 0 to 1"),
     ("imagesTr/b.nii.gz", "has no number of a channel"),
     ("imagesTr/z_0000.nii.gz", r"There is no .*labelsTr/z\.nii\.gz")],
)  # fmt: skip
def test_files_too_many_are_named(name, said, tmp_path):
    root = write_volumes(tmp_path)
    write_nifti(root / name, modality(0))
    with pytest.raises(DataError, match=said):
        module(root).split_cases("test")


@pytest.mark.parametrize("value", [4, 255])
def test_a_label_that_the_description_does_not_name_is_refused_with_its_file(value, tmp_path):
    root = write_volumes(tmp_path, labels_of={"background": 0, "tumour": 1}, order=None)
    for case in CASES:
        found = (labels() > 0).astype(np.uint8)
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", found * (value if case == "b_3" else 1), np.uint8)
    with pytest.raises(DataError, match=rf"labelsTr/b_3\.nii\.gz has labels {value}; dataset\.json names 0, 1"):
        module(root).prepare_data()


def test_an_antialiased_label_map_is_refused_with_its_file(tmp_path):
    root = write_pictures(tmp_path)
    small = Image.fromarray(picture_labels(1) * 100).resize((20, 20)).resize(PICTURE[::-1], Image.Resampling.BILINEAR)
    small.save(root / "labelsTr" / "case_0002.png")
    with pytest.raises(DataError, match=r"case_0002\.png has values .*; this data set has 0, 1, 2\. The file was"):
        module(root).prepare_data()


def test_a_label_map_on_other_voxels_is_refused_with_its_file(tmp_path):
    root = write_volumes(tmp_path)
    write_nifti(root / "labelsTr" / "b_3.nii.gz", labels((1, 2, 3)), np.uint8, origin=(5, -239, 0))
    with pytest.raises(DataError, match=r"b_3_0000\.nii\.gz has origin .*labelsTr/b_3\.nii\.gz"):
        module(root).prepare_data()


def test_pictures_of_several_files_are_refused(tmp_path):
    root = write_pictures(tmp_path, grey=True)
    edit(root, channel_names={"0": "R", "1": "G", "2": "B"})
    for case in CASES:
        for number in (1, 2):
            save(root / "imagesTr" / f"{case}_{number:04d}.png", photo(0)[..., 0])
    with pytest.raises(DataError, match=r"has 3 pictures, one for each channel; .* Join them into .*_0000\.png"):
        module(root).split_cases("test")


def test_files_that_the_description_names_are_read(tmp_path):
    root = write_volumes(tmp_path)
    files = {
        case: {"images": [f"imagesTr/{case}_0001.nii.gz", f"imagesTr/{case}_0000.nii.gz"],
               "label": f"labelsTr/{case}.nii.gz"}
        for case in CASES[:4]
    }  # fmt: skip
    before = module(root).load("train")
    edit(root, dataset=files)
    data = module(root, folds=2)
    assert set(data.cases) == set(CASES[:4])
    after = data.load("train")
    name = next(name for name in after.ids if name in before.ids)
    assert torch.equal(after.image(after.ids.index(name)), before.image(before.ids.index(name)).flip(0))


def test_a_label_map_without_an_image_is_a_problem(tmp_path):
    root = write_pictures(tmp_path)
    save(root / "labelsTr" / "alone.png", picture_labels(0))
    found = check_data(module(root))
    assert any("alone" in str(problem.names) for problem in found.problems if problem.serious)


def test_the_command_line_checks_and_trains(tmp_path, capsys):
    pictures = write_pictures(tmp_path / "Dataset003_Eyes")
    with pytest.raises(SystemExit) as end:
        main(["data", "check", "nnunet", "--data.root", str(pictures), "--set", "image_size=16", "--set", "folds=2"])
    assert not end.value.code
    assert "Dataset003_Eyes" in capsys.readouterr().out
    root = write_volumes(tmp_path / "Dataset001_Brain")
    options = [
        "--data.image_size=16", "--data.batch_size=2", "--data.steps_per_epoch=2", "--data.folds=2",
        "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--model.num_samples=2", "--model.num_steps=2",
        f"--runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    main(["train", "medsegdiff-lite", "nnunet", f"--data.root={root}", *options])
    assert (tmp_path / "runs" / "medsegdiff-lite-nnunet" / "version_0" / "config.yaml").is_file()
