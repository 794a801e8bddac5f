"""Several processes that fill one folder: the result is that of one."""

import csv
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
import yaml
from helpers.dark_disc import bright_segmenter, dark_segmenter, picture
from helpers.mri_files import write_brats

from diffmedseg.atomic import lock_folder, write_first
from diffmedseg.cli import main
from diffmedseg.cli.devices import name_devices
from diffmedseg.errors import DataError
from diffmedseg.prediction import (
    Naming,
    Outputs,
    Part,
    Settings,
    find_cases,
    find_pictures,
    predict_pictures,
    predict_volumes,
)
from diffmedseg.prediction.parts import PARTS
from diffmedseg.prediction.removing import close_parts, remove_predictions

QUICK = Settings(num_samples=2, num_steps=1)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(7):
        picture(40 + 4 * number, 40).save(tmp_path / "in" / f"p{number}.png")
    return tmp_path / "in"


def predict(photos, out, part=None, settings=QUICK, **options):
    return predict_pictures(
        dark_segmenter(), find_pictures([photos]), out, settings, batch_size=2, part=part, **options
    )


def content(out):
    """All files but the tables of parts, without what differs from call to call: seconds, and the key of parts."""
    found = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".png"}
    rows = list(csv.DictReader((out / "predictions.csv").open(newline="")))
    found["rows"] = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    said = yaml.safe_load((out / "predictions.yaml").read_text())
    return found | {"said": {name: value for name, value in said.items() if name != "parts"}}


def names(out):
    return [row["image"] for row in csv.DictReader((out / "predictions.csv").open(newline=""))]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_make_the_folder_of_one_process(order, photos, tmp_path):
    predict(photos, tmp_path / "one")
    done = []
    for number in order:
        report = predict(photos, tmp_path / "parts", Part(number, 3))
        done += report.done
        assert sorted(names(tmp_path / "parts")) == sorted(done)
    assert sorted(done) == [f"p{number}" for number in range(7)]
    assert content(tmp_path / "parts") == content(tmp_path / "one")
    close_parts(tmp_path / "parts")
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
    assert (tmp_path / "parts" / "predictions.yaml").read_text() == (tmp_path / "one" / "predictions.yaml").read_text()


def run_part(photos, out, number, of):
    torch.set_num_threads(1)
    return predict(photos, out, Part(number, of)).done


def test_parts_at_the_same_time(photos, tmp_path):
    predict(photos, tmp_path / "one")
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        runs = [pool.submit(run_part, photos, tmp_path / "parts", number, 4) for number in range(1, 5)]
        done = [name for run in runs for name in run.result()]
    assert len(done) == 7
    assert content(tmp_path / "parts") == content(tmp_path / "one")


def test_parts_of_volumes(tmp_path):
    write_brats(tmp_path / "in", [f"BraTS2021_0000{number}" for number in range(3)], ("flair", "t1ce"), seg=None)
    cases = find_cases([tmp_path / "in"], Naming(("flair", "t1ce"), {}))
    model = bright_segmenter(["flair", "t1ce"])
    predict_volumes(model, cases, tmp_path / "one", QUICK)
    for number in (2, 1):
        predict_volumes(model, cases, tmp_path / "parts", QUICK, part=Part(number, 2))
    assert names(tmp_path / "parts") == names(tmp_path / "one")
    for path in (tmp_path / "one").glob("*.nii.gz"):
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()


def test_a_part_that_was_cut_off_goes_on(photos, tmp_path):
    out = tmp_path / "out"
    predict(photos, out, Part(1, 2))
    predict(photos, out, Part(2, 2))
    whole = content(out)
    with pytest.raises(DataError, match="holds predictions already: go on with them by --resume"):
        predict(photos, out, Part(1, 2))
    (out / "p0_mask.png").unlink()
    (out / "p2_mask.png").write_bytes(b"cut off")
    report = predict(photos, out, Part(1, 2), resume=True)
    assert (report.done, len(report.kept)) == (["p0"], 3)
    assert predict(photos, out, Part(2, 2), resume=True).done == ["p2"]
    assert content(out) == whole


def test_one_process_goes_on_with_what_parts_began(photos, tmp_path):
    predict(photos, tmp_path / "one")
    out = tmp_path / "out"
    predict(photos, out, Part(2, 3))
    (out / "predictions.csv").unlink()  # as if the part was killed before it wrote the table of all
    report = predict(photos, out, resume=True)
    assert (len(report.done), len(report.kept)) == (5, 2)
    assert not (out / PARTS).exists()
    assert content(out) == content(tmp_path / "one")
    assert "parts" not in yaml.safe_load((out / "predictions.yaml").read_text())
    report = predict(photos, out, Part(1, 2), resume=True)  # and the other way round
    assert (report.done, len(report.kept)) == ([], 4)
    assert content(out) == content(tmp_path / "one")


def test_nothing_old_stands_for_an_image_that_a_part_does_anew(photos, tmp_path):
    out = tmp_path / "out"
    predict(photos, out)
    picture(90, 40).save(photos / "p3.png")
    (photos / "p0.png").write_bytes(b"no picture")
    report = predict(photos, out, Part(1, 2), resume=True)  # of p0, p1, p4 and p5
    assert [path.name for path in report.failed] == ["p0.png"]
    assert "p0" not in names(out)
    report = predict(photos, out, Part(2, 2), resume=True)
    assert report.done == ["p3"]
    rows = {row["image"]: row for row in csv.DictReader((out / "predictions.csv").open(newline=""))}
    assert rows["p3"]["width"] == "90"
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": Part(2, 3)}, r"of 2 then and 3 now"),
        ({"settings": Settings(num_samples=3, num_steps=1)}, "num_samples 2 then and 3 now"),
        ({"outputs": Outputs(maps=("mask",))}, r"maps .* then and \['mask'\] now"),
        ({"overwrite": True}, "A part cannot replace earlier results"),
    ],
)
def test_parts_agree(change, message, photos, tmp_path):
    predict(photos, tmp_path / "out", Part(1, 2))
    with pytest.raises(DataError, match=message):
        predict(photos, tmp_path / "out", **({"part": Part(2, 2)} | change))


def test_inputs_that_changed_between_the_parts_are_noticed(photos, tmp_path):
    """Else the parts would be divided in two ways, and an image could belong to none."""
    predict(photos, tmp_path / "out", Part(1, 2))
    picture(40, 40).save(photos / "more.png")
    with pytest.raises(DataError, match="inputs 7 then and 8 now"):
        predict(photos, tmp_path / "out", Part(2, 2))


def test_who_may_write_at_the_same_time(photos, tmp_path):
    out = tmp_path / "out"
    predict(photos, out, Part(1, 2))
    with lock_folder(out), pytest.raises(DataError, match="Another process writes to"):
        predict(photos, out, Part(2, 2))
    with lock_folder(out, shared=True):
        predict(photos, out, Part(2, 2))
        with pytest.raises(DataError, match="Another process writes to"):
            predict(photos, out, resume=True)
        with pytest.raises(DataError, match="Another process writes to"):
            close_parts(out)
        with pytest.raises(DataError, match="Another process writes to"):
            remove_predictions(out)
    with lock_folder(out / PARTS / "2-of-2"), pytest.raises(DataError, match="Another process segments part 2 of 2"):
        predict(photos, out, Part(2, 2), resume=True)


def test_parts_do_not_write_among_foreign_files(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(DataError, match="holds files that are not predictions"):
        predict(photos, tmp_path / "out", Part(1, 2))
    with pytest.raises(DataError, match="holds files that are not predictions"):
        remove_predictions(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_overwrite_replaces_parts(photos, tmp_path):
    out = tmp_path / "out"
    predict(photos, out, Part(1, 2))
    shutil.rmtree(photos)
    photos.mkdir()
    picture(40, 40).save(photos / "new.png")
    predict(photos, out, overwrite=True)
    assert names(out) == ["new"]
    assert not list(out.glob("p*.png"))
    assert not (out / PARTS).exists()


def test_one_process_writes_first(tmp_path):
    assert write_first(tmp_path / "a", lambda path: path.write_text("one"))
    assert not write_first(tmp_path / "a", lambda path: path.write_text("two"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "one")]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/2", "-1/2", "1/0"])
def test_parts_that_there_are_not(text, tmp_path, capsys):
    with pytest.raises(SystemExit) as found:
        main(["predict", "x", "in", "--out", str(tmp_path / "out"), "--part", text])
    assert found.value.code == 2
    assert "part" in capsys.readouterr().err


def test_devices_that_there_are_not(monkeypatch):
    assert name_devices("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(
        "diffmedseg.cli.devices.on_device", lambda name: torch.device(name if name != "auto" else "cuda")
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert name_devices("auto", 2) == ["cuda:0", "cuda:1"]
    with pytest.raises(DataError, match="--devices is 4; this machine has 2 CUDA GPUs"):
        name_devices("cuda", 4)
    for one in ("cuda:1", "mps"):
        with pytest.raises(DataError, match="is one device"):
            name_devices(one, 2)


def test_several_devices_by_the_command(photos, tmp_path, capfd):
    """Two processes replace what another model left, and go on where a picture fails."""
    (photos / "p9.png").write_bytes(b"no picture")
    predict(photos, tmp_path / "two")
    entry = ["medsegdiff_synthetic.tiny", str(photos), "--num_samples=2", "--num_steps=1", "--batch_size=2"]
    for out, more in (("one", []), ("two", ["--devices=2", "--overwrite"])):
        with pytest.raises(SystemExit) as found:
            main(["predict", *entry, "--out", str(tmp_path / out), "--device=cpu", *more])
        assert found.value.code == 1
        assert f"failed: {photos / 'p9.png'}: " in capfd.readouterr().err
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
