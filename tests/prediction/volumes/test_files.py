import pytest
from helpers.mri_files import modality, write_brats, write_brats2015, write_dicom, write_msd, write_nifti

from diffmedseg.errors import DataError
from diffmedseg.prediction import Naming, find_cases

TWO = Naming(("flair", "t1ce"), {})
FLAIR = Naming(("flair",), {})


def names(naming, *sources):
    return [case.name for case in find_cases(sources, naming)]


@pytest.mark.parametrize(
    ("file", "channel"),
    [("BraTS2021_00001_t1ce", "t1ce"), ("BraTS-GLI-00000-000-t1c", "t1ce"), ("BraTS-GLI-00000-000-t1n", "t1"),
     ("T1c_subtrMeanDivStd", "t1ce"), ("sub-01_ses-2_T2w", "t2"), ("BraTS-GLI-00000-000-t2f", "flair"),
     ("FLAIR", "flair"), ("sub-01_CUSTOM", "custom"), ("T1_post", "t1ce"), ("sub-01_ce-gadolinium_T1w", "t1ce"),
     ("sub-01_space-T1w_FLAIR", "flair"), ("AX T2 FLAIR", "flair"), ("t1_flair", None), ("flair_seg", None),
     ("BraTS2021_00001_seg", None), ("T1w_mask", None), ("t2_t1c", None)],
)  # fmt: skip
def test_modalities_by_their_usual_names(file, channel, tmp_path):
    every = ("t1", "t1ce", "t2", "flair", "custom")
    (tmp_path / f"{file}.nii.gz").touch()
    found = [name for name in every if Naming(every, {}).entries(tmp_path, name)]
    assert found == ([channel] if channel else [])


def test_a_case_a_folder_of_cases_and_a_pattern(tmp_path):
    write_brats(tmp_path / "data", ["HGG/Brats18_A_1", "HGG/Brats18_B_1", "LGG/Brats18_C_1"], seg=None)
    (tmp_path / "data" / "survival_info.csv").touch()
    every = ["HGG/Brats18_A_1", "HGG/Brats18_B_1", "LGG/Brats18_C_1"]
    assert names(TWO, tmp_path / "data") == every
    assert names(FLAIR, tmp_path / "data") == every  # of four modalities the one that is wanted
    assert names(TWO, tmp_path / "data" / "HGG" / "Brats18_A_1") == ["Brats18_A_1"]
    assert names(TWO, tmp_path / "data" / "HGG" / "Brats18_A_1" / ".." / "Brats18_A_1") == ["Brats18_A_1"]
    assert names(TWO, f"{tmp_path}/data/HGG/*") == ["Brats18_A_1", "Brats18_B_1"]
    assert names(TWO, f"{tmp_path}/data/*/*_C_*") == ["Brats18_C_1"]
    assert names(TWO, tmp_path / "data", tmp_path / "data" / "LGG" / "Brats18_C_1") == every


@pytest.mark.parametrize("folder", ["__MACOSX", ".trash"])
def test_folders_that_systems_leave_hold_no_case(folder, tmp_path):
    write_brats(tmp_path, ["p1", f"{folder}/p2", f"p1/{folder}/p3"], seg=None)
    for source in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/**/*_flair.nii.gz"):
        assert [name.rpartition("/")[2].removesuffix("_flair") for name in names(FLAIR, source)] == ["p1"]
    assert [name.rpartition("/")[2] for name in names(FLAIR, tmp_path / folder)] == ["p2"]  # who names it means it


def test_files_are_cases_of_one_modality(tmp_path):
    for name in ("p1_flair", "p2_flair", "p1_t1", "p3_seg"):
        write_nifti(tmp_path / f"{name}.nii.gz", modality(0))
    assert names(FLAIR, tmp_path) == ["p1_flair", "p2_flair"]
    assert names(FLAIR, f"{tmp_path}/*_t1.nii.gz") == ["p1_t1"]  # who names a file means it
    assert names(Naming(("flair",), {"flair": "p*_t1"}), tmp_path / "p3_seg.nii.gz") == ["p3_seg"]


def test_four_dimensional_files(tmp_path):
    write_msd(tmp_path, ["BRATS_001", "BRATS_002"])
    naming = Naming(("t1ce", "flair"), {}, ("flair", "t1", "t1ce", "t2"))
    assert names(naming, tmp_path / "Task01_BrainTumour" / "imagesTr") == ["BRATS_001", "BRATS_002"]
    [case] = find_cases([tmp_path / "Task01_BrainTumour" / "imagesTr" / "BRATS_001.nii.gz"], naming)
    assert [path.name for path in case.files()] == ["BRATS_001.nii.gz"]


def test_dicom_series_by_the_names_of_their_folders(tmp_path):
    write_dicom(tmp_path / "pat1" / "FLAIR", modality(3))
    write_dicom(tmp_path / "pat1" / "AX T1 POST GD", modality(1))
    naming = Naming(("flair", "t1ce"), {"t1ce": "*POST*"})
    [case] = find_cases([tmp_path], naming)
    assert case.name == "pat1"
    assert [path.name for path in case.channels()] == ["FLAIR", "AX T1 POST GD"]
    assert len(case.files()) == 12
    assert names(FLAIR, tmp_path / "pat1" / "FLAIR") == ["FLAIR"]
    assert names(FLAIR, tmp_path / "pat1" / "AX T1 POST GD") == ["AX T1 POST GD"]  # who names a series means it
    write_dicom(tmp_path / "pat2" / "T1" / "DICOM", modality(1))
    assert names(FLAIR, tmp_path) == ["pat1"]


def test_the_brain_mask(tmp_path):
    write_brats2015(tmp_path, ["brats_2013_pat0003_1"])
    folder = tmp_path / "brats_2013_pat0003_1"
    [case] = find_cases([folder], TWO)
    assert case.brain_mask() == folder / "brainmask.nii.gz"
    (folder / "brainmask.nii.gz").rename(folder / "bet.nii.gz")
    assert case.brain_mask() is None
    [case] = find_cases([folder], Naming(TWO.channels, {}, brain_mask="b?t"))
    assert case.brain_mask() == folder / "bet.nii.gz"
    [case] = find_cases([folder], Naming(TWO.channels, {}, brain_mask="mask"))
    with pytest.raises(DataError, match=r"it has no brain mask; its folder holds .*bet.*--brain_mask NAME"):
        case.brain_mask()


def test_a_modality_that_is_missing_or_there_twice(tmp_path):
    write_brats(tmp_path, ["BraTS2021_00001"], ("flair",))
    [case] = find_cases([tmp_path], TWO)
    with pytest.raises(DataError, match=r"it has no t1ce; its folder holds .*flair.*--modality t1ce=NAME"):
        case.channels()
    write_nifti(tmp_path / "BraTS2021_00001" / "flair_bias_corrected.nii.gz", modality(3))
    with pytest.raises(DataError, match=r"2 files may be its flair: BraTS2021_00001_flair\.nii\.gz, flair_bias_corr"):
        case.channels()
    [case] = find_cases([tmp_path], Naming(("flair",), {"flair": "*_corrected"}))
    assert [path.name for path in case.channels()] == ["flair_bias_corrected.nii.gz"]


def test_one_file_for_a_model_of_several_modalities(tmp_path):
    write_nifti(tmp_path / "a_flair.nii.gz", modality(3))
    [case] = find_cases([tmp_path / "a_flair.nii.gz"], TWO)
    with pytest.raises(DataError, match=r"is one file, and this model takes flair, t1ce\..*--volumes"):
        case.channels()


def test_nothing_found(tmp_path):
    with pytest.raises(DataError, match="nothing matches it as a pattern"):
        find_cases([tmp_path / "x*"], TWO)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"No case in .*notes.*Expected a folder with a file for each of flair, t1ce "):
        find_cases([tmp_path], TWO)
    (tmp_path / "slice_1.tif").touch()
    with pytest.raises(DataError, match=r"takes volumes, not pictures.*convert them to NIfTI"):
        find_cases([tmp_path], TWO)
    with pytest.raises(DataError, match="convert them to NIfTI"):
        find_cases([tmp_path / "slice_1.tif"], TWO)


def test_names_that_the_model_does_not_know():
    with pytest.raises(DataError, match=r"takes flair, t1ce\. It has no channel t2\."):
        Naming(TWO.channels, {"t2": "x"})
    with pytest.raises(DataError, match="The volumes flair, t1 lack t1ce"):
        Naming(TWO.channels, {}, ("flair", "t1"))


def test_results_that_would_overwrite_each_other(tmp_path):
    write_brats(tmp_path / "a", ["BraTS2021_00001"])
    write_brats(tmp_path / "b", ["BraTS2021_00001"])
    with pytest.raises(DataError, match="same name"):
        find_cases([tmp_path / "a", tmp_path / "b"], TWO)
    assert names(TWO, tmp_path) == ["a/BraTS2021_00001", "b/BraTS2021_00001"]


def test_cases_within_cases_and_what_is_left_out(tmp_path, caplog):
    for place in ("p1/flair", "p1/visit2/flair", "p2/FLAIRcorr", "p3/flair", "out/x_flair_probability"):
        write_nifti(tmp_path / f"{place}.nii.gz", modality(3))
    (tmp_path / "out" / "predictions.yaml").touch()
    (tmp_path / "p4").mkdir()
    (tmp_path / "p4" / "flair_gone.nii.gz").symlink_to(tmp_path / "gone")
    assert names(FLAIR, tmp_path) == ["p1", "p1/visit2", "p3"]
    assert "Left out (2)" in caplog.text
    assert "has flair in its name: p2/FLAIRcorr.nii.gz, p4/flair_gone.nii.gz." in caplog.text
    assert "by --modality flair=NAME" in caplog.text


def test_series_that_nothing_tells_apart_are_named(tmp_path, caplog):
    write_brats(tmp_path, ["p1", "p2"], ("flair", "t1ce"), seg=None)
    write_dicom(tmp_path / "p1" / "scout", modality(2))
    for number in (1, 3):
        write_dicom(tmp_path / "p3" / f"1.2.840.{number}", modality(number), uid=f"1.2.840.{number}")
        write_dicom(tmp_path / f"series{number}", modality(number), uid=f"1.2.840.{number}")
    (tmp_path / "mixed").mkdir()
    for number in (1, 3):
        for path in (tmp_path / f"series{number}").iterdir():
            path.rename(tmp_path / "mixed" / f"{number}{path.name}")
        (tmp_path / f"series{number}").rmdir()
    (tmp_path / "p4").mkdir()
    (tmp_path / "p4" / "flair.mnc").touch()
    (tmp_path / "names.csv").touch()
    for source in (tmp_path, f"{tmp_path}/[pm]*"):
        caplog.clear()
        assert names(TWO, source) == ["p1", "p2"]
        assert "Left out (4)" in caplog.text
        assert "has flair or t1ce in its name: mixed, p3/1.2.840.1, p3/1.2.840.3, p4." in caplog.text
        assert "one DICOM series" in caplog.text
    caplog.clear()
    assert names(TWO, tmp_path / "p1", tmp_path / "p2") == ["p1", "p2"]
    assert caplog.text == ""
    with pytest.raises(DataError, match=r"mixed holds 2 DICOM series .*put each series into a folder of its own"):
        find_cases([tmp_path / "mixed"], TWO)
    with pytest.raises(
        DataError, match=r"1\.2\.840\.1 is one DICOM series, and this model takes flair, t1ce\. Name the folder"
    ):
        find_cases([tmp_path / "p3" / "1.2.840.1"], TWO)


def test_files_beside_cases_that_say_nothing_are_named(tmp_path, caplog):
    for name in ("p1_flair", "p2_flair", "p2_t1", "p2_brainmask", "p1_seg", "p1_bet", "p3_FLAIRcorr"):
        write_nifti(tmp_path / f"{name}.nii.gz", modality(0))
    assert names(Naming(("flair",), {}, brain_mask="*_bet"), tmp_path) == ["p1_flair", "p2_flair"]
    assert "Left out (1)" in caplog.text
    assert "has flair in its name: p3_FLAIRcorr.nii.gz." in caplog.text


@pytest.mark.parametrize("naming", [TWO, FLAIR])
def test_a_folder_of_four_dimensional_files(naming, tmp_path, caplog):
    write_msd(tmp_path, ["BRATS_001"])
    with pytest.raises(DataError, match=r"BRATS_001\.nii\.gz holds 4 volumes\. .* by --volumes flair,t1,t1ce,t2 "):
        find_cases([tmp_path / "Task01_BrainTumour" / "imagesTr"], naming)
    write_brats(tmp_path, ["p1"], ("flair", "t1ce"), seg=None)
    assert names(naming, tmp_path) == ["p1"]
    assert "BRATS_001.nii.gz holds 4 volumes" in caplog.text


def test_brain_masks_of_several_patients(tmp_path):
    for name in ("p1_flair", "p2_flair", "p1_brainmask", "p2_bet", "p1_bet"):
        write_nifti(tmp_path / f"{name}.nii.gz", modality(3))
    first, second = find_cases([tmp_path], FLAIR)
    assert (first.brain_mask().name, second.brain_mask()) == ("p1_brainmask.nii.gz", None)
    pair = find_cases([tmp_path], Naming(("flair",), {}, brain_mask="*_bet"))
    assert [case.brain_mask().name for case in pair] == ["p1_bet.nii.gz", "p2_bet.nii.gz"]


def test_one_file_for_two_modalities(tmp_path):
    write_nifti(tmp_path / "p" / "scan.nii.gz", modality(3))
    [case] = find_cases([tmp_path], Naming(TWO.channels, {"flair": "scan", "t1ce": "sc*"}))
    with pytest.raises(DataError, match="a file belongs to several modalities"):
        case.channels()


@pytest.mark.parametrize("volumes", [("flair", "flair", "t1ce"), ("flair", "t1ce")])
def test_volumes_are_named_once_and_alone(volumes):
    with pytest.raises(DataError, match="does not go with --modality, and needs a different name for each volume"):
        Naming(TWO.channels, {"flair": "x"} if len(volumes) == 2 else {}, volumes)


def test_volumes_in_two_files_are_refused(tmp_path):
    for name in ("flair.hdr", "flair.img"):
        (tmp_path / name).write_bytes(bytes(400))
    with pytest.raises(DataError, match=r"flair\.hdr is half of a volume in two files\. Convert it to \.nii\.gz"):
        find_cases([tmp_path], FLAIR)
