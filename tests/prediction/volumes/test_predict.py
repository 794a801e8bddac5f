import csv
import math
import struct

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.dark_disc import BrightSegmenter, bright_segmenter
from helpers.mri_files import (
    SPACING,
    brain,
    data_module,
    labels,
    modality,
    write_brats,
    write_brats2015,
    write_dicom,
    write_lgg,
    write_msd,
    write_nifti,
)

from diffmedseg.data import SliceFolders
from diffmedseg.data.mri.store import to_slices
from diffmedseg.errors import DataError
from diffmedseg.postprocessing.calibration import TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.prediction import Naming, Settings, find_cases, predict_volumes
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.segmentation import SampleSet

CHANNELS = ("flair", "t1ce")
CASE = "BraTS2021_00001"


def run(source, out, channels=CHANNELS, regions=("lesion",), naming=None, **options):
    cases = find_cases([source], naming or Naming(channels, {}))
    return predict_volumes(bright_segmenter(channels, regions), cases, out, **options)


def rows(out):
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def load(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def same_grid(a, b):
    images = [sitk.ReadImage(str(path)) for path in (a, b)]
    facts = [(i.GetSize(), i.GetSpacing(), i.GetOrigin(), i.GetDirection()) for i in images]
    return facts[0] == facts[1]


def test_maps_and_table_of_a_case(tmp_path):
    write_brats(tmp_path / "in", [CASE])
    report = run(tmp_path / "in", tmp_path / "out", panels=True)
    assert (report.done, report.failed, report.notes) == ([CASE], {}, {})
    mask, probability, disagreement = (
        sitk.ReadImage(str(tmp_path / "out" / f"{CASE}_{kind}.nii.gz"))
        for kind in ("mask", "probability", "disagreement")
    )
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert probability.GetPixelID() == disagreement.GetPixelID() == sitk.sitkFloat32
    m, p, d = (sitk.GetArrayFromImage(image) for image in (mask, probability, disagreement))
    assert set(np.unique(m)) == {0, 1}
    assert overlap(m > 0, labels() > 0) > 0.9
    assert p[m > 0].min() > 0.4999
    assert p[m == 0].max() < 0.5001
    assert 0 < d.max() <= 0.5
    assert p[~brain().any((1, 2))].max(initial=0) == 0
    [row] = rows(tmp_path / "out")
    assert (row["image"], row["columns"], row["rows"], row["slices"]) == (CASE, "16", "20", "6")
    voxel = math.prod(SPACING) / 1000
    assert float(row["volume_ml"]) == pytest.approx(m.sum() * voxel, abs=1e-4)
    low, mean, high = (float(row[f"samples_ml_{name}"]) for name in ("min", "mean", "max"))
    assert 0 < low <= mean <= high
    assert mean == pytest.approx(float(row["volume_ml"]), rel=0.1)
    assert float(row["samples_ml_std"]) <= high - low
    assert float(row["uncertainty"]) == pytest.approx(1 - 2 * p[m > 0].sum() / (p.sum() + m.sum()), abs=1e-3)
    assert (tmp_path / "out" / f"{CASE}_panel.png").stat().st_size > 10_000
    assert not list((tmp_path / "out").glob("**/.tmp*"))


def test_a_calibrated_model_gives_contours_and_an_interval(tmp_path):
    write_brats(tmp_path / "in", [CASE])
    model = bright_segmenter(CHANNELS, ("lesion",))
    model.calibration = TemperatureScaling()
    model.conformal = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, model.num_samples, model.num_steps)
    cases = find_cases([tmp_path / "in"], Naming(CHANNELS, {}))
    assert predict_volumes(model, cases, tmp_path / "out").failed == {}
    inner, mask, outer = (load(tmp_path / "out" / f"{CASE}_{kind}.nii.gz") > 0 for kind in ("inner", "mask", "outer"))
    assert (inner <= mask).all()
    assert (mask <= outer).all()
    assert 0 < inner.sum() < mask.sum() < outer.sum() < mask.size
    assert same_grid(tmp_path / "out" / f"{CASE}_inner.nii.gz", tmp_path / "out" / f"{CASE}_mask.nii.gz")
    [row] = rows(tmp_path / "out")
    low, least, most, high = (
        float(row[key]) for key in ("volume_ml_low", "samples_ml_min", "samples_ml_max", "volume_ml_high")
    )
    assert (low, high) == (pytest.approx(least / 1.5, abs=1e-3), pytest.approx(most * 1.5, abs=1e-3))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LPI", "ASL", "PIR", "SRA"])
@pytest.mark.parametrize("degrees", [0, 17])
def test_maps_overlay_the_file_whatever_its_axes(axes, degrees, tmp_path):
    """Flipped and swapped axes, and oblique ones."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    oblique = (cos, -sin, 0, sin, cos, 0, 0, 0, 1)

    def write(name, values, dtype):
        write_nifti(tmp_path / name, values, dtype, direction=oblique, origin=(11.5, -20.3, 7))
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / name)), axes), str(tmp_path / name))

    for number, name in ((3, "flair"), (1, "t1ce")):
        write(f"in/p/{name}.nii.gz", modality(number), np.float32)
    write("truth.nii.gz", labels() > 0, np.uint8)
    report = run(tmp_path / "in", tmp_path / "out")
    assert report.failed == {}
    for kind in ("mask", "probability", "disagreement"):
        assert same_grid(tmp_path / "out" / f"p_{kind}.nii.gz", tmp_path / "in" / "p" / "flair.nii.gz")
    assert overlap(load(tmp_path / "out" / "p_mask.nii.gz") > 0, load(tmp_path / "truth.nii.gz") > 0) > 0.9


def test_modalities_may_lie_along_different_axes(tmp_path):
    write_brats(tmp_path, [CASE], ("flair", "t1ce"), seg=None)
    path = str(tmp_path / CASE / f"{CASE}_t1ce.nii.gz")
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "RAS"), path)
    assert run(tmp_path, tmp_path / "out").done == [CASE]
    assert same_grid(tmp_path / "out" / f"{CASE}_mask.nii.gz", tmp_path / CASE / f"{CASE}_flair.nii.gz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_types_of_voxels_do_not_matter(dtype, tmp_path):
    for name, type_ in {"a": dtype, "b": np.float32}.items():
        write_nifti(tmp_path / name / "p" / "flair.nii.gz", (modality(1) / 3).round(), type_)
        assert run(tmp_path / name, tmp_path / f"out_{name}", ("flair",)).done == ["p"]
    assert np.array_equal(load(tmp_path / "out_a" / "p_mask.nii.gz"), load(tmp_path / "out_b" / "p_mask.nii.gz"))


def test_a_single_slice(tmp_path):
    write_nifti(tmp_path / "flair.nii", modality(1)[2:3])
    assert run(tmp_path / "flair.nii", tmp_path / "out", ("flair",), panels=True).failed == {}
    assert same_grid(tmp_path / "out" / "flair_mask.nii.gz", tmp_path / "flair.nii")
    assert overlap(load(tmp_path / "out" / "flair_mask.nii.gz") > 0, labels()[2:3] > 0) > 0.9


def test_a_single_slice_that_is_not_axial_is_refused(tmp_path):
    write_nifti(tmp_path / "flair.nii", modality(1)[:, :, 5:6])
    [reason] = run(tmp_path / "flair.nii", tmp_path / "out", ("flair",)).failed.values()
    assert "axial slices are 20 x 1 voxels" in reason


def test_a_prediction_is_the_one_that_is_scored(tmp_path):
    write_brats2015(tmp_path / "in", ["brats_2013_pat0003_1", "brats_2013_pat0004_1", "brats_2013_pat0105_1"])
    data = data_module("brats2015", tmp_path / "in", image_size=32)
    data.prepare_data()
    data.setup("test")
    regions = data.info.regions
    model = bright_segmenter(("flair", "t1ce"), regions)
    tested = {}
    for batch in data.test_dataloader():
        found = model.test_step(data.on_after_batch_transfer(batch, 0), 0)["segmentation"]
        for case, index, samples, reference in zip(
            batch["case"], batch["index"], found.samples, batch["reference"], strict=True
        ):
            tested[case, index] = model.fuse_by(
                model.fusion, SampleSet(samples[None]), tuple(reference.shape[-2:])
            ).mask[0]
    predict_volumes(model, find_cases([tmp_path / "in"], Naming(CHANNELS, {})), tmp_path / "out", batch_size=4)
    assert len(tested) > 4
    for (case, index), mask in tested.items():
        for k, region in enumerate(regions):
            predicted = load(tmp_path / "out" / f"{case}_{region}_mask.nii.gz")[index] > 0
            assert (predicted != mask[k].numpy()).mean() < 1e-2  # the cache keeps 16 bits
    whole, core = (load(tmp_path / "out" / f"{case}_{region}_mask.nii.gz") for region in regions[:2])
    assert (core <= whole).all()
    assert core.any()


def test_slices_written_as_nifti_give_the_input_of_training(tmp_path):
    """Those of LGG show whole heads with noise around them."""
    write_lgg(tmp_path, ["TCGA_CS_4941_19960909"], noise=8)
    layout = SliceFolders("TCGA_.*", ["t1", "flair", "t1ce"], (1.0, 1.0, 1.0))
    raw = layout.read(layout.find(tmp_path)[0], {1})
    for name, channel in zip(layout.modalities, raw.channels, strict=True):
        write_nifti(tmp_path / "p" / f"{name}.nii.gz", channel)
    volume = read_case(find_cases([tmp_path / "p"], Naming(layout.modalities, {}))[0])
    trained, predicted = (to_slices(one.channels, one.brain, volume.names, (16, 16)) for one in (raw, volume))
    assert torch.equal(trained, predicted)
    assert np.array_equal(volume.brain, brain())


def test_four_dimensional_files_in_their_order(tmp_path):
    write_msd(tmp_path, ["BRATS_001"])
    source = tmp_path / "Task01_BrainTumour" / "imagesTr"
    results = []
    for name, order in {"right": ("t1", "flair", "t2", "t1ce"), "wrong": ("flair", "t1", "t1ce", "t2")}.items():
        assert run(source, tmp_path / name, naming=Naming(CHANNELS, {}, order)).done == ["BRATS_001"]
        results.append(overlap(load(tmp_path / name / "BRATS_001_mask.nii.gz") > 0, labels() > 0))
    assert results[0] > 0.9 > results[1]  # the lesion is bright in volumes 2 and 4 alone
    [reason] = run(source, tmp_path / "few", naming=Naming(CHANNELS, {}, CHANNELS)).failed.values()
    assert "it holds 4 volumes; --volumes names 2" in reason
    [reason] = run(source / "BRATS_001.nii.gz", tmp_path / "one", ("flair",)).failed.values()
    assert "several volumes: name them in order by --volumes" in reason


def test_dicom_gives_what_nifti_gives(tmp_path):
    for number, name in ((3, "flair"), (1, "t1ce")):
        write_dicom(tmp_path / "dicom" / "p" / name, modality(number))
        write_nifti(tmp_path / "nifti" / "p" / f"{name}.nii.gz", modality(number).round())
    for kind in ("dicom", "nifti"):
        assert run(tmp_path / kind, tmp_path / f"out_{kind}").done == ["p"]
    paths = [tmp_path / f"out_{kind}" / "p_mask.nii.gz" for kind in ("dicom", "nifti")]
    assert same_grid(*paths)
    assert np.array_equal(load(paths[0]), load(paths[1]))
    assert load(paths[0]).any()


def test_stored_values_are_rescaled(tmp_path):
    write_dicom(tmp_path / "a" / "flair", modality(1), slope=4.0)
    assert run(tmp_path / "a", tmp_path / "out", ("flair",)).done == ["a"]
    assert overlap(load(tmp_path / "out" / "a_mask.nii.gz") > 0, labels() > 0) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": (2,)}, "slices 2.00 to 4.00 mm apart: some are missing"),
        ({"places": [0, 2, 4, 4, 6, 8]}, "several slices at one position"),
        ({"shift": 1.0}, "shifted sideways"),
        ({"PixelSpacing": None}, "has no PixelSpacing"),
        ({"ImageOrientationPatient": None}, "has no ImageOrientationPatient"),
    ],
)
def test_series_that_are_no_volume_are_refused(options, message, tmp_path):
    write_dicom(tmp_path / "p" / "flair", modality(1), **options)
    [reason] = run(tmp_path / "p", tmp_path / "out", ("flair",)).failed.values()
    assert message in reason


def test_frames_and_colours_are_refused(tmp_path):
    frames = {"NumberOfFrames": 6, "PixelData": modality(1).astype(np.int16).tobytes()}
    write_dicom(tmp_path / "frames" / "flair", modality(1)[:1], **frames)
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "PixelRepresentation": 0,
           "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(3 * 20 * 16)}  # fmt: skip
    write_dicom(tmp_path / "rgb" / "flair", modality(1), **rgb)
    image = sitk.GetImageFromArray(np.zeros((6, 20, 16, 3), np.uint8), isVector=True)
    (tmp_path / "nifti").mkdir()
    sitk.WriteImage(image, str(tmp_path / "nifti" / "flair.nii"))
    for name, message in (("frames", "holds 6 frames"), ("rgb", "colour"), ("nifti", "3 values per voxel")):
        [reason] = run(tmp_path / name, tmp_path / f"out_{name}", ("flair",)).failed.values()
        assert message in reason


def test_a_slice_that_was_cut_is_not_lost(tmp_path):
    """GDCM leaves out what it cannot read, and the last slice would be missed by no gap."""
    write_dicom(tmp_path / "p" / "flair", modality(1))
    path = sorted((tmp_path / "p" / "flair").iterdir())[-1]
    path.write_bytes(path.read_bytes()[:200])
    [reason] = run(tmp_path / "p", tmp_path / "out", ("flair",)).failed.values()
    assert "damaged" in reason
    assert path.name in reason


def test_series_and_patients_are_not_mixed(tmp_path):
    write_dicom(tmp_path / "a" / "flair", modality(1))
    write_dicom(tmp_path / "other", modality(3), uid="9.9.9")
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / "a" / "flair" / f"x{path.name}")
    for name, patient in (("flair", "p1"), ("t1ce", "p2")):
        write_dicom(tmp_path / "b" / name, modality(1), patient=patient)
    write_nifti(tmp_path / "c" / "p1_flair.nii.gz", modality(3))
    write_nifti(tmp_path / "c" / "p2_t1ce.nii.gz", modality(1))
    [reason] = run(tmp_path / "a", tmp_path / "out_a", ("flair",)).failed.values()
    assert "holds 2 DICOM series" in reason
    [reason] = run(tmp_path / "b", tmp_path / "out_b").failed.values()
    assert "of 2 patients, such as flair, t1ce" in reason
    [note] = run(tmp_path / "c", tmp_path / "out_c").notes.values()
    assert "check that they are of one patient" in note


@pytest.mark.parametrize(
    ("codes", "message"), [((0, 0), "left and right may be swapped"), ((1, 2), "qform and sform place it up to 40 mm")]
)
def test_a_place_that_is_ambiguous_is_noted(codes, message, tmp_path):
    write_nifti(tmp_path / "p" / "flair.nii", modality(1))
    path = tmp_path / "p" / "flair.nii"
    content = bytearray(path.read_bytes())
    assert run(tmp_path / "p", tmp_path / "out0", ("flair",)).notes == {}
    struct.pack_into("<2h", content, 252, *codes)
    struct.pack_into("<f", content, 292, struct.unpack_from("<f", content, 292)[0] + 40)  # the sform's x
    path.write_bytes(content)
    [note] = run(tmp_path / "p", tmp_path / "out", ("flair",)).notes.values()
    assert message in note


def test_brain_masks_are_masks(tmp_path):
    for name, values in {"soft": brain() * 0.2 + 0.01, "empty": brain() * 0, "good": brain() * 255}.items():
        write_nifti(tmp_path / name / "flair.nii.gz", modality(1))
        write_nifti(tmp_path / name / "brainmask.nii.gz", values, np.float32)
    report = run(tmp_path, tmp_path / "out", ("flair",))
    assert report.done == ["good"]
    assert "is empty: its largest value is 0.21. Expected" in report.failed[tmp_path / "soft"]
    assert "is empty" in report.failed[tmp_path / "empty"]


def test_suffixes_in_capitals_are_checked_alike(tmp_path):
    write_nifti(tmp_path / "a.nii", modality(1))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "FLAIR.NII").write_bytes((tmp_path / "a.nii").read_bytes()[:-100])
    [reason] = run(tmp_path / "p", tmp_path / "out", ("flair",)).failed.values()
    assert "is cut short" in reason


def test_another_order_of_volumes_is_another_prediction(tmp_path):
    write_msd(tmp_path, ["BRATS_001"])
    source = tmp_path / "Task01_BrainTumour" / "imagesTr"
    run(source, tmp_path / "out", naming=Naming(CHANNELS, {}, ("t1", "flair", "t2", "t1ce")))
    with pytest.raises(DataError, match="predicted with other settings"):
        run(source, tmp_path / "out", naming=Naming(CHANNELS, {}, ("flair", "t1", "t1ce", "t2")), resume=True)


def test_names_that_would_collide(tmp_path):
    for name in ("p", "p_a"):
        write_nifti(tmp_path / name / "flair.nii.gz", modality(1))
    with pytest.raises(DataError, match="would both write"):
        run(tmp_path, tmp_path / "out", ("flair",), ("a_b", "b"))


def test_an_interruption_keeps_what_was_not_its_turn(tmp_path, monkeypatch):
    for name in ("p1", "p2"):
        write_nifti(tmp_path / name / "flair.nii.gz", modality(1))
    run(tmp_path, tmp_path / "out", ("flair",))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BrightSegmenter, "draw_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, tmp_path / "out", ("flair",), panels=True, resume=True)
    assert [row["image"] for row in rows(tmp_path / "out")] == ["p2"]
    report = run(tmp_path, tmp_path / "out", ("flair",), resume=True)
    assert (report.done, report.kept) == (["p1"], ["p2"])


def test_bad_cases_do_not_stop_the_others(tmp_path):
    names = [f"BraTS2021_{number:05d}" for number in range(6)]
    write_brats(tmp_path / "in", names, ("flair", "t1ce"), seg=None)
    file = lambda number, kind: tmp_path / "in" / names[number] / f"{names[number]}_{kind}.nii.gz"  # noqa: E731
    file(0, "flair").write_bytes(file(0, "flair").read_bytes()[:200])
    file(1, "t1ce").unlink()
    write_nifti(file(2, "t1ce"), modality(1)[:4])
    write_nifti(file(3, "flair"), np.where(labels() > 0, np.nan, modality(3)), np.float32)
    write_nifti(file(4, "flair"), modality(3) * 0)
    write_nifti(file(4, "t1ce"), modality(1) * 0)
    report = run(tmp_path / "in", tmp_path / "out")
    assert report.done == [names[5]]
    reasons = [report.failed[tmp_path / "in" / name] for name in names[:5]]
    for reason, expected in zip(
        reasons,
        ["cannot be read", "it has no t1ce", r"register them first", "NaN or infinite", "has no brain"],
        strict=True,
    ):
        assert expected in reason
    assert len(rows(tmp_path / "out")) == 1


def test_resume_keeps_what_is_whole(tmp_path):
    write_brats(tmp_path / "in", [CASE, "BraTS2021_00002", "BraTS2021_00003"], ("flair", "t1ce"), seg=None)
    assert len(run(tmp_path / "in", tmp_path / "out").done) == 3
    with pytest.raises(DataError, match="--resume"):
        run(tmp_path / "in", tmp_path / "out")
    write_nifti(tmp_path / "in" / CASE / f"{CASE}_t1ce.nii.gz", modality(2))  # another case by the same name
    cut = tmp_path / "out" / "BraTS2021_00002_probability.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-60])
    report = run(tmp_path / "in", tmp_path / "out", resume=True)
    assert (sorted(report.done), report.kept) == ([CASE, "BraTS2021_00002"], ["BraTS2021_00003"])
    with pytest.raises(DataError, match="num_samples 3 then and 1 now"):
        run(tmp_path / "in", tmp_path / "out", resume=True, settings=Settings(num_samples=1))


def test_results_are_no_input(tmp_path):
    write_nifti(tmp_path / "p" / "flair.nii.gz", modality(1))
    assert run(tmp_path, tmp_path / "flair_out", ("flair",)).done == ["p"]
    assert run(tmp_path, tmp_path / "flair_out", ("flair",), resume=True).kept == ["p"]


def test_one_sample_has_no_spread(tmp_path):
    write_nifti(tmp_path / "p" / "flair.nii.gz", modality(1))
    run(tmp_path, tmp_path / "out", ("flair",), settings=Settings(num_samples=1))
    [row] = rows(tmp_path / "out")
    assert "samples_ml_std" not in row
    assert row["samples_ml_min"] == row["samples_ml_max"]


def test_a_head_with_its_skull_is_noted(tmp_path):
    noise = np.random.default_rng(0).normal(0, 1, modality(1).shape)
    write_nifti(tmp_path / "p" / "flair.nii.gz", modality(1) + noise, np.float32, spacing=(20, 20, 20))  # 3.9 litres
    report = run(tmp_path, tmp_path / "out", ("flair",))
    assert "If the skull is not stripped" in report.notes[tmp_path / "p"]
