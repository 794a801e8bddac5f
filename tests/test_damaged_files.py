"""Damaged files of the project's own formats are refused by an error that says what to do; found by `make fuzz`."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffmedseg.data.cache import map_array
from diffmedseg.errors import DataError, ZooError
from diffmedseg.files import FormatError, read_json, read_yaml
from diffmedseg.metrics.table import read_cases
from diffmedseg.models.loading import best_checkpoint, read_run
from diffmedseg.reading.dicom_elements import check_elements
from diffmedseg.reading.opening import open_image
from diffmedseg.reading.volumes import read_stored
from diffmedseg.run_log import RunLogger


def billions(levels):
    return "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(levels))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (billions(10), "more than 1,000,000 values"),
        ("a: &a [*a]", "100 levels"),
        ("[" * 20_000, "100 levels|not YAML"),
        ("a: " + "{a: " * 150 + "}" * 150, "100 levels"),
        ("a: " + "9" * 5000, "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_yaml_that_no_code_could_walk_through_is_refused(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_anchors_of_sensible_size_are_filled_in(tmp_path):
    (tmp_path / "a.yaml").write_text(billions(4))
    assert read_yaml(tmp_path / "a.yaml")["a1"] == [["x"] * 9] * 9


@pytest.mark.parametrize("content", [b"{", b"[" * 20_000, b"\xff", b"9" * 5000])
def test_json_that_is_damaged_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FormatError):
        read_json(tmp_path / "a.json")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("files", "read", "message"),
    [
        ({"calibration.json": b"{"}, best_checkpoint, r"calibration\.json is damaged .*calibrate again"),
        ({"calibration.json": b"[]"}, best_checkpoint, r"calibration\.json is damaged .*calibrate again"),
        ({"config.yaml": b"model: {"}, read_run, r"config\.yaml is damaged .*restore it"),
        ({"config.yaml": b"text"}, read_run, r"config\.yaml is damaged .*restore it"),
        ({"config.yaml": b"model: {}\ndata: x\ntrainer: {}"}, read_run, r"no settings under data"),
    ],
)
def test_damaged_files_of_a_run_are_named(files, read, message, tmp_path):
    for name, content in {"checkpoints/best.ckpt": b"", "checkpoints/calibrated.ckpt": b"", **files}.items():
        write(tmp_path / name, content)
    with pytest.raises(ZooError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"case\na\n", b'case,region\n"' + b"x" * 200_000])
def test_a_damaged_table_of_cases_is_named(content, tmp_path):
    write(tmp_path / "cases.csv", content)
    with pytest.raises(DataError, match=r"cases\.csv"):
        read_cases(tmp_path / "cases.csv")


@pytest.mark.parametrize("content", [b"step,a\nx,1\n", b"epoch,a\n1,1\n", b"step,a\n1,\xff\n"])
def test_a_damaged_log_is_not_taken_for_an_empty_one(content, tmp_path):
    write(tmp_path / "metrics.csv", content)
    with pytest.raises(DataError, match=r"metrics\.csv is damaged .*move it away"):
        _ = RunLogger(tmp_path, 3).experiment
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_a_cached_array_with_a_damaged_header_is_named(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    write(tmp_path / "a.npy", content.getvalue().replace(b"{'descr'", b"{{descr'"))
    with pytest.raises(DataError, match=r"is damaged .*Delete this folder"):
        map_array(tmp_path / "a.npy")


def png(width, height, rows=8):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes((width + 1) * rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_a_picture_that_announces_more_than_its_file_can_hold_is_refused(tmp_path):
    write(tmp_path / "a.png", png(9, 33_554_440))
    with (
        pytest.raises(DataError, match=r"has 9 x 33,554,440 pixels by its header, and only \d+ bytes"),
        open_image(tmp_path / "a.png"),
    ):
        pass


def test_a_blank_picture_that_compresses_well_is_read(tmp_path):
    Image.new("L", (6000, 4000)).save(tmp_path / "a.png", optimize=True)
    with open_image(tmp_path / "a.png") as image:
        assert not np.asarray(image).any()


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 1\nencoding: raw\nendian: little\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nrrd", NRRD + f"{'[' * 5000}: x\n\n" + "x" * 16, "a line of 5,003 characters"),
        (
            "a.mha",
            "NDims = 3\nElementSpacing = 1 1 1\nDimSize = 2 2 0\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
            "no voxel",
        ),
    ],
)
def test_headers_on_which_itk_would_crash_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_stored(tmp_path / name)


@pytest.mark.parametrize("rows", [4, 5])
def test_a_slice_whose_elements_leave_the_file_is_refused(rows, tmp_path):
    from robustness.seeds import dicom_series

    content = dicom_series()[1]["0.dcm"]
    at = content.index(b"\x28\x00\x10\x00US\x02\x00") + 8
    write(tmp_path / "a.dcm", content[:at] + struct.pack("<H", rows) + content[at + 2 :])
    if rows == 4:
        check_elements(tmp_path / "a.dcm")
        return
    with pytest.raises(DataError, match=r"a\.dcm is damaged"):
        check_elements(tmp_path / "a.dcm")
