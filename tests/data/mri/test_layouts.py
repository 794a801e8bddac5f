import gzip
import logging
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.mri_files import (
    LAYOUTS,
    SIZE,
    SPACING,
    brain,
    data_module,
    labels,
    modality,
    write_brats,
    write_brats2015,
    write_layout,
    write_lgg,
    write_nifti,
)
from PIL import Image

from diffmedseg.data import FourDimensional
from diffmedseg.data.checking import check_data
from diffmedseg.errors import DataError

ALONE = {"lgg": "tumour", "volumes": "foreground"}  # data of one region
CASES = ["BraTS2021_00000", "BraTS2021_00001"]


def regions(name):
    """The truth, by region, of what the writers write."""
    found = labels()
    nested = [found > 0, np.isin(found, [1, 4]), found == 4]
    return np.stack(nested[:1] if name in ALONE else nested)


@pytest.mark.parametrize("name", LAYOUTS)
def test_reads_the_official_layout(name, tmp_path):
    cases = write_layout(name, tmp_path)
    data = data_module(name, tmp_path, splits=None)
    stores = [data.load(split) for split in ("train", "test")]
    assert sorted({case for store in stores for case in store.cases}) == sorted(cases)
    nested = ("whole_tumour", "tumour_core", "enhancing_tumour")
    assert data.info.regions == ((ALONE[name],) if name in ALONE else nested)
    assert data.info.nested == (name not in ALONE)
    for store in stores:
        assert set(store.cases).isdisjoint(set(stores[0].cases if store is stores[1] else stores[1].cases))
        for index in range(len(store)):
            number = int(store.ids[index].rsplit("_", 1)[1])
            assert np.array_equal(store.reference(index)[0], regions(name)[:, number])
            image = store.image(index)
            assert image.shape == (len(data.info.channels), 16, 16)
            assert image.abs().max() <= 1
            assert store.label(index) == int(labels()[number].any())
            assert store.spacing(index) == ((1.0, 1.0, 1.0) if name == "lgg" else SPACING)


@pytest.mark.parametrize("name", LAYOUTS)
def test_slices_without_brain_are_left_out(name, tmp_path):
    write_layout(name, tmp_path)
    store = data_module(name, tmp_path).load("test")
    shown = brain().any((1, 2)).sum()
    assert len(store) == shown * len(set(store.cases))
    assert shown < SIZE[0]


def test_channels_are_the_modalities_that_were_asked_for(tmp_path):
    write_brats(tmp_path, CASES)
    everything = data_module("brats", tmp_path).load("train")
    chosen = data_module("brats", tmp_path, modalities=["flair", "t1"])
    assert chosen.info.channels == ("flair", "t1")
    some = chosen.load("train")
    for index in range(len(some)):
        assert torch.equal(some.image(index), everything.image(index)[[3, 0]])
    with pytest.raises(DataError, match="expected some of t1, t1ce, t2, flair"):
        data_module("brats", tmp_path, modalities=["adc"])


@pytest.mark.parametrize("name", ["msd_brain", "lgg"])
def test_modalities_along_an_axis(name, tmp_path):
    write_layout(name, tmp_path)
    everything = data_module(name, tmp_path)
    last = everything.info.channels[-1]
    some = data_module(name, tmp_path, modalities=[last]).load("train")
    if name == "msd_brain":
        assert torch.equal(some.image(3), everything.load("train").image(3)[-1:])
    assert data_module(name, tmp_path, modalities=[last]).info.channels == (last,)


def test_whole_tumour_alone(tmp_path):
    write_brats(tmp_path, CASES)
    data = data_module("brats", tmp_path, regions=["whole_tumour"])
    assert (data.info.regions, data.info.nested) == (("whole_tumour",), False)
    assert data.load("test").masks(2).shape == (1, 1, 16, 16)


def test_slices_are_ordered_by_number(tmp_path):
    write_lgg(tmp_path, LAYOUTS["lgg"][1])
    data = data_module("lgg", tmp_path)
    case = next(iter(data.cases.values()))
    assert [path.stem.rsplit("_", 1)[1] for path in case.images] == ["8", "9", "10", "11", "12", "13"]


def test_a_duplicate_tree_is_not_counted_twice(tmp_path, caplog):
    write_lgg(tmp_path, LAYOUTS["lgg"][1])
    shutil.copytree(tmp_path / "kaggle_3m", tmp_path / "lgg-mri-segmentation" / "kaggle_3m")
    assert len(data_module("lgg", tmp_path).cases) == 3
    assert "3 cases occur more than once" in caplog.text
    (tmp_path / "kaggle_3m" / LAYOUTS["lgg"][1][0] / ".DS_Store").touch()
    assert len(data_module("lgg", tmp_path).cases) == 3
    mask = next((tmp_path / "kaggle_3m" / LAYOUTS["lgg"][1][0]).glob("*_mask.tif"))
    content = bytearray(mask.read_bytes())
    content[-200] ^= 255
    mask.write_bytes(content)  # another content of the same size
    with pytest.raises(DataError, match="Different cases have the name TCGA_CS_4941_19960909"):
        data_module("lgg", tmp_path).cases  # noqa: B018


def test_a_copy_in_place_of_a_missing_sequence_is_named(tmp_path, caplog):
    """Kaggle's lgg has FLAIR where a case lacks the sequence before or after contrast."""
    cases = LAYOUTS["lgg"][1]
    write_lgg(tmp_path, cases)
    assert not data_module("lgg", tmp_path).find_warnings()
    assert "are the same" not in caplog.text
    for case, channel in ((cases[0], 0), (cases[1], 2), (cases[2], 2)):
        for path in (tmp_path / "kaggle_3m" / case).glob("*[0-9].tif"):
            colours = np.array(Image.open(path))
            colours[..., channel] = colours[..., 1]
            Image.fromarray(colours).save(path)
    data = data_module("lgg", tmp_path)
    data.prepare_data()
    assert len([record for record in caplog.records if "are the same" in record.message]) == 1
    assert "t1 and flair are the same in 1 of 3 cases. " in caplog.text
    assert f"In these cases the name of the channel is wrong. {cases[1]}, {cases[2]}\n" in caplog.text
    caplog.clear()
    found = check_data(data_module("lgg", tmp_path))
    assert "are the same" not in caplog.text  # it was said when the cases were decoded
    doubts = [problem for problem in found.problems if problem.kind == "same channels"]
    assert [(problem.names, problem.serious) for problem in doubts] == [(cases[:1], False), (sorted(cases[1:]), False)]
    assert not data_module("lgg", tmp_path, modalities=["flair"]).find_warnings()


def test_kaggles_case_355(tmp_path, caplog):
    write_layout("brats2020", tmp_path)
    folder = tmp_path / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_355"
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    data = data_module("brats2020", tmp_path)
    assert data.cases["BraTS20_Training_355"].segmentation[0].name == "W39_1998.09.19_Segm.nii"
    assert "W39_1998.09.19_Segm.nii" in caplog.text


def test_tables_beside_the_cases_do_no_harm(tmp_path):
    write_layout("brats2020", tmp_path)
    for name in ("name_mapping.csv", "survival_info.csv"):
        (tmp_path / "MICCAI_BraTS2020_TrainingData" / name).write_text("a,b\n")
    assert len(data_module("brats2020", tmp_path).cases) == 3


def test_visits_of_a_patient_stay_together(tmp_path):
    write_layout("brats2023", tmp_path)
    for fold in (0, 1):
        splits = data_module("brats2023", tmp_path, fold=fold).split_ids
        first = {"BraTS-GLI-00000-000", "BraTS-GLI-00000-001"}
        assert first <= set(splits["train"]) or first <= set(splits["test"])


@pytest.mark.parametrize(
    ("there", "asked"),
    [("brats2023", "brats"), ("brats2015", "brats"), ("msd_brain", "brats2020"), ("lgg", "msd_brain"),
     ("brats", "brats2023"), ("brats2019", "brats2018"), ("brats2020", "lgg")],
)  # fmt: skip
def test_another_layout_is_refused_naming_the_yaml_that_fits(there, asked, tmp_path):
    write_layout(there, tmp_path)
    with pytest.raises(
        DataError, match=rf"(?s)No case in .*expected .*there is .*This looks like the data set {there}\."
    ) as error:
        data_module(asked, tmp_path).prepare_data()
    assert "--data.root FOLDER" in str(error.value)


def write_vsd(root):
    """BraTS 2015 as published."""
    for case in ("brats_2013_pat0001_1", "brats_tcia_pat101_1"):
        for number, kind in enumerate(("MR_Flair", "MR_T1", "MR_T1c", "MR_T2", "OT")):
            name = f"VSD.Brain{'_3more' * (kind == 'OT')}.XX.O.{kind}.{54512 + number}"
            write_nifti(root / "HGG" / case / name / f"{name}.mha", modality(number))


def write_slices(root):
    """What MedSegDiff's code is given; many folders, each of one slice."""
    for number in range(150):
        for file in ("t1", "seg"):
            path = root / "training" / f"{number:04d}" / f"brats_train_{number:03d}_{file}_080_w.nii.gz"
            write_nifti(path, modality(0)[:1])


def write_validation(root):
    write_brats(root / "MICCAI_BraTS2020_ValidationData", ["BraTS20_Validation_001"], ext=".nii", seg=None)


def write_hollow(root):
    """An archive per file, each unpacked into a folder."""
    for case in CASES:
        write_nifti(root / case / f"{case}_t1" / f"{case}_t1.nii.gz", modality(0))


@pytest.mark.parametrize(
    ("writer", "asked", "message"),
    [(write_vsd, "brats2015", r"pat0001_1 has no files, only VSD.* as published.*OTMultiClass\.mha.*brain_mask null"),
     (write_vsd, "brats", r"there is HGG \(HGG/.*\.mha\)\. .* as published.*data set brats2015 reads"),
     (write_slices, "brats", r"there is training \(training/0000/brats.*_w\.nii\.gz\)\. These are 2-D slices"),
     (write_validation, "brats2020", r"BraTS20_Validation_<number> has no segmentation: use the training set"),
     (write_hollow, "brats", r"BraTS2021_00000 has no files, only BraTS2021_00000_t1\. .* directly into its folder")],
)  # fmt: skip
def test_layouts_that_no_yaml_reads_are_told_apart(writer, asked, message, tmp_path):
    writer(tmp_path)
    with pytest.raises(DataError, match=rf"(?s)No case in .*{message}") as error:
        data_module(asked, tmp_path).prepare_data()
    assert "This looks like" not in str(error.value)
    assert "at another level" not in str(error.value)


def test_brats_2015_as_published_can_be_converted_as_the_error_says(tmp_path):
    write_vsd(tmp_path / "given")
    for path in (tmp_path / "given").rglob("*.mha"):
        kind = path.name.split(".")[4]
        names = {"MR_Flair": "Flair_subtrMeanDivStd", "MR_T1c": "T1c_subtrMeanDivStd", "OT": "OTMultiClass"}
        if kind == "OT":
            write_nifti(path, labels())
        if kind in names:
            folder = tmp_path / "converted" / path.parents[1].name
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / f"{names[kind]}.mha")
    data = data_module("brats2015", tmp_path / "converted", brain_mask=None)
    assert np.array_equal(data.load("test").reference(1)[0], regions("brats2015")[:, 2])


def test_folders_without_files_are_named(tmp_path, caplog):
    write_brats(tmp_path, CASES)
    write_nifti(tmp_path / "BraTS2021_00009" / "t1" / "BraTS2021_00009_t1.nii.gz", modality(0))
    write_brats(tmp_path / "BraTS2021_00002", ["BraTS2021_00002"])  # unpacked into a folder of its own name
    assert list(data_module("brats", tmp_path).cases) == [*CASES, "BraTS2021_00002"]
    assert "1 folders of cases have no files: left out: BraTS2021_00009." in caplog.text


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"(?s)No case in .*there is no such folder.*synapse"):
        data_module("brats", tmp_path / "nothing").prepare_data()


@pytest.mark.parametrize(("name", "foreign"), [("brats", (2, 1, 3)), ("brats2023", (2, 1, 4)), ("brats", (2, 1, 2.5))])
def test_another_years_labels_are_refused(name, foreign, tmp_path):
    cases = write_layout(name, tmp_path)
    sep = "-" if name == "brats2023" else "_"
    path = tmp_path / cases[0] / f"{cases[0]}{sep}seg.nii.gz"
    values = np.where(labels() == 4, foreign[2], labels())
    write_nifti(path, values, np.float32)
    with pytest.raises(
        DataError,
        match=rf"{path.name} has labels {foreign[2]:g}; this scheme has 0, 1, 2, .* --data\.labels",
    ):
        data_module(name, tmp_path).prepare_data()


def test_labels_that_no_yaml_has_can_be_named_as_the_error_says(tmp_path):
    """BraTS 2024, whose cases are called as those of 2023: 4 is the resection cavity."""
    cases = write_layout("brats2023", tmp_path)
    write_nifti(tmp_path / cases[0] / f"{cases[0]}-seg.nii.gz", labels((2, 3, 4)))
    scheme = {"whole_tumour": [1, 2, 3], "tumour_core": [1, 3], "enhancing_tumour": [3], "resection_cavity": [4]}
    learned = ["whole_tumour", "tumour_core", "enhancing_tumour"]
    data = data_module("brats2023", tmp_path, labels=scheme, regions=learned)
    data.prepare_data()
    assert data.info.nested


def test_validation_cases_without_segmentation(tmp_path, caplog):
    write_brats(tmp_path, CASES)
    write_brats(tmp_path, ["BraTS2021_00009"], seg=None)
    assert list(data_module("brats", tmp_path).cases) == CASES
    assert "1 cases in" in caplog.text
    assert "BraTS2021_00009" in caplog.text
    for case in CASES:
        (tmp_path / case / f"{case}_seg.nii.gz").unlink()
    with pytest.raises(DataError, match=r"None of the 3 cases .* has a segmentation"):
        data_module("brats", tmp_path).prepare_data()


def harm(case, file, how):
    path = case / f"{case.name}_{file}.nii.gz"
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "short":
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content[:-1000]))
    elif how == "garbage":
        path.write_bytes(b"<html>404</html>")
    elif how == "nan":
        values = modality(1)
        values[2, 3, 4] = np.nan
        write_nifti(path, values, np.float32)
    elif how == "shape":
        write_nifti(path, modality(1)[:, :-1])
    elif how == "spacing":
        write_nifti(path, modality(1), spacing=(1, 1, 1))
    elif how == "shifted":
        write_nifti(path, modality(1), origin=(5, -239, 0))
    elif how == "four":
        write_nifti(path, np.stack([modality(1)] * 2))
    elif how == "flat":
        write_nifti(path, np.where(brain(), 7, 0))
    elif how == "empty":
        write_nifti(path, np.zeros(SIZE))
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [("missing", "has no {name}.*the t1ce image"), ("truncated", "{name} cannot be read"),
     ("short", "{name} is cut short"),
     ("garbage", "{name} cannot be read"), ("nan", "{name} has 1 voxels that are NaN"),
     ("shape", r"{name} has size .* but .*seg.nii.gz"), ("spacing", "{name} has spacing"),
     ("shifted", "{name} has origin"), ("four", "{name} holds 2 volumes; expected one"),
     ("flat", "t1ce is constant"), ("empty", "t1ce is constant")],
)  # fmt: skip
def test_bad_files_are_named(how, message, tmp_path):
    write_brats(tmp_path, CASES)
    path = harm(tmp_path / CASES[1], "t1ce", how)
    name = path.name.removesuffix(".nii.gz") if how == "missing" else path.name
    with pytest.raises(DataError, match=message.format(name=name)):
        data_module("brats", tmp_path).prepare_data()


def test_all_failures_are_reported_at_once(tmp_path):
    write_brats(tmp_path, CASES)
    for case in CASES:
        harm(tmp_path / case, "t2", "garbage")
    with pytest.raises(DataError, match=r"(?s)2 of 2 cases cannot be used.*00000_t2.*00001_t2"):
        data_module("brats", tmp_path).prepare_data()


@pytest.mark.parametrize(
    "flipped", [(-1, 0, 0, 0, -1, 0, 0, 0, 1), (1, 0, 0, 0, 1, 0, 0, 0, -1), (0, 1, 0, 1, 0, 0, 0, 0, 1)]
)
def test_orientation_of_the_file_does_not_matter(flipped, tmp_path):
    """The same brain, stored along other axes, gives the same slices."""
    write_brats(tmp_path / "usual", CASES)
    write_brats(tmp_path / "other", CASES)
    code = _code(np.array(flipped).reshape(3, 3))
    for path in (tmp_path / "other").rglob("*.nii.gz"):
        source = next((tmp_path / "usual").rglob(path.name))
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(source)), code), str(path))
    usual, other = (data_module("brats", tmp_path / name).load("test") for name in ("usual", "other"))
    assert usual.ids == other.ids
    for index in range(len(usual)):
        assert torch.allclose(usual.image(index), other.image(index), atol=1e-4)
        assert torch.equal(usual.reference(index), other.reference(index))


def _code(matrix):
    """The three letters of axes whose directions are the columns of a matrix."""
    letters = {(0, 1): "L", (0, -1): "R", (1, 1): "P", (1, -1): "A", (2, 1): "S", (2, -1): "I"}
    columns = [matrix[:, axis] for axis in range(3)]
    return "".join(letters[int(np.abs(c).argmax()), int(c[np.abs(c).argmax()])] for c in columns)


def test_a_background_need_not_be_zero(tmp_path):
    """Scored before stripping: the background is a negative constant, not brain."""
    write_brats2015(tmp_path, LAYOUTS["brats2015"][1])
    given = data_module("brats2015", tmp_path).load("test")
    found = data_module("brats2015", tmp_path)
    found.layout.brain_mask = None
    for index in range(len(given)):
        assert torch.allclose(given.image(index), found.load("test").image(index), atol=1e-4)
        assert given.image(index)[:, 0, 0].tolist() == [-1, -1]


def test_what_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_brats(tmp_path, CASES)
    data_module("brats", tmp_path).prepare_data()
    assert "decoded 2 cases into" in caplog.text
    assert "test is 1 case:" in caplog.text
    assert "chosen on the training cases, since there are too few for validation (1 case)" in caplog.text


def test_kaggles_name_alone_stands_for_a_missing_segmentation(tmp_path):
    """A lone extra file could be a prediction."""
    write_brats(tmp_path, CASES)
    write_brats(tmp_path, ["BraTS2021_00009"], seg="pred")
    assert list(data_module("brats", tmp_path).cases) == CASES


def test_years_that_share_patients(tmp_path):
    write_brats(tmp_path, ["HGG/Brats17_CBICA_AAB_1", "HGG/Brats18_CBICA_AAB_1", "HGG/Brats18_CBICA_AAC_1"])
    splits = data_module("brats2018", tmp_path).split_ids
    assert {"Brats17_CBICA_AAB_1", "Brats18_CBICA_AAB_1"} in (set(splits["train"]), set(splits["test"]))


def test_masks_of_pictures_are_black_and_white(tmp_path):
    write_lgg(tmp_path, LAYOUTS["lgg"][1])
    path = next(tmp_path.rglob("*_9_mask.tif"))
    labels = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
    labels[4:8], labels[8:] = 1, 2
    Image.fromarray(labels).save(path)
    with pytest.raises(DataError, match=rf"{path.name} has values 0, 1, 2; expected 0 to 1"):
        data_module("lgg", tmp_path).prepare_data()


@pytest.mark.parametrize("suffix", [".NII.GZ", ".Nii"])
def test_letter_case_of_suffixes_does_not_matter(suffix, tmp_path):
    write_brats(tmp_path, CASES, ext=".nii.gz" if suffix == ".NII.GZ" else ".nii")
    for path in list(tmp_path.rglob("*.nii*")):
        path.rename(path.with_name(path.name.split(".")[0] + suffix))
    assert list(data_module("brats", tmp_path).cases) == CASES


def test_the_root_is_a_case(tmp_path):
    write_brats(tmp_path, CASES)
    with pytest.raises(DataError, match="is itself a case: name the folder above it"):
        data_module("brats", tmp_path / CASES[0]).prepare_data()


def test_nan_in_another_format(tmp_path):
    write_brats(tmp_path, CASES, ext=".mha")
    values = modality(0)
    values[2, 3, 4] = np.nan
    write_nifti(tmp_path / CASES[0] / f"{CASES[0]}_t1.mha", values, np.float32)
    with pytest.raises(DataError, match=r"_t1\.mha has 1 voxels that are NaN"):
        data_module("brats", tmp_path).prepare_data()


@pytest.mark.parametrize("kept", [0, 3, 50, 347, 400])
def test_headers_cut_short(kept, tmp_path):
    write_brats(tmp_path, CASES, ext=".nii")
    path = tmp_path / CASES[0] / f"{CASES[0]}_t1.nii"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"{path.name} (is cut short|has no NIfTI-1 header|cannot be read)"):
        data_module("brats", tmp_path).prepare_data()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folders_are_left_out(tmp_path):
    write_brats(tmp_path, CASES)
    (tmp_path / "lost+found").mkdir(mode=0)
    assert list(data_module("brats", tmp_path).cases) == CASES
    (tmp_path / "lost+found").chmod(0o700)


@pytest.mark.parametrize("labels", [{"x": [0, 1]}, {"x": [256]}])
def test_labels_have_to_be_labels(labels, tmp_path):
    with pytest.raises(DataError, match="from 1 to 255, because 0 is background"):
        data_module("brats", tmp_path, labels=labels)


@pytest.mark.parametrize(
    ("folders", "name", "message"),
    [(("imagesTr", "labelsTr"), "c0", r"no folder images and no folder masks: .* \(such as imagesTr, labelsTr\)"),
     (("image", "masks"), "c0", r"There is no folder images: .* by layout\.images and layout\.segmentations"),
     (("images", "mask"), "c0", r"c0\.nii\.gz has no segmentation in .*masks; there is no such folder"),
     (("images", "masks"), "c0.hdr", r"c0\.hdr is half of a volume in two files"),
     (("images", "labels"), "c0_0000", r"If _0000 is the number of a modality \(nnU-Net\): remove it")],
)  # fmt: skip
def test_own_volumes_in_other_folders(folders, name, message, tmp_path):
    for folder in folders:
        path = tmp_path / "own" / folder / f"{name.removesuffix('.hdr')}.nii.gz"
        write_nifti(path, modality(3))
        if name.endswith(".hdr"):
            path.rename(path.with_name(name))
    with pytest.raises(DataError, match=message) as error:
        data_module("volumes", tmp_path / "own").prepare_data()
    assert "itself a case" not in str(error.value)


def test_the_folder_of_images_is_not_the_data_set(tmp_path):
    write_layout("volumes", tmp_path)
    with pytest.raises(DataError, match=r"The folder is itself images: name the folder with images and masks"):
        data_module("volumes", tmp_path / "images").prepare_data()


@pytest.mark.parametrize(
    ("image", "mask", "case"),
    [("c0", "C0", "c0"), ("C0", "c0", "C0"), ("\u00e9", "e\u0301", "\u00e9"), ("e\u0301", "\u00c9", "e\u0301"),
     ("c0", "c0_seg", "c0"), ("c0", "c0-Mask", "c0"), ("c0", "C0_segmentation_gt", "c0"),
     ("c0_seg", "c0_seg", "c0_seg")],
)  # fmt: skip
@pytest.mark.parametrize("folders", [("images", "masks"), ("Images", "MASKS")])
def test_own_volumes_are_paired_as_pictures_are(image, mask, case, folders, tmp_path):
    write_nifti(tmp_path / folders[0] / f"{image}.nii.gz", modality(3))
    (tmp_path / folders[1]).mkdir()
    (tmp_path / folders[1] / f"{mask}.NII").touch()
    [found] = LAYOUT.find(tmp_path)
    assert (found.id, found.segmentation[0].name) == (case, f"{mask}.NII")


LAYOUT = FourDimensional("(?P<patient>.+)", "images", "masks", ["image"])


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [(["c0"], ["c0", "c0_seg"], r"c0\.nii has several masks: .*c0\.nii, .*c0_seg\.nii"),
     (["c0"], ["c0", "C0"], "has several masks"), (["c0", "C0"], ["c0", "C0"], "have the same name"),
     (["c0", "c1"], ["c0"], r"c1\.nii has no segmentation")],
)  # fmt: skip
def test_own_volumes_that_cannot_be_paired(images, masks, message, tmp_path):
    for folder, names in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii").touch()
    if len(list((tmp_path / "images").iterdir())) < len(images):
        pytest.skip("a disk that takes these names for one")
    with pytest.raises(DataError, match=message):
        LAYOUT.find(tmp_path)


def test_a_mask_without_an_image_is_named(tmp_path, caplog):
    write_layout("volumes", tmp_path)
    write_nifti(tmp_path / "masks" / "z.nii.gz", labels((1, 1, 1)))
    data = data_module("volumes", tmp_path)
    assert "z" not in data.cases
    assert "1 mask without an image in" in caplog.text
    [problem] = [one for one in data.find_warnings() if one.kind == "mask without image"]
    assert (problem.names, problem.serious) == (["masks/z.nii.gz"], True)


@pytest.mark.parametrize("folder", ["__MACOSX", ".trash"])
@pytest.mark.parametrize("name", ["volumes", "brats", "msd_brain", "lgg"])
def test_folders_that_systems_leave_are_no_data(name, folder, tmp_path):
    cases = write_layout(name, tmp_path)
    write_layout(name, tmp_path / folder)
    for path in (tmp_path / folder).rglob("*"):
        if path.is_file():
            path.write_bytes(b"macOS")
    assert list(data_module(name, tmp_path).cases) == sorted(cases)


def test_letter_case_of_files_in_a_case_does_not_matter(tmp_path):
    write_brats(tmp_path, CASES)
    for path in list(tmp_path.rglob("*_flair.nii.gz")) + list(tmp_path.rglob("*_seg.nii.gz")):
        path.rename(path.with_name(path.name.replace("_flair", "_FLAIR").replace("_seg", "_Seg")))
    assert list(data_module("brats", tmp_path).cases) == CASES


def test_white_masks_of_own_volumes(tmp_path):
    cases = write_layout("volumes", tmp_path)
    expected = data_module("volumes", tmp_path).load("test")
    for name in cases:
        write_nifti(tmp_path / "masks" / f"{name}.nii.gz", 255 * (labels() > 0), np.uint8)
    found = data_module("volumes", tmp_path).load("test")
    assert all(torch.equal(found.reference(index), expected.reference(index)) for index in range(len(expected)))
