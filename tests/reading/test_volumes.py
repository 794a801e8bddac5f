"""Kinds of volumes, each read by every command alike: a new kind is one row."""

import gzip

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dark_disc import bright_segmenter
from helpers.mri_files import data_module
from helpers.volume_files import (
    AFFINE,
    SIZE,
    affine_fields,
    blob,
    flip,
    mha,
    nifti,
    nrrd_file,
    nrrd_of,
    picture,
    pixdim,
)

from diffmedseg.data import FourDimensional
from diffmedseg.data.checking import check_data
from diffmedseg.errors import DataError
from diffmedseg.evaluation.mask_folders import read_mask
from diffmedseg.prediction import Naming, find_cases, predict_volumes
from diffmedseg.prediction.volumes.nifti_writing import write_nifti
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.reading.volumes import count_volumes, read_stored, to_labels

NO_SFORM, NO_FORM = {"sform_code": 0}, {"sform_code": 0, "qform_code": 0}
TURN = np.array([[0.0, 0, -3, 5], [2 * 0.8, 1.5 * 0.6, 0, 6], [-2 * 0.6, 1.5 * 0.8, 0, 7], [0, 0, 0, 1]])  # oblique
LEFT = AFFINE * [[-1], [1], [1], [1]]  # of the other hand
SHEARED = AFFINE + 0.5 * np.outer([1, 0, 0, 0], [0, 1, 0, 0])
SCALED = {"scl_slope": 0.5, "scl_inter": -3}


def quaternion(*bcd, **more):
    return NO_SFORM | dict(zip(("quatern_b", "quatern_c", "quatern_d"), bcd, strict=True)) | more


# By kind: the suffix, and the file of values. nibabel, an independent reader, gives the same values and affine.
READ = {
    "plain": (".nii", nifti),
    "packed": (".nii.gz", lambda v: nifti(v, packed=True)),
    "packed, though .nii": (".nii", lambda v: nifti(v, packed=True)),
    "not packed, though .nii.gz": (".nii.gz", nifti),
    "capitals": (".NII.GZ", lambda v: nifti(v, packed=True)),
    "several members": (".nii.gz", lambda v: b"".join(gzip.compress(part) for part in halves(nifti(v)))),
    "NIfTI-2": (".nii", lambda v: nifti(v, version=2)),
    "NIfTI-2, big-endian": (".nii", lambda v: nifti(v, version=2, order=">")),
    "big-endian": (".nii", lambda v: nifti(v, order=">")),
    **{f"{t}": (".nii", lambda v, t=t: nifti(v, t)) for t in
       ("u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8")},
    "offset": (".nii", lambda v: nifti(v, offset=400)),
    "bytes behind": (".nii", lambda v: nifti(v, behind=bytes(99))),
    "slope 0": (".nii", lambda v: nifti(v, scl_slope=0, scl_inter=7)),
    "slope NaN": (".nii", lambda v: nifti(v, scl_slope=np.nan, scl_inter=np.nan)),
    "no unit": (".nii", lambda v: nifti(v, xyzt_units=0)),
    "trailing axes of 1": (".nii", lambda v: nifti(v[..., None, None])),
    "one slice of 2-D": (".nii", lambda v: nifti(v[..., 2])),
    "left-handed": (".nii", lambda v: nifti(v, qform_code=0, **affine_fields(LEFT))),
    "oblique sform": (".nii", lambda v: nifti(v, qform_code=0, **affine_fields(TURN))),
    "qform": (".nii", lambda v: nifti(v, **NO_SFORM)),
    "qform, oblique": (".nii", lambda v: nifti(v, **quaternion(0.2, -0.3, 0.4))),
    "qform, half a turn": (".nii", lambda v: nifti(v, **quaternion(0.6, 0, 0.8))),
    "qform, qfac -1": (".nii", lambda v: nifti(v, **quaternion(0.2, -0.3, 0.4), **pixdim(2, 1.5, 3, fac=-1))),
    "qform, qfac 0": (".nii", lambda v: nifti(v, **quaternion(0.2, -0.3, 0.4), **pixdim(2, 1.5, 3, fac=0))),
    "sform alone, qform damaged": (".nii", lambda v: nifti(v, quatern_b=3)),
}  # fmt: skip

# What contradicts itself, or says nothing: as nibabel reads it, and noted.
NOTED = {
    "pixdim 1": (".nii", lambda v: nifti(v, qform_code=0, **pixdim(1, 1, 1)), "2 x 1.5 x 3 mm by its sform and 1 x 1"),
    "pixdim of slices": (".nii.gz", lambda v: nifti(v, qform_code=0, packed=True, **pixdim(2, 1.5, 1)), "the sform is"),
    "pixdim below 0": (".nii", lambda v: nifti(v, qform_code=0, **pixdim(2, -1.5, 3)), "2 x -1.5 x 3 mm by pixdim"),
    "pixdim 0": (".nii", lambda v: nifti(v, qform_code=0, **pixdim(0, 1.5, 3)), "0 x 1.5 x 3 mm by pixdim"),
    "pixdim NaN": (".nii", lambda v: nifti(v, qform_code=0, **pixdim(np.nan, 1.5, 3)), "nan x 1.5 x 3 mm by pixdim"),
    "NIfTI-2": (".nii", lambda v: nifti(v, version=2, qform_code=0, **pixdim(1, 1, 1)), "the sform is used"),
    "qform elsewhere": (".nii", lambda v: nifti(v, qoffset_x=40), "qform and sform place it up to 29 mm apart"),
    "qform turned": (".nii", lambda v: nifti(v, quatern_b=0.6, quatern_d=0.8), "qform and sform place it"),
    "no form": (".nii", lambda v: nifti(v, **NO_FORM), "left and right may be swapped"),
}

REFUSED = {
    "pixdim 0": (".nii", lambda v: nifti(v, **NO_SFORM, **pixdim(0, 1.5, 3)), "has voxels of 0 x 1.5 x 3 mm"),
    "pixdim below 0": (".nii", lambda v: nifti(v, **NO_FORM, **pixdim(2, 1.5, -3)), "has voxels of 2 x 1.5 x -3 mm"),
    "pixdim NaN": (".nii", lambda v: nifti(v, **NO_FORM, **pixdim(np.nan, 1, 1)), "has voxels of nan x 1 x 1 mm"),
    "quaternion": (".nii", lambda v: nifti(v, **quaternion(1, 1, 0)), "damaged qform"),
    "qform NaN": (".nii", lambda v: nifti(v, **NO_SFORM, qoffset_x=np.nan), "damaged qform"),
    "sheared": (".nii", lambda v: nifti(v, **affine_fields(SHEARED)), "sheared"),
    "singular": (".nii", lambda v: nifti(v, **affine_fields(AFFINE * 0)), "damaged sform"),
    "flat": (".nii", lambda v: nifti(v, **affine_fields(AFFINE[:, [0, 0, 2, 3]])), "sheared"),
    "sform NaN": (".nii", lambda v: nifti(v, **affine_fields(AFFINE * np.nan)), "damaged sform"),
    "sform beyond numbers": (".nii", lambda v: nifti(v, version=2, **affine_fields(AFFINE * 1e300)), "damaged sform"),
    "offset 0": (".nii", lambda v: nifti(v, offset=0), "begin at byte 0; expected 352"),
    "offset in the header": (".nii", lambda v: nifti(v, offset=100), "begin at byte 100"),
    "offset 348": (".nii", lambda v: nifti(v, offset=348), "begin at byte 348"),
    "offset 500 of NIfTI-2": (".nii", lambda v: nifti(v, version=2, offset=500), "begin at byte 500; expected 544"),
    "offset NaN": (".nii", lambda v: nifti(v, vox_offset=np.nan), "begin at byte nan"),
    "offset beyond": (".nii", lambda v: nifti(v, vox_offset=10_000), "cut short"),
    "cut": (".nii", lambda v: nifti(v, cut=9), "cut short"),
    "cut, then packed": (".nii.gz", lambda v: nifti(v, packed=True, cut=9), "cut short"),
    "packed, then cut": (".nii.gz", lambda v: nifti(v, packed=True)[:-20], "cannot be read"),
    "garbage behind": (".nii.gz", lambda v: nifti(v, packed=True, behind=b"garbage"), "cannot be read"),
    "huge": (".nii", lambda v: nifti(v, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "cut short"),
    "huge, packed": (".nii.gz", lambda v: nifti(v, packed=True, dim=[3, *[30000] * 3, 1, 1, 1, 1]), "cut short"),
    "no axes": (".nii", lambda v: nifti(v, dim=[0, 8, 7, 5, 1, 1, 1, 1]), "0 dimensions"),
    "nine axes": (".nii", lambda v: nifti(v, dim=[9, 8, 7, 5, 1, 1, 1, 1]), "9 dimensions"),
    "axis of 0": (".nii", lambda v: nifti(v, dim=[3, 8, 0, 5, 1, 1, 1, 1]), "header is damaged"),
    "vectors": (".nii", lambda v: nifti(np.stack([v[..., None]] * 3, -1)), "3 values per voxel"),
    "complex": (".nii", lambda v: nifti(v, np.complex64), "holds complex numbers"),
    "colours": (".nii", lambda v: nifti(v, datatype=128, bitpix=24), "holds colours"),
    "unknown type": (".nii", lambda v: nifti(v, datatype=77), "unknown type 77"),
    "bits": (".nii", lambda v: nifti(v, bitpix=8), "bitpix 8, and a datatype of 16 bits"),
    "metres": (".nii", lambda v: nifti(v, xyzt_units=1), "lengths in metres"),
    "micrometres": (".nii", lambda v: nifti(v, xyzt_units=3 + 8), "lengths in micrometres"),
    "slope infinite": (".nii", lambda v: nifti(v, scl_slope=np.inf), "scales its values by inf"),
    "intercept NaN": (".nii", lambda v: nifti(v, scl_inter=np.nan), "adds nan"),
    "NaN": (".nii", lambda v: nifti(np.where(blob(), np.nan, v), "f4"), "voxels that are NaN"),
    "beyond float32": (".nii", lambda v: nifti(v * 1e300, "f8"), "NaN or infinite"),
    "half of a pair": (".nii", lambda v: nifti(v, magic=b"ni1"), "half of a pair"),
    "Analyze": (".nii", lambda v: nifti(v, magic=b"\0"), "may be Analyze"),
    "empty": (".nii", lambda v: b"", "no NIfTI header"),
    "text": (".nii.gz", lambda v: b"<html>404</html>", "no NIfTI header"),
    "mha, cut": (".mha", lambda v: mha(v)[:-9], "cut short .551 of 560 bytes"),
    "mha, too long": (".mha", lambda v: mha(v) + b"more", "more than 560 bytes"),
    "mha, a bit": (".mha", lambda v: mha(v, packed=True, harm=flip), "compressed voxels are damaged"),
    "mha, a bit of the checksum": (
        ".mha",
        lambda v: mha(v, packed=True, harm=lambda c: flip(c, -2 + len(c))),
        "compressed voxels are damaged",
    ),
    "mha, packed, then cut": (".mha", lambda v: mha(v, packed=True)[:-9], "compressed voxels; expected"),
    "mha, cut, then said so": (".mha", lambda v: mha(v, packed=True, harm=lambda c: c[:-9]), "are damaged"),
    "mha, cut, then packed": (".mha", lambda v: mha(v[..., :3], packed=True, DimSize="8 7 5"), "cut short"),
    "mha, packed, of no size": (
        ".mha",
        lambda v: mha(v, packed=True, CompressedDataSize=None),
        "no CompressedDataSize",
    ),
    "mha, text cut": (".mha", lambda v: mha(v, BinaryData=False)[:-560] + b"1 2 3\n", "cut short .3 of 280"),
    "mha, other case": (".mha", lambda v: mha(v, ElementSpacing=None, elementspacing="2 1.5 3"), "ElementSpacing"),
    "mha, scaled": (".mha", lambda v: mha(v, ElementToIntensityFunctionSlope=2), "scales its values"),
    "mha, shifted": (".mha", lambda v: mha(v, ElementToIntensityFunctionOffset=-5), "scales its values"),
    "mha, bytes before": (".mha", lambda v: mha(v, HeaderSize=10), "other data before its voxels"),
    "mha, no dimensions": (".mha", lambda v: mha(v, NDims=0), "NDims = 0 and DimSize = 8 7 5"),
    "mha, dimensions below 0": (".mha", lambda v: mha(v, NDims=-4), "NDims = -4"),
    "mha, dimensions twice": (".mha", lambda v: b"NDims = 0 0\n" + mha(v), "the field NDims twice"),
    "mha, no number of voxels": (".mha", lambda v: mha(v, DimSize=None), "NDims = 3 and DimSize = nothing"),
    "mha, two numbers of voxels": (".mha", lambda v: mha(v, DimSize="8 35"), "DimSize = 8 35; expected 3 numbers"),
    "mha, words": (".mha", lambda v: mha(v, TransformMatrix="1 0 0 0 1 0 0 x 1"), "expected 9 numbers"),
    "mha, half an offset": (".mha", lambda v: mha(v, Offset="1 2"), "Offset = 1 2; expected 3 numbers"),
    "nrrd, a bit": (".nrrd", lambda v: nrrd_of(v, harm=flip), "compressed voxels are damaged"),
    "nrrd, packed, then cut": (".nrrd", lambda v: nrrd_of(v, harm=lambda c: c[:-9]), "compressed voxels are damaged"),
    "nrrd, cut, then packed": (".nrrd", lambda v: nrrd_of(v, sizes="8 7 6"), "cut short"),
    "nrrd, cut": (".nrrd", lambda v: nrrd_of(v, packed=False)[:-1], "cut short .559 of 560"),
    "nrrd, too long": (".nrrd", lambda v: nrrd_of(v, packed=False) + b"more", "more than 560 bytes"),
    "nrrd, bytes before": (".nrrd", lambda v: nrrd_of(v, byte_skip=6), "other data before its voxels"),
    "nrrd, micrometres": (".nrrd", lambda v: nrrd_of(v, units='"um" "um" "um"'), "lengths in um"),
    "nrrd, spaceunits": (".nrrd", lambda v: nrrd_of(v, spaceunits='"um" "um" "um"'), "lengths in um"),
    "mha, no size": (".mha", lambda v: mha(v, ElementSpacing=None), "has no size of voxels"),
    "mha, size 0": (".mha", lambda v: mha(v, ElementSpacing="0 1 1"), "has voxels of 0 1 1 mm"),
    "mha, size below 0": (".mha", lambda v: mha(v, ElementSpacing="-1 1 1"), "has voxels of -1 1 1 mm"),
    "mha, sheared": (".mha", lambda v: mha(v, TransformMatrix="1 0 0 1 1 0 0 0 1"), "sheared"),
    "mha, stretched": (".mha", lambda v: mha(v, TransformMatrix="2 0 0 0 1 0 0 0 1"), "sheared"),
    "mha, voxels elsewhere": (".mha", lambda v: mha(v, end="ElementDataFile = a.raw\n"), "voxels are in another file"),
    "mha, huge": (".mha", lambda v: mha(v, DimSize="30000 30000 30000"), "cut short"),
    "mha, micrometres": (".mha", lambda v: mha(v, DistanceUnits="um"), "lengths in um"),
}


def halves(content):
    return content[:500], content[500:]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def by_predict(folder, suffix, build):
    write(folder / "p" / f"flair{suffix}", build(picture()))
    volume = read_case(find_cases([folder / "p"], Naming(("flair",), {}))[0])
    return volume.spacing, volume.note


def by_training(folder, suffix, build):
    write(folder / "images" / f"a{suffix}", build(picture()))
    write(folder / "masks" / f"a{suffix}", build(blob()))
    layout = FourDimensional("(?P<patient>.+)", "images", "masks", ["flair"])
    case = layout.read(layout.find(folder)[0], {1})
    return case.spacing, "; ".join(case.notes)


def by_score(folder, suffix, build):
    mask = read_mask(write(folder / f"a{suffix}", build(blob())))
    volume = mask.volume
    return tuple(sitk.DICOMOrient(volume, "LPS").GetSpacing()[::-1]), None


def by_check(folder, suffix, build):
    for name in "abc":
        write(folder / "images" / f"{name}{suffix}", build(picture()))
        write(folder / "masks" / f"{name}{suffix}", build(blob()))
    data = data_module("volumes", folder)
    found = {problem.kind: problem.text for problem in check_data(data).problems}
    if "unreadable" in found:
        raise DataError(found["unreadable"])
    return data.stores["train"].spacing(0), found.get("geometry", "")


COMMANDS = [by_predict, by_training, by_score]


def lps_spacing(affine):
    """Sizes of voxels along z, y and x, from the affine that nibabel reads."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = nib.io_orientation(affine)[:, 0].astype(int)
    return tuple(lengths[np.argsort(axes)][::-1])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", READ)
def test_every_command_reads(kind, command, tmp_path):
    suffix, build = READ[kind]
    spacing, note = command(tmp_path, suffix, build)
    [path, *_] = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert spacing == pytest.approx(lps_spacing(load(path).affine), rel=1e-6)
    assert not note or "taken for the brain" in note


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", NOTED)
def test_every_command_reads_and_notes(kind, command, tmp_path):
    suffix, build, message = NOTED[kind]
    spacing, note = command(tmp_path, suffix, build)
    [path, *_] = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert spacing == pytest.approx(lps_spacing(load(path).affine), rel=1e-6)
    assert note is None or (message in note and f"{path.stem.split('.')[0]}.nii" in note)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", REFUSED)
def test_every_command_refuses(kind, command, tmp_path):
    suffix, build, message = REFUSED[kind]
    with pytest.raises(DataError, match=message) as error:
        command(tmp_path, suffix, build)
    assert suffix in str(error.value)  # the file's name


@pytest.mark.parametrize("kind", [*NOTED, "pixdim 0 alone", "cut"])
def test_data_check_says_it(kind, tmp_path):
    suffix, build, message = {"pixdim 0 alone": REFUSED["pixdim 0"], "cut": REFUSED["cut"], **NOTED}.get(kind)
    if kind in NOTED:
        spacing, note = by_check(tmp_path, suffix, build)
        assert spacing == pytest.approx(lps_spacing(load(tmp_path / "images" / f"a{suffix}").affine), rel=1e-6)
        assert message in note
        assert f"a{suffix}: " in note
        return
    with pytest.raises(DataError, match=message):
        by_check(tmp_path, suffix, build)


def load(path):
    """Read a file by nibabel, which goes by names and mends sizes in its own way."""
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    kind = nib.Nifti1Image if 348 in (int.from_bytes(content[:4], o) for o in ("little", "big")) else nib.Nifti2Image
    return kind.from_bytes(content)


@pytest.mark.parametrize(("suffix", "build"), [row[:2] for row in (*READ.values(), *NOTED.values())])
def test_values_and_places_are_those_of_nibabel(suffix, build, tmp_path):
    path = write(tmp_path / f"a{suffix}", build(picture()))
    other = load(path)
    [image] = read_stored(path)
    values = np.asarray(other.dataobj, dtype=np.float32).reshape(image.GetSize())
    assert np.array_equal(sitk.GetArrayFromImage(image), values.T)
    assert ras(image) == pytest.approx(other.affine[:3], abs=1e-5)


def ras(image):
    scaled = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.column_stack([scaled, image.GetOrigin()]) * [[-1], [-1], [1]]


@pytest.mark.parametrize("fields", [SCALED, {"scl_slope": -2}, {"scl_slope": 1, "scl_inter": 5}])
def test_values_are_scaled(fields, tmp_path):
    path = write(tmp_path / "a.nii", nifti(picture(), **fields))
    expected = nib.load(path).get_fdata().astype(np.float32)
    assert np.array_equal(sitk.GetArrayFromImage(read_stored(path)[0]), expected.T)


def test_several_volumes(tmp_path):
    values = np.stack([picture() + number for number in range(3)], -1)
    path = write(tmp_path / "a.nii.gz", nifti(values, packed=True))
    assert count_volumes(path) == 3
    for number, image in enumerate(read_stored(path)):
        assert np.array_equal(sitk.GetArrayFromImage(image), values[..., number].T)
        assert ras(image) == pytest.approx(AFFINE[:3], abs=1e-5)


@pytest.mark.parametrize("kind", [*READ, *NOTED])
def test_results_lie_where_nibabel_sees_the_input(kind, tmp_path):
    suffix, build = (READ | NOTED)[kind][:2]
    path = write(tmp_path / "p" / f"flair{suffix}", build(picture()))
    model, cases = bright_segmenter(("flair",), ("lesion",)), find_cases([path], Naming(("flair",), {}))
    report = predict_volumes(model, cases, tmp_path / "out")
    assert not report.failed
    mask, expected = nib.load(tmp_path / "out" / "flair_mask.nii.gz"), load(path).affine
    for found in (mask.affine, mask.get_qform(), mask.get_sform()):
        assert found == pytest.approx(expected, abs=1e-4)


SPACES = {"left-posterior-superior": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "LAS": (1, -1, 1)}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
def test_nrrd_is_read_as_pynrrd_reads_it(space, encoding, tmp_path):
    directions = np.array([[0, 2, 0], [-0.9, 0, 1.2], [2.4, 0, 1.8]])
    path = tmp_path / "flair.nrrd"
    fields = {"space": space, "space directions": directions, "space origin": [3, 4, 5], "encoding": encoding}
    nrrd_file(picture().astype(np.int16), path, **fields)
    values, header = nrrd.read(str(path))
    volume = read_case(find_cases([path], Naming(("flair",), {}))[0])
    write_nifti(tmp_path / "again.nii.gz", volume.stored, np.float32, volume.as_stored(volume.channels[0]))
    for image in (read_stored(path)[0], read_stored(tmp_path / "again.nii.gz")[0]):
        assert np.array_equal(sitk.GetArrayFromImage(image), values.T)
        scaled = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        assert scaled == pytest.approx(header["space directions"].T * np.array(SPACES[space])[:, None])
        assert image.GetOrigin() == pytest.approx(header["space origin"] * SPACES[space])
    nrrd_file(blob().astype(np.uint8), path, **fields)
    assert sorted(read_mask(path).spacing) == pytest.approx([1.5, 2, 3])


@pytest.mark.parametrize(
    ("name", "content"),
    [("flair.mha", mha(picture())), ("flair.MHA", mha(picture())), ("flair.Mha", mha(picture(), packed=True)),
     ("flair.nrrd", nrrd_of(picture())), ("flair.NRRD", nrrd_of(picture(), packed=False)),
     ("flair.nrrd", nrrd_of(picture(), behind="space units:=um\n")),
     ("flair.mha", mha(picture(), ElementToIntensityFunctionSlope=1, HeaderSize=-1))],
)  # fmt: skip
def test_other_formats_hold_what_was_written(name, content, tmp_path):
    write(tmp_path / name, content)
    [image] = read_stored(tmp_path / name)
    assert np.array_equal(sitk.GetArrayFromImage(image), picture().T)
    assert image.GetSpacing() == (2, 1.5, 3)
    assert image.GetOrigin() == (-11, -12, -13)
    assert [case.path.name for case in find_cases([tmp_path], Naming(("flair",), {}))] in ([name], [tmp_path.name])


def test_units_of_axes_in_millimetres(tmp_path):
    units = {"space": None, "space_directions": None, "space_origin": None, "spacings": "2 1.5 3"}
    path = write(tmp_path / "a.nrrd", nrrd_of(picture(), units='"mm" "mm" "mm"', **units))
    assert read_stored(path)[0].GetSpacing() == (2, 1.5, 3)


@pytest.mark.parametrize("build", [mha, nrrd_of])
def test_no_bit_of_compressed_voxels_is_turned_unseen(build, tmp_path):
    """ITK alone reads some of these as other voxels; a bit that means nothing may be turned."""
    length = len(build(picture(), packed=True, harm=lambda content: content))
    for at in range(10, 200, 7):
        path = write(tmp_path / f"a.{'mha' if build is mha else 'nrrd'}", build(picture(), packed=True,
                     harm=lambda content, at=at: flip(content, at)))  # fmt: skip
        try:
            [image] = read_stored(path)
        except DataError:
            continue
        assert np.array_equal(sitk.GetArrayFromImage(image), picture().T), (at, length)


def test_nrrd_that_does_not_say_where_it_lies(tmp_path):
    write(tmp_path / "p" / "flair.nrrd", nrrd_file(picture(), tmp_path / "a.nrrd", spacings=[2.0, 1.5, 3.0]))
    volume = read_case(find_cases([tmp_path / "p"], Naming(("flair",), {}))[0])
    assert volume.spacing == (3, 1.5, 2)
    assert "left and right may be swapped" in volume.note


LPS = {"space": "left-posterior-superior", "space origin": [0, 0, 0]}
STRAIGHT = LPS | {"space directions": np.diag([2.0, 1.5, 3])}


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "has no size of voxels"), ({"spacings": [np.nan, 1, 1]}, "has voxels of"),
     ({"spacings": [0, 1, 1]}, "has voxels of"), ({"spacings": [-1, 1, 1]}, "has voxels of"),
     (LPS | {"space directions": np.array([[2, 0, 0], [1, 1, 0], [0, 0, 3.0]])}, "sheared"),
     (STRAIGHT | {"space units": ["um", "um", "um"]}, "lengths in um")],
)  # fmt: skip
def test_nrrd_that_is_refused(fields, message, tmp_path):
    nrrd_file(picture(), tmp_path / "a.nrrd", **fields)
    with pytest.raises(DataError, match=message):
        read_stored(tmp_path / "a.nrrd")


@pytest.mark.parametrize("axis", [0, 3])
def test_a_list_in_nrrd_is_several_volumes(axis, tmp_path):
    values = np.stack([picture() + number for number in range(2)], axis)
    kinds, directions = ["domain"] * 3, np.diag([2.0, 1.5, 3])
    kinds.insert(axis, "list")
    path = tmp_path / "a.nrrd"
    nrrd_file(values, path, **LPS, kinds=kinds, **{"space directions": np.insert(directions, axis, np.nan, 0)})
    assert count_volumes(path) == 2
    for number, image in enumerate(read_stored(path)):
        assert np.array_equal(sitk.GetArrayFromImage(image), (picture() + number).T)
        assert image.GetSpacing() == (2, 1.5, 3)


def test_nrrd_is_a_data_set(tmp_path):
    for name in "abc":
        for part, values in (("images", picture()), ("masks", blob().astype(np.uint8))):
            (tmp_path / part).mkdir(exist_ok=True)
            nrrd_file(values, tmp_path / part / f"{name}.nrrd", **STRAIGHT)
    data = data_module("volumes", tmp_path)
    store = data.load("train")
    assert store.spacing(0) == (3, 1.5, 2)


@pytest.mark.parametrize("value", [1.0000001, 0.9999, 1.0005])
def test_labels_that_were_rounded(value, tmp_path):
    path = write(tmp_path / "a.nii", nifti(np.where(blob(), value, -1e-7), "f4"))
    labels = to_labels(read_stored(path)[0], {1}, path)
    assert np.array_equal(labels, blob().T)
    path = write(tmp_path / "b.nii", nifti(blob() * 1.02, "f4"))
    [far] = read_stored(path)
    with pytest.raises(DataError, match=r"has labels 1\.02"):
        to_labels(far, {1}, path)


@pytest.mark.parametrize(("white", "dtype"), [(255, "u1"), (255, "f4"), (254.9999, "f4"), (65535, "u2"), (1, "i2")])
def test_white_is_the_only_label(white, dtype, tmp_path):
    path = write(tmp_path / "a.nii", nifti(blob() * white, dtype))
    labels = to_labels(read_stored(path)[0], {1}, path)
    assert np.array_equal(labels, blob().T)
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "allowed"),
    [(blob() * 255, {1, 2}), (blob() * 255, {2}), (blob() * 128, {1}), (blob() * 255 + (picture() > 50), {1})],
)
def test_other_values_are_no_labels(values, allowed, tmp_path):
    path = write(tmp_path / "a.nii", nifti(values))
    with pytest.raises(DataError, match=r"a.nii has labels .*; this scheme has 0, .*by --data\.labels$"):
        to_labels(read_stored(path)[0], allowed, path)
    path = path.rename(path.with_name("BraTS-GLI-00001-000-seg.nii"))
    with pytest.raises(DataError, match=r"choose the yaml of the data's year.*2024"):
        to_labels(read_stored(path)[0], allowed, path)


def test_a_brain_mask_that_was_rounded(tmp_path):
    write(tmp_path / "flair.nii", nifti(picture()))
    write(tmp_path / "brainmask.nii", nifti(np.where(blob(), 1.0000001, -1e-7), "f4"))
    [case] = find_cases([tmp_path], Naming(("flair",), {}))
    assert np.array_equal(read_case(case).brain, blob().T)


def test_size_is_checked_before_memory_is_taken(tmp_path):
    path = write(tmp_path / "a.nii.gz", gzip.compress(bytes(2**21)) * 700)
    header = nifti(np.zeros(SIZE), "u1", dim=[3, 1100, 1100, 1100, 1, 1, 1, 1])[:352]
    path.write_bytes(gzip.compress(header) + path.read_bytes())
    with pytest.raises(DataError, match=r"has 1,331,000,000 voxels; at most"):
        read_stored(path)
