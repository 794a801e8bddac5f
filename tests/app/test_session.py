"""What one user holds: files, results, and nothing of anybody else."""

import io
import os
import re
import zipfile
from threading import Thread

import numpy as np
import pytest
from helpers.dark_disc import bright_segmenter, dark_segmenter, picture
from helpers.mri_files import modality, write_brats2015, write_dicom
from hypothesis import given, strategies as st
from PIL import Image

from diffmedseg.app import uploads
from diffmedseg.app.running import run
from diffmedseg.app.session import Session, SessionWatcher
from diffmedseg.errors import DataError, ZooError
from diffmedseg.prediction import Stopped, find_pictures, predict_pictures
from diffmedseg.reading.names import clean_name


class Shelf:
    """Models that are there already."""

    def __init__(self, **models):
        self.models = models

    def get(self, name):
        if name not in self.models:
            raise ZooError(f"There is no model {name!r}.")
        return self.models[name]


@pytest.fixture
def session(tmp_path):
    one = Session(tmp_path / "root")
    yield one
    one.close()


def upload(session, name, content):
    """What the browser does: a file in a folder of its own below the root."""
    path = session.folder.parent / os.urandom(8).hex() / name
    path.parent.mkdir()
    if isinstance(content, Image.Image):
        content.save(path)
    else:
        path.write_bytes(content)
    return path


def finish(session, shelf, *names):
    *_, last = run(session, shelf, names)
    assert last.finished
    return last


@given(st.text())
def test_a_cleaned_name_is_one_plain_file(name):
    cleaned = clean_name(name)
    assert cleaned == os.path.basename(cleaned)
    assert cleaned not in {"", ".", ".."}
    assert not cleaned.startswith(".")
    assert len(cleaned.encode()) <= 150
    assert clean_name(cleaned) == cleaned


def test_results_are_those_of_predict_and_all_of_it_goes_with_the_session(session, tmp_path):
    model = dark_segmenter()
    taken = upload(session, "a b.png", picture())
    session.take([taken])
    assert not taken.exists()
    last = finish(session, Shelf(dark=model), "dark")
    assert (last.text, last.failed, last.share) == ("Segmented 1 image.", False, 1)
    picture().save(tmp_path / "a_b.png")
    predict_pictures(model, find_pictures([tmp_path / "a_b.png"]), tmp_path / "out")
    ours, theirs = session.outputs("dark"), tmp_path / "out"
    names = {path.name for path in theirs.iterdir()}
    assert {path.name for path in ours.iterdir()} == names
    for name in names - {"predictions.csv"}:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    shown = session.scenes["dark"]["a_b"]
    assert np.array_equal(shown.mask[0, 0], np.asarray(Image.open(ours / "a_b_mask.png")) > 127)
    archive = zipfile.ZipFile(session.zip_outputs())
    assert {name.removeprefix("dark/") for name in archive.namelist()} == names
    session.close()
    assert not session.folder.exists()
    assert session.scenes == {}


def test_a_volume_of_two_files_is_segmented_and_says_its_millilitres(session, tmp_path):
    write_brats2015(tmp_path, ["case"])
    files = [upload(session, path.name, path.read_bytes()) for path in sorted((tmp_path / "case").iterdir())]
    session.take([path for path in files if "OT" not in path.name])
    last = finish(session, Shelf(bright=bright_segmenter(("flair", "t1ce"))), "bright")
    assert not last.failed, last.text
    [scene] = session.scenes["bright"].values()
    assert scene.is_volume
    assert scene.shape == (6, 20, 16)
    assert scene.size_at(0, scene.threshold) == pytest.approx(scene.mask[0].sum() * 3 / 1000, abs=1e-4)
    assert list(scene.images) == ["flair", "t1ce"]


def test_a_dicom_series_is_one_volume(session, tmp_path):
    write_dicom(tmp_path / "series", modality(1))
    files = [upload(session, path.name, path.read_bytes()) for path in sorted((tmp_path / "series").iterdir())]
    session.take(files)
    last = finish(session, Shelf(bright=bright_segmenter(("flair",))), "bright")
    assert not last.failed, last.text
    [scene] = session.scenes["bright"].values()
    assert scene.shape == (6, 20, 16)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"no picture", "a.png: it cannot be decoded"),
        ("a.nii.gz", b"no volume", "a.nii.gz: it is a volume, where a picture is expected"),
        ("empty.jpg", b"", "empty.jpg: "),
    ],
)
def test_a_broken_upload_is_one_sentence_without_a_path(name, content, message, session):
    session.take([upload(session, name, content)])
    last = finish(session, Shelf(dark=dark_segmenter()), "dark")
    assert last.failed
    assert message in last.text
    assert str(session.folder) not in last.text
    assert "Traceback" not in last.text
    assert last.text.endswith(".")


def test_a_model_that_is_not_offered_is_one_sentence(session):
    session.take([upload(session, "a.png", picture())])
    assert finish(session, Shelf(), "/etc/passwd").text == "There is no model '/etc/passwd'."


def test_nothing_outside_the_uploads_can_be_taken(session, tmp_path):
    secret = tmp_path / "secret.png"
    picture().save(secret)
    link = session.folder.parent / "link.png"
    link.symlink_to(secret)
    inside = upload(session, "a.png", picture())
    for path in (secret, link, session.folder.parent / ".." / "secret.png", "/etc/passwd"):
        with pytest.raises(DataError, match="not uploaded here"):
            session.take([path])
        with pytest.raises(DataError, match="not uploaded here"):
            session.take([inside, path])
    assert secret.exists()
    with pytest.raises(DataError, match="There is no file"):
        session.take([])


def test_files_of_one_name_are_all_kept_and_a_new_upload_replaces_them(session):
    session.take([upload(session, "a.png", picture()), upload(session, "a.png", picture(60, 60))])
    assert sorted(path.name for path in session.inputs.iterdir()) == ["2_a.png", "a.png"]
    finish(session, Shelf(dark=dark_segmenter()), "dark")
    assert set(session.image_names()) == {"a", "2_a"}
    session.take([upload(session, "b.png", picture())])
    assert session.image_names() == []
    assert [path.name for path in session.inputs.iterdir()] == ["b.png"]
    assert session.zip_outputs() is None


def test_two_sessions_share_nothing(session, tmp_path):
    other = Session(tmp_path / "root")
    session.take([upload(session, "a.png", picture())])
    other.take([upload(other, "b.png", picture(60, 60))])
    shelf = Shelf(dark=dark_segmenter())
    first, second = run(session, shelf, ["dark"]), run(other, shelf, ["dark"])
    for _ in zip(first, second, strict=False):  # in turns
        pass
    for rest in (first, second):
        list(rest)
    assert (session.image_names(), other.image_names()) == (["a"], ["b"])
    other.close()
    assert session.inputs.exists()


def test_stopping_keeps_nothing_and_the_next_run_is_whole(session):
    session.take([upload(session, f"{n}.png", picture()) for n in range(4)])
    model = dark_segmenter()

    class Stops(SessionWatcher):
        def report(self, share):
            if share > 0.2:
                self.session.stop.set()
            super().report(share)

    with pytest.raises(Stopped):
        session.predict("dark", model, Stops(session, model))
    assert session.scenes == {}
    stopped = finish(session, Shelf(dark=model), "dark")  # the stop came while the next run waited for its turn
    assert (stopped.text, stopped.failed) == ("Stopped before it began.", True)
    assert finish(session, Shelf(dark=model), "dark").text == "Segmented 4 images."
    steps = run(session, Shelf(dark=model), ["dark"])
    next(steps)
    steps.close()  # the tab was closed
    assert session.stop.is_set()


def test_two_models_are_run_one_after_the_other(session):
    session.take([upload(session, "a.png", picture())])
    shelf = Shelf(dark=dark_segmenter(), darker=dark_segmenter(threshold=0.9))
    shares = [progress.share for progress in run(session, shelf, ["dark", "darker"])]
    assert shares == sorted(shares)
    assert list(session.scenes) == ["dark", "darker"]
    assert {scenes["a"].threshold for scenes in session.scenes.values()} == {0.5, 0.9}


def test_a_run_drops_the_results_of_the_run_before(session):
    session.take([upload(session, "a.png", picture())])
    shelf = Shelf(dark=dark_segmenter(), two=dark_segmenter(regions=("lesion", "core")))
    finish(session, shelf, "dark")
    first = session.scenes["dark"]["a"]
    session.edited("a", first)[:] = True
    finish(session, shelf, "two")
    assert list(session.scenes) == ["two"]
    assert session.edited("a", session.scenes["two"]["a"]).shape[0] == 2
    assert {name.split("/")[0] for name in zipfile.ZipFile(session.zip_outputs()).namelist()} == {"two"}


def test_a_page_that_names_its_files_again_keeps_them(session):
    """A list of files grows and shrinks: the page names all of them each time, wherever they lie by now."""
    one, two, three = (upload(session, f"{name}.png", picture()) for name in ("a", "b", "volume"))
    packed = upload(session, "c.zip", zipped([three], three.parent))
    for files, names in (
        ([one], {"a.png"}),
        ([one, two], {"a.png", "b.png"}),
        ([one, two, packed], {"a.png", "b.png", "volume.png"}),
        ([two, packed], {"b.png", "volume.png"}),
    ):
        session.take(files)
        assert {path.name for path in session.inputs.iterdir()} == names
    assert finish(session, Shelf(dark=dark_segmenter()), "dark").text == "Segmented 2 images."
    with pytest.raises(DataError, match="not uploaded here, or some time ago"):
        session.take([one])  # it was taken out of the list


@pytest.mark.parametrize("common", ["unpacked", "uploads", "out"])
def test_files_may_be_called_like_our_folders(common, session):
    files = [upload(session, f"{common}{number}.png", picture()) for number in range(2)]
    session.take([*files, upload(session, f"{common}.zip", zipped([files[0]], files[0].parent))])
    assert finish(session, Shelf(dark=dark_segmenter()), "dark").text == "Segmented 3 images."


def test_files_that_are_left_out_are_named(session, tmp_path):
    files = [upload(session, name, b"text") for name in ("notes.txt", "blob")]
    session.take([upload(session, "a.png", picture()), *files])
    last = finish(session, Shelf(dark=dark_segmenter()), "dark")
    assert last.text == "Segmented 1 image. Left out: blob, notes.txt."
    write_brats2015(tmp_path, ["case"])
    session.take([upload(session, path.name, path.read_bytes()) for path in sorted((tmp_path / "case").iterdir())])
    last = finish(session, Shelf(bright=bright_segmenter(("flair", "t1ce"))), "bright")
    assert last.text == "Segmented 1 image. Left out: OTMultiClass.nii.gz."


def test_a_session_that_is_closed_while_it_runs_leaves_nothing(session):
    session.take([upload(session, f"{n}.png", picture()) for n in range(3)])
    model = dark_segmenter()

    class Closes(SessionWatcher):
        def keep_picture(self, result):
            self.session.close()

    with pytest.raises(Stopped):
        session.predict("dark", model, Closes(session, model))
    assert not session.folder.exists()
    assert session.scenes == {}


def test_a_new_upload_ends_what_runs_and_nothing_of_it_stays(session):
    session.take([upload(session, f"{n}.png", picture()) for n in range(3)])
    model, new = dark_segmenter(), upload(session, "new.png", picture())
    taking = Thread(target=session.take, args=([new],))

    class Interrupted(SessionWatcher):
        def keep_picture(self, result):
            taking.start()
            assert self.session.stop.wait(60)

    with pytest.raises(Stopped):
        session.predict("dark", model, Interrupted(session, model))
    taking.join(60)
    assert [path.name for path in session.inputs.iterdir()] == ["new.png"]
    assert session.zip_outputs() is None
    assert finish(session, Shelf(dark=model), "dark").text == "Segmented 1 image."
    assert session.image_names() == ["new"]


def write_study(folder):
    """Two series in subfolders, whose files are called alike, and a file that is none."""
    for number, name in enumerate(("FLAIR", "ax T1"), 1):
        write_dicom(folder / f"S{number}", modality(number), uid=f"1.2.{number}", SeriesDescription=name)
    (folder / "S1" / "notes.txt").write_text("seen")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def zipped(files, root):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(root))
    return written.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_series_in_subfolders_are_volumes_of_their_own(packed, session, tmp_path):
    """Browsers upload the files of a folder without their subfolders."""
    files = write_study(tmp_path / "study")
    if packed:
        session.take([upload(session, "study.ZIP", zipped(files, tmp_path))])
    else:
        session.take([upload(session, path.name, path.read_bytes()) for path in files])
    last = finish(session, Shelf(bright=bright_segmenter(("flair",))), "bright")
    assert not last.failed, last.text
    assert sorted(session.image_names()) == ["FLAIR", "ax_T1"]
    for scene in session.scenes["bright"].values():
        assert scene.shape == (6, 20, 16)


def test_series_are_the_modalities_of_a_model_of_several(session, tmp_path):
    files = [file for file in write_study(tmp_path / "study") if file.suffix == ".dcm"]
    session.take([upload(session, "study.zip", zipped(files, tmp_path))])
    last = finish(session, Shelf(bright=bright_segmenter(("flair", "t1"))), "bright")
    assert not last.failed, last.text
    [scene] = session.scenes["bright"].values()
    assert list(scene.images) == ["flair", "t1"]


def test_one_series_in_a_zip_is_the_one_volume(session, tmp_path):
    write_dicom(tmp_path / "study" / "deep" / "series", modality(1))
    files = list((tmp_path / "study").rglob("*.dcm"))
    session.take([upload(session, "study.zip", zipped(files, tmp_path))])
    last = finish(session, Shelf(bright=bright_segmenter(("flair",))), "bright")
    assert not last.failed, last.text
    assert len(session.image_names()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no archive", "study.zip cannot be unpacked"), (zipped([], None), r"^study\.zip holds no file")],
)
def test_a_zip_that_holds_nothing_is_refused(content, message, session):
    with pytest.raises(DataError, match=message):
        session.take([upload(session, "study.zip", content)])
    said = finish(session, Shelf(dark=dark_segmenter()), "dark").text
    assert re.match(message, said)  # the page still lists the file: to say that there is none would mislead
    session.take([upload(session, "a.png", picture())])
    assert finish(session, Shelf(dark=dark_segmenter()), "dark").text == "Segmented 1 image."


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_one_sentence_whatever_packed_it(method, session):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        archive.writestr("a.png", np.random.default_rng(0).bytes(2000))
    content = bytearray(written.getvalue())
    content[60:100] = b"\xff" * 40
    with pytest.raises(DataError, match=r"^study\.zip cannot be unpacked \(.*\): pack it again"):
        session.take([upload(session, "study.zip", bytes(content))])
    assert not any(session.inputs.parent.iterdir())


def test_a_zip_writes_nothing_outside_the_session(session):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        image = io.BytesIO()
        picture().save(image, "PNG")
        archive.writestr("../../../a.png", image.getvalue())
        archive.writestr("__MACOSX/._a.png", b"")
    session.take([upload(session, "x.zip", written.getvalue())])
    assert [path.name for path in session.inputs.iterdir()] == ["a.png"]
    assert len(list(session.folder.parents[1].rglob("a.png"))) == 1


def test_a_zip_of_more_than_fits_is_refused_before_it_is_unpacked(session, monkeypatch):
    monkeypatch.setattr(uploads, "_MOST_BYTES", 100)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10_000))
    with pytest.raises(DataError, match=r"^x\.zip unpacks to 10,000 bytes; at most 100 are taken"):
        session.take([upload(session, "x.zip", written.getvalue())])
