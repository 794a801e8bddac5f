"""Images of raw data sets of nnU-Net as inputs of ``predict``."""

import json

import numpy as np
import pytest
from helpers.nnunet_files import CASES, write_pictures, write_volumes
from helpers.picture_files import yaml_module

from diffmedseg.errors import DataError
from diffmedseg.prediction import Naming, find_cases, find_pictures
from diffmedseg.prediction.volumes.reading import read_case


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_predict_reads_what_training_reads(ending, tmp_path):
    root = write_volumes(tmp_path / "Dataset001_Brain", CASES[:3], ending=ending)
    data = yaml_module("nnunet", root, folds=2)
    cases = find_cases([root / "imagesTr"], Naming(("T1", "FLAIR"), {}))  # the other order
    assert [case.name for case in cases] == sorted(CASES[:3])
    natives = {native.id: native for split in ("train", "test") for native in data.native_cases(split)}
    for case in cases:
        volume, native = read_case(case), natives[case.name]
        assert volume.spacing == tuple(native.grid.spacing[::-1])
        for channel, trained in zip(volume.channels, native.image[::-1], strict=True):
            assert np.array_equal(channel.astype(np.float32), trained)


def test_the_current_folder_is_known_by_its_name(tmp_path, monkeypatch):
    root = write_volumes(tmp_path / "Dataset001_Brain", CASES[:2])
    monkeypatch.chdir(root / "imagesTr")
    assert [case.name for case in find_cases(["."], Naming(("FLAIR", "T1"), {}))] == sorted(CASES[:2])


def test_a_missing_channel_is_named(tmp_path):
    root = write_volumes(tmp_path / "Dataset001_Brain", CASES[:2])
    (root / "imagesTr" / f"{CASES[1]}_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=f"{CASES[1]}_0001.nii.gz is missing"):
        find_cases([root / "imagesTr"], Naming(("FLAIR", "T1"), {}))


def test_folders_of_another_data_set_are_searched_by_names(tmp_path):
    root = write_volumes(tmp_path / "Task01_Brain", CASES[:1], channels=("FLAIR",))
    (root / "imagesTr" / f"{CASES[0]}_0000.nii.gz").rename(root / "imagesTr" / "a_flair.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "FLAIR"}, "labels": {"0": "background"}}))
    [case] = find_cases([root / "imagesTr" / "a_flair.nii.gz"], Naming(("flair",), {}))
    assert case.name == "a_flair"
    [case] = find_cases([root / "imagesTr"], Naming(("flair",), {}))
    assert not case.images


def test_pictures_are_named_after_their_cases(tmp_path):
    root = write_pictures(tmp_path / "Dataset003_Eyes")
    assert sorted(picture.name for picture in find_pictures([root / "imagesTr"])) == sorted(CASES)
    (root / "dataset.json").unlink()
    assert all(picture.name.endswith("_0000") for picture in find_pictures([root / "imagesTr"]))
