"""Nodules of the thyroid in ultrasound: DDTI, with outlines in XML files, and TN3K."""

import json

import numpy as np
import pytest
from helpers.layout_files import circle, svg, texture, write_ddti, write_tn3k, xml
from helpers.picture_files import SIZE, lesion, save, save_mask, yaml_module
from helpers.tiny_run import TINY
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import UltrasoundAugmentation
from diffmedseg.errors import DataError
from diffmedseg.reading.outlines import fill_outlines, read_outlines


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_every_outline_of_a_picture_is_in_its_mask_and_patients_stay_together(tmp_path):
    write_ddti(tmp_path)
    data = yaml_module("ddti", tmp_path)
    assert (data.info.channels, data.info.regions, data.info.raters) == (("grey",), ("nodule",), 1)
    assert isinstance(data.augment, UltrasoundAugmentation)
    patients = {name: {id_.split("_")[0] for id_ in data.load(name).ids} for name in ("train", "val", "test")}
    assert set.union(*patients.values()) == set(map(str, range(1, 9)))
    assert sum(map(len, patients.values())) == 8
    store = data.load("test")
    for index, name in enumerate(store.ids):
        mask = store.reference(index)[0, 0].numpy()
        expected = disc(12, 12, 5.5) if name.endswith("_1") else disc(8, 8, 4.5) | disc(21, 15, 4.5)
        assert (mask != expected).sum() < 0.1 * expected.sum()  # points are whole pixels
        assert mask[12, 12] == name.endswith("_1")


def test_a_mask_holds_the_points_of_its_outline_and_what_they_enclose(tmp_path):
    square = [(3.0, 2.0), (8.0, 2.0), (8.0, 6.0), (3.0, 6.0)]
    mask = fill_outlines([square], (10, 12), tmp_path)
    expected = np.zeros((10, 12))
    expected[2:7, 3:9] = 1
    assert np.array_equal(mask, expected)


def test_pictures_without_outlines_are_left_out_and_named(tmp_path):
    write_ddti(tmp_path)
    (tmp_path / "1.xml").write_text(xml(1, [(1, svg(circle(12, 12, 5))), (2, ""), (3, svg(circle(9, 9, 3)))]))
    (tmp_path / "2.xml").write_text(xml(2, []))
    (tmp_path / "3.xml").unlink()
    found = yaml_module("ddti", tmp_path).layout.search(tmp_path)
    assert found.without_mask == ["1_2", "2_1", "2_2", "3_1", "3_2"]
    assert found.without_picture == ["1.xml (picture 3)"]
    kinds = {problem.kind: problem.names for problem in yaml_module("ddti", tmp_path).find_warnings()}
    assert kinds == {"picture without mask": found.without_mask, "mask without picture": found.without_picture}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(1, [(1, svg(circle(12, 12, 5))[:-20])]), r"1\.xml: the outlines of picture 1 are cut short or damaged"),
        (xml(1, [(1, "[{}]")]), r"1\.xml: the outlines of picture 1 are cut short or damaged \('points'\)"),
        (
            xml(1, [(1, svg(circle(12, 12, 9, share=0.6)))]),
            r"1\.xml: .* picture 1 include an open outline\. It ends \d+ pixels",
        ),
        (
            xml(1, [(1, svg(circle(12, 12, 5, points=2)))]),
            r"1\.xml: .* include an outline of 2 points; expected at least 3",
        ),
        (
            xml(1, [(1, svg(circle(12, 12, 5)).replace('"x": 17', '"x": NaN'))]),
            r"1\.xml: .* have a point that is not a number",
        ),
        (xml(1, [(1, svg(circle(12, 12, 5)))])[:-9], r"1\.xml cannot be read as XML \("),
        (xml(1, [("first", svg(circle(12, 12, 5)))]), r"1\.xml has a mark that names no picture"),
        ("", r"1\.xml cannot be read as XML \("),
    ],
)
def test_a_damaged_file_of_outlines_is_named_in_one_sentence(content, message, tmp_path):
    write_ddti(tmp_path)
    (tmp_path / "1.xml").write_text(content)
    with pytest.raises(DataError, match=rf"1 file of outlines cannot be used: .*{message}") as caught:
        yaml_module("ddti", tmp_path).load("train")
    assert caught.value.names == ["1.xml"]


def test_all_damaged_files_are_named_at_once(tmp_path):
    write_ddti(tmp_path)
    for number in (1, 4):
        (tmp_path / f"{number}.xml").write_text("<case>")
    with pytest.raises(
        DataError, match=r"2 files of outlines cannot be used: .*1\.xml.*4\.xml.*remove it from the folder"
    ):
        yaml_module("ddti", tmp_path).load("train")


def test_outlines_of_another_picture_are_refused(tmp_path):
    write_ddti(tmp_path)
    save(tmp_path / "5_1.jpg", texture(1, (12, 15)))
    with pytest.raises(DataError, match=r"5\.xml has an outline .* beyond its picture of 15 x 12 pixels"):
        yaml_module("ddti", tmp_path).load("train")


def test_corners_of_a_polygon_are_not_a_gap(tmp_path):
    """Three corners close by an edge as long as the others; a hand may also leave a few pixels."""
    corners = [{"x": 2, "y": 2}, {"x": 20, "y": 3}, {"x": 11, "y": 15}]
    (tmp_path / "1.xml").write_text(xml(1, [(1, svg(corners, circle(12, 12, 9, share=0.9)))]))
    assert [len(outline) for outline in read_outlines(tmp_path / "1.xml")[1]] == [3, 40]


def test_a_folder_without_ultrasound_says_what_is_expected(tmp_path):
    save(tmp_path / "1_1.jpg", texture(1))
    with pytest.raises(DataError, match=r"None of the 1 pictures .* has a mask; expected \{patient\}\.xml"):
        yaml_module("ddti", tmp_path).load("train")
    with pytest.raises(DataError, match=r"(?s)No picture in .*no such folder.*From http://cimalab"):
        yaml_module("ddti", tmp_path / "nowhere").load("train")


def test_tn3k_has_an_official_test_set_and_folds(tmp_path):
    write_tn3k(tmp_path / "tn3k")
    data = yaml_module("tn3k", tmp_path)
    assert sorted(data.load("test").ids) == ["test_0000", "test_0001", "test_0002"]
    assert len(data.load("train")) + len(data.load("val")) == 10
    assert np.mean(data.load("test").reference(2)[0, 0].numpy() != lesion(2)) < 0.02  # masks are JPEG
    for fold in range(5):
        data = yaml_module("tn3k", tmp_path, split_by="official_folds", fold=fold)
        assert sorted(data.load("val").ids) == [f"trainval_{fold:04d}", f"trainval_{fold + 5:04d}"]
        assert len(data.load("train")) == 8
        assert sorted(data.load("test").ids) == ["test_0000", "test_0001", "test_0002"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tn3k-trainval-fold0\.json is missing in .*Download it, or set split_by"),
        ("[1, 2", r"fold0\.json is damaged"),
        ("[1, 2]", r"fold0\.json is damaged"),
        (json.dumps({"train": [0, 1], "val": [1, 2]}), r"fold0\.json names cases twice: 1"),
        (json.dumps({"train": [0, 1], "val": [77]}), r"list of the val set names 1 missing case: 77"),
        (json.dumps({"val": [1]}), r"no list of the train set"),
    ],
)
def test_lists_that_do_not_fit_are_refused(content, message, tmp_path):
    write_tn3k(tmp_path)
    file = tmp_path / "tn3k-trainval-fold0.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(DataError, match=message):
        yaml_module("tn3k", tmp_path, split_by="official_folds").load("train")


def test_lists_may_hold_file_names(tmp_path):
    write_tn3k(tmp_path)
    names = {"train": ["0002.jpg", "0003.jpg"], "val": ["0001"]}
    (tmp_path / "tn3k-trainval-fold0.json").write_text(json.dumps(names))
    data = yaml_module("tn3k", tmp_path, split_by="official_folds")
    assert data.split_ids["train"] == ["trainval_0002", "trainval_0003"]
    assert data.split_ids["val"] == ["trainval_0001"]


def test_a_mask_of_another_size_and_one_that_is_missing_are_named(tmp_path):
    write_tn3k(tmp_path)
    (tmp_path / "trainval-mask" / "0003.jpg").unlink()
    assert yaml_module("tn3k", tmp_path).layout.search(tmp_path).without_mask == ["trainval_0003"]
    save_mask(tmp_path / "trainval-mask" / "0003.jpg", lesion(3)[:9])
    with pytest.raises(DataError, match=r"0003\.jpg needs masks of .*0003\.jpg has"):
        yaml_module("tn3k", tmp_path).load("train")


def test_train_on_ddti(tmp_path):
    write_ddti(tmp_path / "data")
    tiny = [option for option in TINY if not option.startswith("--data.num_")]
    main(["train", "medsegdiff-lite", "ddti", *tiny, f"--data.root={tmp_path / 'data'}", f"--runs={tmp_path}"])
    assert (tmp_path / "medsegdiff-lite-ddti" / "version_0" / "cases.csv").is_file()


def test_a_turned_picture_with_outlines_is_read_and_doubted(tmp_path):
    """An XML file says nothing of how its picture is turned."""
    write_ddti(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(texture(51)).save(tmp_path / "5_1.jpg", exif=exif)
    data = yaml_module("ddti", tmp_path)
    assert [(problem.kind, problem.names) for problem in data.find_warnings()] == [("turned picture", ["5_1"])]
