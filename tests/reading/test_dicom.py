"""Series of slices, of which pydicom, an independent reader, gives the truth."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from helpers.mri_files import modality, write_dicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from diffmedseg.errors import DataError
from diffmedseg.prediction import Naming, find_cases
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.reading.dicom import find_series, is_dicom, is_dicom_file


def series(folder, change=lambda slice_, number: None, count=6, **options):
    """Write a series, and change each of its slices."""
    write_dicom(folder, modality(1)[:count].round(), **options)
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        change(slice_, int(slice_.SOPInstanceUID.split(".")[-1]))
        slice_.save_as(path, enforce_file_format=True)
    return folder


def rewrite(folder, old, new, only=None):
    for path in folder.iterdir():
        if only is None or path.name == only:
            content = path.read_bytes()
            assert old in content
            path.write_bytes(content.replace(old, new))
    return folder


def bare(folder, **syntax):
    """Leave out the preamble and what describes the file."""
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        plain = pydicom.Dataset()
        plain.update({element.tag: element for element in slice_})
        plain.save_as(path, **syntax, enforce_file_format=False)
    return folder


def encode(folder, syntax):
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        big = syntax == ExplicitVRBigEndian
        if big:
            slice_.PixelData = np.frombuffer(slice_.PixelData, "<i2").astype(">i2").tobytes()
        slice_.file_meta.TransferSyntaxUID = syntax
        implicit = syntax == ImplicitVRLittleEndian
        pydicom.dcmwrite(path, slice_, implicit_vr=implicit, little_endian=not big, enforce_file_format=True)
    return folder


def bare_names(folder):
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(""))
    return folder


def setting(**tags):
    def change(slice_, number):
        for tag, value in tags.items():
            setattr(slice_, tag, value(number) if callable(value) else value)

    return change


def scaled(slice_, number):
    """Give each slice a slope of its own, as some scanners do."""
    slice_.RescaleSlope = [1, 0.5, 0.25, 0.125, 2, 4][number]
    slice_.PixelData = (np.frombuffer(slice_.PixelData, "<i2") / slice_.RescaleSlope).astype("<i2").tobytes()


def without(*tags):
    def change(slice_, number):
        for tag in tags:
            delattr(slice_, tag)

    return change


READ = {
    "plain": series,
    "implicit": lambda f: encode(series(f), ImplicitVRLittleEndian),
    "big-endian": lambda f: encode(series(f), ExplicitVRBigEndian),
    "deflated": lambda f: encode(series(f), DeflatedExplicitVRLittleEndian),
    "compressed": lambda f: series(f, lambda slice_, number: slice_.compress(RLELossless)),
    "no preamble, implicit": lambda f: bare(series(f), implicit_vr=True, little_endian=True),
    "no preamble, explicit": lambda f: bare(series(f), implicit_vr=False, little_endian=True),
    "unsigned": lambda f: series(f, setting(PixelRepresentation=0)),
    "no rescaling": lambda f: series(f, without("RescaleSlope", "RescaleIntercept")),
    "a slope for each slice": lambda f: series(f, scaled),
    "no thickness": lambda f: series(f, without("SliceThickness")),
    "patient padded": lambda f: rewrite(series(f, patient="pat "), b"pat ", b"pat\0", only="IM007.dcm"),
    "patient not ASCII": lambda f: series(f, setting(SpecificCharacterSet="ISO_IR 192", PatientID="Zoë")),
    "patient of no character set": lambda f: rewrite(series(f, patient="pa"), b"pa", b"p\xe9"),
    "uid padded": lambda f: rewrite(series(f), b"UI\x06\x001.2.3\0", b"UI\x06\x001.2.3 ", only="IM007.dcm"),
    "oblique": lambda f: series(f, setting(
        ImageOrientationPatient=[0.6, 0.8, 0, 0, 0, -1],
        ImagePositionPatient=lambda number: [3 - 0.8 * 2.5 * number, 4 + 0.6 * 2.5 * number, 5],
    )),
    "one slice": lambda f: series(f, count=1),
    "one slice with a gap": lambda f: series(f, setting(SpacingBetweenSlices=5.5), count=1),
    "no extension": lambda f: bare_names(series(f)),
}  # fmt: skip

REFUSED = {
    "inverted": (lambda f: series(f, setting(PhotometricInterpretation="MONOCHROME1")), "MONOCHROME1"),
    "palette": (lambda f: series(f, setting(PhotometricInterpretation="PALETTE COLOR")), "damaged, or is not a slice"),
    "spacing 0": (lambda f: series(f, setting(PixelSpacing=[0, 0])), "has the PixelSpacing"),
    "spacing below 0": (lambda f: series(f, setting(PixelSpacing=[1, -1])), "has the PixelSpacing"),
    "axes": (lambda f: series(f, setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])), "sheared"),
    "place": (lambda f: series(f, setting(ImagePositionPatient=["nan", 0, 0])), "has the ImagePositionPatient"),
    "thickness": (lambda f: series(f, without("SliceThickness"), count=1), "single slice without a thickness"),
    "thickness 0": (lambda f: series(f, setting(SliceThickness=0), count=1), "single slice without a thickness"),
    "slope 0": (lambda f: series(f, setting(RescaleSlope=0)), "has the RescaleSlope '0"),
    "slope of text": (lambda f: series(f, setting(RescaleSlope="nan")), "has the RescaleSlope 'nan'"),
    "no intercept": (lambda f: series(f, setting(RescaleIntercept="inf")), "has the RescaleIntercept 'inf'"),
    "an empty slice": (lambda f: beside(series(f), "IM009.dcm", b""), r"damaged, or are not slices: IM009\.dcm"),
    "an empty file": (lambda f: beside(series(f), "IM009", b""), "damaged, or are not slices: IM009"),
    "no slice": (lambda f: beside(series(f), "IM009.dcm", b"<html>" * 99), r"damaged, or are not slices: IM009\.dcm"),
    "two patients": (lambda f: series(f, setting(PatientID=lambda number: f"p{number // 3}")), "2 patients, such as"),
    "cut": (lambda f: cut(series(f)), r"IM007\.dcm is damaged"),
    "only the preamble is left out": (lambda f: shorten(series(f)), "lacks the preamble"),
    "two slopes of axes": (
        lambda f: series(f, setting(ImageOrientationPatient=lambda n: [n > 0, n == 0, 0, -(n == 0), n > 0, 0])),
        "2 sizes or directions",
    ),
}  # fmt: skip


def beside(folder, name, content):
    """Put another file beside the slices."""
    (folder / name).write_bytes(content)
    return folder


def cut(folder):
    path = folder / "IM007.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def shorten(folder):
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    return folder


def truth(folder):
    """Values (D, H, W) and geometry by pydicom, slices in the order of their places."""
    slices = [pydicom.dcmread(path, force=True) for path in folder.iterdir()]
    axes = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*axes)
    slices.sort(key=lambda one: np.array(one.ImagePositionPatient, float) @ normal)
    places = np.array([one.ImagePositionPatient for one in slices], float)
    for one in slices:
        if "TransferSyntaxUID" not in one.file_meta:
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    values = np.stack([
        one.pixel_array * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0)) for one in slices
    ])  # fmt: skip
    down, across = map(float, slices[0].PixelSpacing)
    step = slices[0].get("SpacingBetweenSlices", slices[0].get("SliceThickness"))
    step = np.linalg.norm(places[1] - places[0]) if len(places) > 1 else float(step)
    return values, (across, down, step), places[0], np.column_stack([*axes, normal])


@pytest.mark.parametrize("kind", READ)
def test_series_are_read_as_pydicom_reads_them(kind, tmp_path):
    folder = READ[kind](tmp_path / "flair")
    assert is_dicom(folder)
    image = find_series(folder).read()
    values, spacing, origin, direction = truth(folder)
    assert np.array_equal(sitk.GetArrayFromImage(image), values.astype(np.float32))
    assert image.GetSpacing() == pytest.approx(spacing)
    assert image.GetOrigin() == pytest.approx(origin)
    assert np.reshape(image.GetDirection(), (3, 3)) == pytest.approx(direction)
    [case] = find_cases([tmp_path], Naming(("flair",), {}))
    assert read_case(case).channels[0].size == values.size


@pytest.mark.parametrize("kind", REFUSED)
def test_series_are_refused(kind, tmp_path):
    write, message = REFUSED[kind]
    folder = write(tmp_path / "flair")
    with pytest.raises(DataError, match=message) as error:
        find_series(folder)
    assert str(folder) in str(error.value)


def test_an_empty_slope_is_none_and_a_text_no_slice(tmp_path):
    plain = find_series(series(tmp_path / "plain")).read()
    folder = beside(series(tmp_path / "flair", setting(RescaleSlope="", RescaleIntercept="")), "readme.txt", b"text")
    found = find_series(beside(folder, "DICOMDIR", b"")).read()
    assert np.array_equal(*map(sitk.GetArrayFromImage, (found, plain)))


def test_padding_makes_no_other_patient(tmp_path):
    series(tmp_path / "p" / "flair", patient="P1")
    rewrite(series(tmp_path / "p" / "t1ce", patient="P1xx"), b"P1xx", b"P1 \0")
    [case] = find_cases([tmp_path], Naming(("flair", "t1ce"), {}))
    assert len(read_case(case).channels) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"DICM", b"\x02\0", b"\x08\0\x05\0", b"\x89PNG\r\n\x1a\n" + bytes(200), b"<html>" * 40,
     b"\x08\0\x05\0\x10\0\0\0" + bytes(200), b"\x08\0\x08\0" * 100, b"\xff\xd8" + bytes(300)],
)  # fmt: skip
def test_what_only_begins_alike_is_no_dicom(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom_file(tmp_path / "a")
