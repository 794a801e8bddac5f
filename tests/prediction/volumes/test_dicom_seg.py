"""DICOM segmentations of DICOM series: pydicom, highdicom and SimpleITK read them back and lay them over the source."""

import csv
import logging
import sys

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from helpers.dark_disc import bright_segmenter
from helpers.mri_files import modality, write_dicom, write_nifti
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from diffmedseg.cli.main import main
from diffmedseg.data.catalogue import dataset_info
from diffmedseg.data.regions import REGION_CODES, region_code
from diffmedseg.errors import DataError
from diffmedseg.experiments import data_config, list_datasets
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.prediction import Naming, Outputs, find_cases, predict_volumes
from diffmedseg.reading.dicom import find_series

FRAME = "1.2.3.4.5"
PATIENT = {"PatientName": "Secretname", "PatientBirthDate": "19700102", "AccessionNumber": "SECRETACCESSION"}
REGIONS = ("whole_tumour", "my own region with a long name")


def series(folder, change=lambda slice_, number: None, only=slice(None), **tags):
    """Write a series of a patient in a frame of reference, and change each of its slices."""
    values = modality(1)[only].round()
    write_dicom(folder, values, patient="SECRETID", **({"FrameOfReferenceUID": FRAME, **PATIENT} | tags))
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        change(slice_, int(slice_.SOPInstanceUID.split(".")[-1]))
        slice_.save_as(path, enforce_file_format=True)
    return folder


def oblique(slice_, number):
    """Tilt the slices about two axes, 2.3456789 mm apart, with pixels of many decimals."""
    cos, sin = np.cos(0.3), np.sin(0.3)
    across, down = np.array([cos, sin * 0.6, sin * 0.8]), np.array([0, 0.8, -0.6])
    place = np.array([-100.123456, 20.654321, -33.3]) + np.cross(across, down) * number * 2.3456789
    slice_.ImageOrientationPatient = [f"{value:.8f}" for value in (*across, *down)]
    slice_.ImagePositionPatient = [f"{value:.8f}" for value in place]
    slice_.PixelSpacing, slice_.SliceThickness = ["0.7421875", "1.33333333"], "2.5"


def backwards(slice_, number):
    slice_.ImagePositionPatient = [0, -239, -2 * number]


def big_endian(slice_, number):
    slice_.PixelData = np.frombuffer(slice_.PixelData, "<i2").astype(">i2").tobytes()


def encode(folder, syntax):
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        slice_.file_meta.TransferSyntaxUID = syntax
        little = syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, slice_, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little)
    return folder


def bare(folder):
    """Leave out the preamble and what describes the file."""
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        plain = pydicom.Dataset()
        plain.update({element.tag: element for element in slice_})
        plain.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return folder


def setting(**tags):
    def change(slice_, number):
        for tag, value in tags.items():
            setattr(slice_, tag, value)

    return change


SERIES = {
    "plain": series,
    "oblique, with decimals": lambda f: series(f, oblique),
    "backwards": lambda f: series(f, backwards),
    "one slice": lambda f: series(f, only=slice(2, 3)),
    "no thickness": lambda f: series(f, lambda slice_, number: delattr(slice_, "SliceThickness")),
    "implicit": lambda f: encode(series(f), ImplicitVRLittleEndian),
    "big-endian": lambda f: encode(series(f, big_endian), ExplicitVRBigEndian),
    "no preamble": lambda f: bare(series(f)),
    "a sex that highdicom refuses": lambda f: series(f, setting(PatientSex="U")),
    "not ASCII": lambda f: series(f, setting(SpecificCharacterSet="ISO_IR 192", PatientName="Zoë^Müller")),
}


def predict(source, out, regions=REGIONS, model=None, **options):
    model = model or bright_segmenter(("flair",), regions)
    outputs = Outputs(dicom_seg=True)
    return predict_volumes(model, find_cases([source], Naming(("flair",), {})), out, outputs=outputs, **options)


def planes(path, image):
    """The frames of a segmentation, by pydicom, as (K, D, H, W) on the grid of a SimpleITK image."""
    header = pydicom.dcmread(path)
    shared = header.SharedFunctionalGroupsSequence[0]
    spacing = [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing]
    assert spacing == pytest.approx(image.GetSpacing()[1::-1], abs=1e-6)
    axes = np.reshape(image.GetDirection(), (3, 3)).T[:2].ravel()
    assert np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float) == pytest.approx(axes, abs=1e-6)
    values = np.zeros((len(header.SegmentSequence), *image.GetSize()[::-1]))
    frames = header.pixel_array.reshape(-1, header.Rows, header.Columns)
    for frame, groups in zip(frames, header.PerFrameFunctionalGroupsSequence, strict=True):
        position = [float(value) for value in groups.PlanePositionSequence[0].ImagePositionPatient]
        index = image.TransformPhysicalPointToContinuousIndex(position)
        assert index == pytest.approx((0, 0, round(index[2])), abs=1e-3)
        values[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, round(index[2])] = frame
    return header, values


@pytest.mark.parametrize("kind", SERIES)
def test_segmentations_lie_over_the_series_and_equal_the_maps(kind, tmp_path):
    folder = SERIES[kind](tmp_path / "in" / "p" / "flair")
    report = predict(tmp_path / "in", tmp_path / "out")
    assert (report.done, report.failed) == (["p"], {})
    image = find_series(folder).read()
    header, values = planes(tmp_path / "out" / "p_mask.dcm", image)
    soft_header, soft = planes(tmp_path / "out" / "p_probability.dcm", image)
    for k, region in enumerate(REGIONS):
        nifti = {name: sitk.ReadImage(str(tmp_path / "out" / f"p_{region}_{name}.nii.gz"))
                 for name in ("mask", "probability")}  # fmt: skip
        assert nifti["mask"].GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-4)
        arrays = {name: sitk.GetArrayFromImage(one) for name, one in nifti.items()}
        assert arrays["mask"].any()
        assert np.array_equal(values[k], arrays["mask"])
        assert np.abs(soft[k] / 255 - arrays["probability"]).max() <= 1 / 510 + 1 / 512
    source = pydicom.dcmread(next(folder.iterdir()), force=True)
    for one in (header, soft_header):
        assert one.FrameOfReferenceUID == FRAME
        assert one.StudyInstanceUID == source.StudyInstanceUID
        assert one.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
        assert (one.PatientName, one.PatientID) == (source.PatientName, source.PatientID)
        instances = {
            item.ReferencedSOPInstanceUID for item in one.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        assert instances == {pydicom.dcmread(path, force=True).SOPInstanceUID for path in folder.iterdir()}
    assert len({header.SeriesInstanceUID, soft_header.SeriesInstanceUID, source.SeriesInstanceUID}) == 3
    assert (header.SegmentationType, soft_header.SegmentationType) == ("BINARY", "FRACTIONAL")
    assert (soft_header.SegmentationFractionalType, soft_header.MaximumFractionalValue) == ("PROBABILITY", 255)


def test_highdicom_gives_the_geometry_of_the_source(tmp_path):
    folder = series(tmp_path / "in" / "p" / "flair", oblique)
    predict(tmp_path / "in", tmp_path / "out")
    image = find_series(folder).read()
    volume = hd.seg.segread(tmp_path / "out" / "p_probability.dcm").get_volume(
        combine_segments=False, allow_missing_positions=True, rescale_fractional=True
    )
    first = image.TransformPhysicalPointToContinuousIndex(volume.position)  # slices of nothing are left out
    assert first == pytest.approx((0, 0, round(first[2])), abs=1e-3)
    assert volume.spacing == pytest.approx(image.GetSpacing()[::-1], abs=1e-5)
    ours, theirs = np.reshape(image.GetDirection(), (3, 3)), volume.direction[:, ::-1]
    assert np.abs(ours * theirs).sum(0) == pytest.approx(np.abs(ours * ours).sum(0), abs=1e-5)


def test_segments_are_coded_and_name_the_model(tmp_path):
    series(tmp_path / "in" / "p" / "flair")
    model = bright_segmenter(("flair",), REGIONS)
    predict(tmp_path / "in", tmp_path / "out", model=model)
    first, second = hd.seg.segread(tmp_path / "out" / "p_mask.dcm").SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == REGIONS
    assert first.segmented_property_type == hd.sr.CodedConcept("52988006", "SCT", "Lesion")
    assert first.segmented_property_category == codes.SCT.MorphologicallyAbnormalStructure
    assert second.segmented_property_type.value == second.segmented_property_type.meaning == REGIONS[1]
    assert second.segmented_property_type.scheme_designator == "99DIFFMEDSEG"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (first.SegmentAlgorithmType, algorithm.AlgorithmName) == ("AUTOMATIC", model.title)
    assert "num_samples=3" in algorithm.AlgorithmParameters


def test_codes_mean_what_the_standard_says():
    """Each of them is in pydicom's copy of the standard, with the same meaning."""
    known = {}
    for scheme in ("SCT", "NCIt"):
        for name in getattr(codes, scheme).dir():
            code = getattr(getattr(codes, scheme), name)
            known.setdefault((code.value, scheme), set()).add(code.meaning)
    for region in REGION_CODES.values():
        for code in (region.category, region.type):
            assert code.meaning in known[code.value, code.scheme]


def test_every_region_of_the_data_sets_is_coded():
    """But for those that have no code, or may be anything."""
    regions = {region for name in list_datasets() for region in dataset_info(data_config(name)).regions}
    assert regions - set(REGION_CODES) == {"cup", "foreground", "brain_growth"}
    assert set(REGION_CODES) <= regions
    assert region_code("x" * 200).type.meaning == "x" * 64


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_report_has_the_volumes_of_the_table(calibrated, tmp_path):
    folder = series(tmp_path / "in" / "p" / "flair", oblique)
    model = bright_segmenter(("flair",), REGIONS)
    if calibrated:
        model.conformal = Conformal([0.9] * 2, [0.2] * 2, [1.5, 2], 0.95, 0.9, 20, model.num_samples, model.num_steps)
    predict(tmp_path / "in", tmp_path / "out", model=model)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    report = hd.sr.srread(tmp_path / "out" / "p_report.dcm")
    mask = pydicom.dcmread(tmp_path / "out" / "p_mask.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(REGIONS)
    voxel = np.prod(find_series(folder).read().GetSpacing()) / 1000
    _, values = planes(tmp_path / "out" / "p_mask.dcm", find_series(folder).read())
    for number, (group, row) in enumerate(zip(groups, rows, strict=True), 1):
        [measurement] = group.get_measurements(codes.SCT.Volume)
        volume = float(measurement.value)
        assert measurement.unit == codes.UCUM.CubicCentimeter
        assert volume == float(row["volume_ml"]) == pytest.approx(values[number - 1].sum() * voxel, abs=1e-3)
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == mask.SOPInstanceUID
        assert segment.referenced_segment_numbers[0] == number
        items = {item.ConceptNameCodeSequence[0].CodeMeaning: item.MeasuredValueSequence[0].NumericValue
                 for item in measurement[0].ContentSequence if item.ValueType == "NUM"}  # fmt: skip
        if calibrated:
            assert volume - float(items["-, range of lower measurement uncertainty"]) == pytest.approx(
                float(row["volume_ml_low"]), abs=1e-3
            )
            assert volume + float(items["+, range of upper measurement uncertainty"]) == pytest.approx(
                float(row["volume_ml_high"]), abs=1e-3
            )
        else:
            assert not items


def test_an_empty_mask_is_an_empty_segmentation(tmp_path):
    folder = series(tmp_path / "in" / "p" / "flair")
    model = bright_segmenter(("flair",), REGIONS)
    model.threshold = 1.0
    assert predict(tmp_path / "in", tmp_path / "out", model=model).failed == {}
    _, values = planes(tmp_path / "out" / "p_mask.dcm", find_series(folder).read())
    _, soft = planes(tmp_path / "out" / "p_probability.dcm", find_series(folder).read())
    assert not values.any()
    assert soft.any()


def test_results_are_kept_redone_and_replaced(tmp_path):
    series(tmp_path / "in" / "p" / "flair")
    predict(tmp_path / "in", tmp_path / "out")
    paths = [tmp_path / "out" / f"p_{kind}.dcm" for kind in ("mask", "probability", "report")]
    assert predict(tmp_path / "in", tmp_path / "out", resume=True).kept == ["p"]
    for path in paths:
        whole = path.read_bytes()
        for damaged in (whole[:-50], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            assert predict(tmp_path / "in", tmp_path / "out", resume=True).done == ["p"]
            assert path.is_file()
    model = bright_segmenter(("flair",), REGIONS)
    cases = find_cases([tmp_path / "in"], Naming(("flair",), {}))
    predict_volumes(model, cases, tmp_path / "out", overwrite=True)
    assert not list((tmp_path / "out").glob("*.dcm"))


@pytest.mark.parametrize("name", ["Secretname", "Secret^Name=", "SECRET" * 20])
def test_nothing_of_the_patient_is_printed_or_logged(name, tmp_path, capfd, caplog, recwarn):
    """highdicom logs odd names of patients, and pydicom warns of odd values with the values."""
    caplog.set_level(logging.DEBUG)
    odd = setting(PatientName=name, PatientBirthDate="19700102", StudyID="SECRETSTUDY")
    series(tmp_path / "in" / "p" / "flair", odd)
    series(tmp_path / "in" / "q" / "flair", setting(PatientBirthDate="1970-SECRET"))
    for texts in (caplog, recwarn):  # what writing them brought about
        texts.clear()
    predict(tmp_path / "in", tmp_path / "out")
    printed = capfd.readouterr()
    texts = [printed.out, printed.err, caplog.text, *(str(one.message) for one in recwarn)]
    texts += [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".csv", ".yaml")]
    assert not any("secret" in text.lower() or "1970" in text for text in texts)


def test_a_header_that_dicom_forbids_is_refused_without_its_words(tmp_path):
    with pytest.warns(UserWarning, match="Invalid value"):
        series(tmp_path / "in" / "p" / "flair", setting(PatientBirthDate="1970-SECRET"))
    [reason] = predict(tmp_path / "in", tmp_path / "out").failed.values()
    assert "its header is not valid DICOM" in reason
    assert "1970" not in reason
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_patients_that_are_mixed_are_not_named(tmp_path):
    series(tmp_path / "in" / "p" / "flair", lambda slice_, n: setattr(slice_, "PatientID", f"SECRET{n // 3}"))
    [reason] = predict(tmp_path / "in", tmp_path / "out").failed.values()
    assert "2 patients" in reason
    assert "SECRET" not in reason


JAPANESE = ["", "ISO 2022 IR 87"]
UNDECLARED = {"utf-8": b"M\xc3\xbcller1", "latin-1": b"M\xfcllerin"}


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 100", "Zoë^Müller"), (JAPANESE, "Yamada^Tarou=山田^太郎=やまだ^たろう"), ("GB18030", "Wang^X=王^小东")],
)
def test_names_of_every_character_set_and_regions_are_kept(character_set, name, tmp_path):
    series(tmp_path / "in" / "p" / "flair", setting(SpecificCharacterSet=character_set, PatientName=name))
    predict(tmp_path / "in", tmp_path / "out", ("Läsion", "腫瘍"))
    for what in ("mask", "probability", "report"):
        header = pydicom.dcmread(tmp_path / "out" / f"p_{what}.dcm")
        assert header.PatientName == name
        assert "Läsion" in str(header)
        assert "腫瘍" in str(header)


@pytest.mark.parametrize("encoding", UNDECLARED)
def test_names_of_no_character_set_are_read(encoding, tmp_path):
    folder = series(tmp_path / "in" / "p" / "flair", PatientName="Name1234")
    stored = UNDECLARED[encoding].ljust(8)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"Name1234", stored[:8]))
    predict(tmp_path / "in", tmp_path / "out")
    assert pydicom.dcmread(tmp_path / "out" / "p_mask.dcm").PatientName == stored[:8].decode(encoding).strip()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting(SOPInstanceUID="1.2.3.4"), "several slices of the same SOPInstanceUID"),
        (lambda slice_, n: setattr(slice_, "FrameOfReferenceUID", f"1.2.{n // 3}"), "differ in FrameOfReferenceUID"),
        (lambda slice_, n: setattr(slice_, "StudyInstanceUID", f"1.2.{n // 3}"), "differ in StudyInstanceUID"),
    ],
)
def test_slices_that_cannot_be_told_apart_are_refused(change, message, tmp_path):
    series(tmp_path / "in" / "p" / "flair", change)
    [reason] = predict(tmp_path / "in", tmp_path / "out").failed.values()
    assert message in reason


def test_the_largest_series_number_gives_a_number_that_dicom_allows(tmp_path):
    series(tmp_path / "in" / "p" / "flair", setting(SeriesNumber=2**31 - 1))
    predict(tmp_path / "in", tmp_path / "out")
    numbers = [pydicom.dcmread(path).SeriesNumber for path in (tmp_path / "out").glob("*.dcm")]
    assert len(set(numbers)) == 3
    assert max(numbers) < 2**31


def test_a_series_without_frame_of_reference_is_refused(tmp_path):
    series(tmp_path / "in" / "p" / "flair", lambda slice_, number: delattr(slice_, "FrameOfReferenceUID"))
    [reason] = predict(tmp_path / "in", tmp_path / "out").failed.values()
    assert "has no FrameOfReferenceUID" in reason


def test_files_are_refused_before_anything_is_written(tmp_path):
    series(tmp_path / "in" / "p" / "flair")
    write_nifti(tmp_path / "in" / "q" / "flair.nii.gz", modality(1))
    with pytest.raises(DataError, match=r"1 input of 2 is a file: flair\.nii\.gz.*leave --dicom_seg out"):
        predict(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_highdicom_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    series(tmp_path / "in" / "p" / "flair")
    with pytest.raises(DataError, match=r"^--dicom_seg needs highdicom: pip install 'diffmedseg\[dicom\]'$"):
        predict(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_over_series_of_a_model_of_the_zoo(tmp_path, capfd):
    for number, name in enumerate(("flair", "t1ce")):
        folder = series(tmp_path / "p" / name, uid=f"1.2.3.{number}")
        assert folder.is_dir()
    options = ["--num_samples", "2", "--num_steps", "1", "--device", "cpu", "--dicom_seg"]
    main(["predict", "medsegdiff-lite_brats2015.lite0", str(tmp_path / "p"), "--out", str(tmp_path / "out"), *options])
    image = find_series(tmp_path / "p" / "flair").read()
    header, values = planes(tmp_path / "out" / "p_mask.dcm", image)
    labels = [segment.SegmentLabel for segment in header.SegmentSequence]
    for label, found in zip(labels, values, strict=True):
        [path] = (tmp_path / "out").glob(f"p_{label}_mask.nii.gz")
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), found)
    assert header.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.0"
    assert "secret" not in "".join(capfd.readouterr()).lower()


def test_the_command_line_refuses_pictures(tmp_path):
    with pytest.raises(SystemExit, match="--dicom_seg is for DICOM series"):
        main(["predict", "medsegdiff-lite_synthetic.tiny", "zoo/sample.png", "--out", str(tmp_path), "--dicom_seg"])
