"""Names are found and compared alike by training, ``score`` and ``predict``, on any disk."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmedseg.data import FileNames
from diffmedseg.data.pictures.windows import read_windows, write_windows
from diffmedseg.errors import DataError
from diffmedseg.evaluation import pair_masks
from diffmedseg.prediction.pictures.files import find_pictures
from diffmedseg.reading.names import comparable, files_below
from diffmedseg.reading.windows import CropWindow

NFC, NFD = (unicodedata.normalize(form, "Pr\u00fcfung") for form in ("NFC", "NFD"))
# What a picture and its mask are called, and the name that both have.
PAIRS = {
    "alike": ("a.png", "a.png", "a"),
    "accents apart in the mask": (f"{NFC}.png", f"{NFD}.png", NFC),
    "accents apart in the picture": (f"{NFD}.png", f"{NFC}.png", NFC),
    "accents apart in both": (f"{NFD}.png", f"{NFD}.png", NFC),
    "other case and an ending": ("A.png", "a_mask.png", "A"),
    "case and accents": (f"{NFD.upper()}.png", f"{NFC}.png", NFC.upper()),
    "case of the suffix": ("a.PNG", "a.Png", "a"),
    "dots": ("a.1.png", "a.1.png", "a.1"),
    "other letters": ("\u691c\u67fb.png", "\u691c\u67fb.png", "\u691c\u67fb"),
    "blanks": ("a b.png", "a b.png", "a b"),
    "digits": ("005.png", "005.png", "005"),
}


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(path)
    return path


def layout():
    return FileNames("images/(?P<id>.+)", {"lesion": ["masks*/{id}"]})


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs(kind, tmp_path):
    picture, mask, name = PAIRS[kind]
    picture, mask = save(tmp_path / "images" / picture), save(tmp_path / "masks" / mask)
    [case] = layout().search(tmp_path).cases
    assert (case.id, case.image, case.masks) == (name, picture, ((mask,),))
    assert list(pair_masks(tmp_path / "masks", tmp_path / "images").both.values()) == [(mask, picture)]


@pytest.mark.parametrize("names", [("a.png", "A.png"), (f"{NFC}.png", f"{NFD}.png"), ("a.png", "a.tif")])
def test_names_that_clash_are_both_named(names, tmp_path):
    first, second = (save(tmp_path / "images" / name) for name in names)
    for search in (
        lambda: layout().search(tmp_path),
        lambda: pair_masks(tmp_path / "images", tmp_path / "images"),
        lambda: find_pictures([tmp_path / "images"]),
    ):
        save(tmp_path / "masks" / names[0])
        with pytest.raises(DataError) as caught:
            search()
        assert str(first) in str(caught.value)
        assert str(second) in str(caught.value)


@pytest.mark.parametrize(
    "hidden",
    [".a.png", "._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", "__MACOSX/._a.png", "b/.c/d/a.png"],
)
def test_hidden_files_and_folders_are_skipped(hidden, tmp_path):
    for part in ("images", "masks"):
        save(tmp_path / part / "x.png")
        save(tmp_path / part / hidden)
    found = layout().search(tmp_path)
    assert [case.id for case in found.cases] == ["x"]
    assert found.without_mask == found.without_picture == []
    assert list(pair_masks(tmp_path / "masks", tmp_path / "images").both) == ["x"]
    assert [picture.name for picture in find_pictures([f"{tmp_path}/images/**/*"])] == ["x"]


def test_a_folder_within_a_hidden_one_may_be_named(tmp_path):
    for part in ("images", "masks"):
        save(tmp_path / ".data" / part / "x.png")
    assert len(layout().search(tmp_path / ".data").cases) == 1
    assert len(find_pictures([tmp_path / ".data" / "images"])) == 1


def test_links_to_folders_are_followed(tmp_path):
    for part in ("images", "masks"):
        save(tmp_path / "disk" / part / "x.png")
        save(tmp_path / "other" / part / "y.png")
        (tmp_path / "disk" / part / "more").symlink_to(tmp_path / "other" / part)
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / part).symlink_to(tmp_path / "disk" / part)
    assert [case.id for case in layout().search(tmp_path / "root").cases] == ["more_y", "x"]
    assert list(pair_masks(tmp_path / "root" / "masks", tmp_path / "root" / "images").both) == ["x", "y"]
    assert len(find_pictures([f"{tmp_path}/root/images/**/*"])) == 2


def test_links_that_lead_round_end(tmp_path):
    save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    assert files_below(tmp_path) == [tmp_path / "a" / "x.png"]


def test_predict_follows_no_link_that_leads_round(tmp_path):
    save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    assert [picture.name for picture in find_pictures([f"{tmp_path}/**/*"])] == ["a/x"]


def test_folders_of_masks_in_any_case(tmp_path):
    save(tmp_path / "Images" / "x.png")
    save(tmp_path / "Masks_Anna" / "x.png")
    save(tmp_path / "masks_bo" / "x.png")
    layout = FileNames("images/(?P<id>.+)", {"lesion": ["masks*/{id}"]})
    [case] = layout.search(tmp_path).cases
    assert [files[0].parent.name for files in case.masks] == ["Masks_Anna", "masks_bo"]


def test_two_masks_of_one_picture_are_refused(tmp_path):
    for path in ("images/x.png", "masks/x.png", "masks/x_mask.png"):
        save(tmp_path / path)
    with pytest.raises(DataError, match="has several masks"):
        layout().search(tmp_path)


def test_names_that_no_table_can_hold_are_refused(tmp_path):
    for part in ("images", "masks"):
        save(tmp_path / part / "x.png")
        os.rename(os.fsencode(tmp_path / part / "x.png"), os.fsencode(tmp_path / part) + b"/x\xff.png")
    for search in (
        lambda: layout().search(tmp_path),
        lambda: pair_masks(tmp_path / "masks", tmp_path / "images"),
    ):
        with pytest.raises(DataError, match=r"x\\udcff\.png: its name is not UTF-8"):
            search()


@pytest.mark.parametrize("name", ["masks/x.png", "masks/more", "images/y.jpg"])
def test_links_that_lead_nowhere_are_named(name, tmp_path):
    for part in ("images", "masks"):
        save(tmp_path / part / "y.png")
    (tmp_path / name).symlink_to(tmp_path / "gone")
    (tmp_path / "images" / "notes.txt").symlink_to(tmp_path / "gone")  # nobody expects this one to be read
    with pytest.raises(DataError, match=f"{tmp_path / name}: it is missing: it was moved, or is a broken link"):
        layout().search(tmp_path)
    with pytest.raises(DataError, match="a broken link"):
        pair_masks(tmp_path / name.split("/")[0], tmp_path / "images")


def test_windows_are_found_by_names_stored_otherwise(tmp_path):
    write_windows(tmp_path / "w.csv", {NFD: CropWindow(0, 0, 4, 4), "005": CropWindow(1, 1, 2, 2)})
    assert read_windows(tmp_path / "w.csv", {NFC: (8, 8), "005": (8, 8)})[NFC].size == (4, 4)


def test_what_is_compared():
    assert comparable(NFD.upper()) == comparable(NFC) != comparable("Prufung")
    assert comparable(Path("a/B").as_posix()) == "a/b"
