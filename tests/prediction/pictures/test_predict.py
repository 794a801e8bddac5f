import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dark_disc import dark_segmenter, disc, picture
from helpers.isic_files import write
from PIL import Image, ImageOps

from diffmedseg.data.isic import ISIC2018DataModule
from diffmedseg.errors import DataError
from diffmedseg.postprocessing.calibration import TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.refinement import LargestComponent
from diffmedseg.prediction import Settings, find_pictures, predict_pictures
from diffmedseg.segmentation import resize_soft


def photos(folder, count=3):
    folder.mkdir()
    for number in range(count):
        picture(90 + 10 * number, 60).save(folder / f"p{number}.png")
    return find_pictures([folder])


def rows(out):
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def load(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "L"
        return np.asarray(image)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_maps_lie_over_the_picture(tmp_path):
    report = predict_pictures(dark_segmenter(), photos(tmp_path / "in"), tmp_path / "out")
    assert (report.done, report.kept, report.failed) == (["p0", "p1", "p2"], [], {})
    assert [row["image"] for row in rows(tmp_path / "out")] == report.done
    for number, row in enumerate(rows(tmp_path / "out")):
        width = 90 + 10 * number
        mask, probability, disagreement = (
            load(tmp_path / "out" / f"p{number}_{kind}.png") for kind in ("mask", "probability", "disagreement")
        )
        assert mask.shape == probability.shape == disagreement.shape == (60, width)
        assert set(np.unique(mask)) == {0, 255}
        assert overlap(mask > 0, disc(width)) > 0.9
        assert ((probability > 128) <= (mask > 0)).all()
        assert ((probability < 127) <= (mask == 0)).all()
        assert disagreement.max() > 200
        assert disagreement[0, 0] == 0
        assert (int(row["width"]), int(row["height"]), int(row["area"])) == (width, 60, (mask > 0).sum())
        assert float(row["area_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-6)
        p, m = probability / 255, mask / 255
        assert float(row["uncertainty"]) == pytest.approx(1 - 2 * (p * m).sum() / (p.sum() + m.sum()), abs=0.01)
        assert float(row["seconds"]) > 0
    assert not list((tmp_path / "out").glob("**/.tmp*"))


def test_a_calibrated_model_gives_contours_and_an_interval(tmp_path):
    files = photos(tmp_path / "in", 2)
    fitted = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, num_samples=3, num_steps=1)
    model = dark_segmenter(calibration=TemperatureScaling(), conformal=fitted)
    predict_pictures(model, files, tmp_path / "out")
    for row in rows(tmp_path / "out"):
        name = row["image"]
        inner, mask, outer = (load(tmp_path / "out" / f"{name}_{kind}.png") > 0 for kind in ("inner", "mask", "outer"))
        assert (inner <= mask).all()
        assert (mask <= outer).all()
        assert inner.sum() < mask.sum() < outer.sum()
        probability = load(tmp_path / "out" / f"{name}_probability.png") / 255
        assert np.array_equal(probability[abs(probability - 0.9) > 0.01] > 0.9, inner[abs(probability - 0.9) > 0.01])
        least, most, low, high = (
            float(row[key]) for key in ("samples_area_min", "samples_area_max", "area_low", "area_high")
        )
        assert 0 < least <= most
        assert (low, high) == (pytest.approx(least / 1.5, abs=0.1), pytest.approx(most * 1.5, abs=0.1))
    (tmp_path / "out" / "p0_inner.png").unlink()
    report = predict_pictures(model, files, tmp_path / "out", resume=True)
    assert (report.done, report.kept) == (["p0"], ["p1"])
    assert (tmp_path / "out" / "p0_inner.png").is_file()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file", "options"), [("a.jpg", {"quality": 95}), ("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"})]
)
def test_maps_keep_the_files_orientation(file, options, orientation, tmp_path):
    """Pillow turns TIFF upright by itself."""
    exif = Image.Exif()
    exif[0x112] = orientation
    picture().save(tmp_path / file, exif=exif, **options)
    predict_pictures(dark_segmenter(), find_pictures([tmp_path / file]), tmp_path / "out", panels=True)
    assert overlap(load(tmp_path / "out" / "a_mask.png") > 0, disc()) > 0.9
    with Image.open(tmp_path / "out" / "a_mask.png") as mask, Image.open(tmp_path / file) as original:
        assert mask.getexif().get(0x112, 1) == orientation
        assert ImageOps.exif_transpose(mask).size == ImageOps.exif_transpose(original).size
        upright = np.asarray(ImageOps.exif_transpose(mask)), np.asarray(ImageOps.exif_transpose(original).convert("L"))
    assert overlap(upright[0] > 0, upright[1] < 128) > 0.9


@pytest.mark.parametrize("refinement", [None, LargestComponent()])
def test_a_prediction_is_the_one_that_was_scored(refinement, tmp_path):
    write(tmp_path, ISIC2018DataModule, training=6, test=4)
    data, model = ISIC2018DataModule(tmp_path, image_size=32), dark_segmenter(refinement=refinement)
    data.setup("test")
    folder = tmp_path / ISIC2018DataModule.folders()["test"][0]
    predict_pictures(model, find_pictures([folder]), tmp_path / "out", batch_size=3)
    for batch in data.test_dataloader():
        tested = model.test_step(data.on_after_batch_transfer(batch, 0), 0)["segmentation"]
        for id_, probability, reference in zip(batch["id"], tested.probability, batch["reference"], strict=True):
            scored = resize_soft(probability[None], tuple(reference.shape[-2:]))[0, 0] > model.threshold
            assert np.array_equal(load(tmp_path / "out" / f"{id_}_mask.png") > 0, scored.numpy())


def test_a_prediction_does_not_depend_on_others(tmp_path):
    files = photos(tmp_path / "in")
    predict_pictures(dark_segmenter(), files, tmp_path / "all")
    predict_pictures(dark_segmenter(), files[2:], tmp_path / "one", batch_size=1)
    assert (load(tmp_path / "all" / "p2_probability.png") == load(tmp_path / "one" / "p2_probability.png")).all()


def test_settings_count(tmp_path):
    files = photos(tmp_path / "in", 1)
    results = []
    for name, settings in {"own": None, "same": Settings(seed=0, num_samples=3), "other": Settings(seed=1)}.items():
        predict_pictures(dark_segmenter(), files, tmp_path / name, settings)
        results.append(load(tmp_path / name / "p0_probability.png"))
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_a_bad_file_does_not_stop_the_others(tmp_path):
    files = photos(tmp_path / "in")
    files[1].path.write_bytes(files[1].path.read_bytes()[:80])
    report = predict_pictures(dark_segmenter(), files, tmp_path / "out", batch_size=2)
    assert report.done == ["p0", "p2"]
    assert list(report.failed) == [files[1].path]
    assert [row["image"] for row in rows(tmp_path / "out")] == ["p0", "p2"]
    assert not list((tmp_path / "out").glob("p1*"))


def test_only_bad_files(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    report = predict_pictures(dark_segmenter(), find_pictures([tmp_path / "a.png"]), tmp_path / "out")
    assert list(report.failed) == [tmp_path / "a.png"]
    assert rows(tmp_path / "out") == []


def test_a_full_disk_is_reported_and_leaves_no_half_file(tmp_path, monkeypatch):
    files, replace = photos(tmp_path / "in"), os.replace

    def full(source, target):
        if Path(target).name == "p1_probability.png":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    report = predict_pictures(dark_segmenter(), files, tmp_path / "out")
    assert report.done == ["p0", "p2"]
    assert "No space left" in report.failed[files[1].path]
    assert not (tmp_path / "out" / "p1_probability.png").exists()
    assert not list((tmp_path / "out").glob(".*"))
    monkeypatch.undo()
    assert predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True).done == ["p1"]


def test_results_are_not_overwritten_unasked(tmp_path):
    files = photos(tmp_path / "in")
    predict_pictures(dark_segmenter(), files[:1], tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(DataError, match="holds predictions already: go on with them by --resume"):
        predict_pictures(dark_segmenter(), files, tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def cut(out, name):
    path = out / name
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "harm",
    [
        lambda out, _: (out / "p1_mask.png").unlink(),
        lambda out, _: cut(out, "p1_disagreement.png"),
        lambda out, _: Image.new("L", (3, 3)).save(out / "p1_probability.png"),
        lambda _, photos: picture(100, 60, 20).save(photos / "p1.png"),
        lambda out, _: (out / "predictions.csv").write_text(
            "".join(line for line in (out / "predictions.csv").open() if "p1" not in line)
        ),
    ],
    ids=["missing", "cut", "other size", "other picture", "not in the table"],
)  # fmt: skip
def test_resume_keeps_what_is_whole(harm, tmp_path):
    files = photos(tmp_path / "in")
    predict_pictures(dark_segmenter(), files, tmp_path / "out")
    harm(tmp_path / "out", tmp_path / "in")
    kept = (tmp_path / "out" / "p0_mask.png").stat().st_mtime_ns
    report = predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True)
    assert (report.done, report.kept) == (["p1"], ["p0", "p2"])
    assert (tmp_path / "out" / "p0_mask.png").stat().st_mtime_ns == kept
    predict_pictures(dark_segmenter(), files, tmp_path / "again")
    for kind in ("mask", "probability"):
        again = load(tmp_path / "again" / f"p1_{kind}.png")
        assert (load(tmp_path / "out" / f"p1_{kind}.png") == again).all()
    assert [row["image"] for row in rows(tmp_path / "out")] == ["p0", "p1", "p2"]


def test_resume_adds_pictures_and_panels(tmp_path):
    files = photos(tmp_path / "in")
    predict_pictures(dark_segmenter(), files[:1], tmp_path / "out", resume=True)
    assert predict_pictures(dark_segmenter(), files[1:], tmp_path / "out", resume=True).done == ["p1", "p2"]
    assert {row["image"] for row in rows(tmp_path / "out")} == {"p0", "p1", "p2"}
    assert len(predict_pictures(dark_segmenter(), files, tmp_path / "out", panels=True, resume=True).done) == 3
    assert len(predict_pictures(dark_segmenter(), files, tmp_path / "out", panels=True, resume=True).kept) == 3
    with Image.open(tmp_path / "out" / "p0_panel.png") as panel:
        assert panel.width > 600


def test_resume_never_mixes_models_or_settings(tmp_path):
    files = photos(tmp_path / "in", 1)
    predict_pictures(dark_segmenter(), files, tmp_path / "out", Settings(value_range=(0, 9)))
    other = dark_segmenter()
    torch.nn.init.ones_(other.denoiser.level)
    for model, settings in ((other, Settings(value_range=(0, 9))), (dark_segmenter(), Settings(num_samples=4))):
        with pytest.raises(DataError, match="predicted with other settings"):
            predict_pictures(model, files, tmp_path / "out", settings, resume=True)
    assert predict_pictures(
        dark_segmenter(), files, tmp_path / "out", Settings(value_range=(0, 9)), resume=True
    ).kept == ["p0"]


@pytest.mark.parametrize("file", ["predictions.csv", "predictions.yaml"])
def test_a_damaged_folder_says_so(file, tmp_path):
    files = photos(tmp_path / "in", 1)
    predict_pictures(dark_segmenter(), files, tmp_path / "out")
    (tmp_path / "out" / file).write_text("image,region\np0,lesion\n")
    with pytest.raises(DataError, match=rf"{file} is .*damaged|other settings"):
        predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True)


def test_an_interruption_keeps_what_was_done(tmp_path):
    files, model = photos(tmp_path / "in"), dark_segmenter()
    draw, calls = model.draw_samples, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*arguments)

    model.draw_samples = interrupted
    with pytest.raises(KeyboardInterrupt):
        predict_pictures(model, files, tmp_path / "out", batch_size=1)
    assert [row["image"] for row in rows(tmp_path / "out")] == ["p0"]
    assert predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True).kept == ["p0"]


def test_several_regions_and_folders(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    picture().save(tmp_path / "in" / "sub" / "a.png")
    model = dark_segmenter(regions=("disc", "cup"))
    predict_pictures(model, find_pictures([tmp_path / "in" / "**" / "*.png"]), tmp_path / "out", panels=True)
    assert [(row["image"], row["region"]) for row in rows(tmp_path / "out")] == [("sub/a", "disc"), ("sub/a", "cup")]
    outer, inner = (load(tmp_path / "out" / "sub" / f"a_{region}_mask.png") for region in ("disc", "cup"))
    assert (inner <= outer).all()
    assert inner.any()
    assert (tmp_path / "out" / "sub" / "a_panel.png").is_file()


def test_a_grey_model(tmp_path):
    predict_pictures(dark_segmenter(channels=("grey",)), photos(tmp_path / "in", 1), tmp_path / "out")
    assert overlap(load(tmp_path / "out" / "p0_mask.png") > 0, disc()) > 0.9


def test_models_that_take_no_pictures(tmp_path):
    with pytest.raises(DataError, match="takes volumes of flair, t1, not pictures"):
        predict_pictures(dark_segmenter(channels=("flair", "t1")), photos(tmp_path / "in", 1), tmp_path / "out")


def test_never_among_the_pictures(tmp_path):
    files = photos(tmp_path / "in", 1)
    with pytest.raises(DataError, match=r"holds files that are not predictions \(p0.png\)"):
        predict_pictures(dark_segmenter(), files, tmp_path / "in", resume=True)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["p0.png"]


def test_foreign_files_are_never_overwritten(tmp_path):
    files = photos(tmp_path / "in", 1)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "p0_mask.png").write_text("drawn by hand")
    with pytest.raises(DataError, match="which might be overwritten"):
        predict_pictures(dark_segmenter(), files, tmp_path / "truth", resume=True)
    assert (tmp_path / "truth" / "p0_mask.png").read_text() == "drawn by hand"


def test_results_below_the_pictures_are_no_input(tmp_path):
    photos(tmp_path / "in", 2)
    for expected in (["p0", "p1"], []):
        files = find_pictures([tmp_path / "in" / "**" / "*.png"])
        assert predict_pictures(dark_segmenter(), files, tmp_path / "in" / "out", resume=True).done == expected


def test_nothing_old_stands_for_a_picture_that_fails_now(tmp_path):
    files = photos(tmp_path / "in", 2)
    predict_pictures(dark_segmenter(), files, tmp_path / "out", panels=True)
    files[0].path.write_text("damaged since")
    assert predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True).kept == ["p1"]
    assert not list((tmp_path / "out").glob("p0*"))
    assert [row["image"] for row in rows(tmp_path / "out")] == ["p1"]


def test_a_crash_leaves_no_row_for_maps_that_changed(tmp_path, monkeypatch):
    """The table on disk never says more than the maps beside it."""
    files = photos(tmp_path / "in", 1)
    predict_pictures(dark_segmenter(), files, tmp_path / "out")
    picture(90, 60, 20).save(files[0].path)

    class Crash(BaseException):
        pass

    def crash(*_):
        raise Crash

    model = dark_segmenter()
    model.draw_samples = crash
    with pytest.raises(Crash):
        predict_pictures(model, files, tmp_path / "out", resume=True)
    assert rows(tmp_path / "out") == []
    assert predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True).done == ["p0"]


def test_another_threshold_is_another_setting(tmp_path):
    files = photos(tmp_path / "in", 1)
    predict_pictures(dark_segmenter(), files, tmp_path / "out")
    with pytest.raises(DataError, match="predicted with other settings"):
        predict_pictures(dark_segmenter(threshold=0.3), files, tmp_path / "out", resume=True)


def test_a_picture_with_nan_fails_alone(tmp_path):
    """The second of three pictures of one batch gets NaN; the others are as they are without it."""
    files, model = photos(tmp_path / "in", 3), dark_segmenter()
    predict_pictures(model, [files[0], files[2]], tmp_path / "expected")
    draw = model.draw_samples

    def draw_with_nan(*arguments):
        sample_set = draw(*arguments)
        sample_set.samples[1] = float("nan")
        return sample_set

    model.draw_samples = draw_with_nan
    report = predict_pictures(model, files, tmp_path / "out")
    assert list(report.failed) == [files[1].path]
    assert "The model gives NaN" in report.failed[files[1].path]
    assert report.done == [files[0].name, files[2].name]
    for expected in sorted((tmp_path / "expected").glob("*.png")):
        assert (tmp_path / "out" / expected.name).read_bytes() == expected.read_bytes()
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "expected").glob("*.png"))) > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3000, 20)])
def test_extreme_shapes(size, tmp_path):
    picture(*size).save(tmp_path / "a.png")
    report = predict_pictures(dark_segmenter(), find_pictures([tmp_path / "a.png"]), tmp_path / "out", panels=True)
    assert report.done == ["a"]
    assert load(tmp_path / "out" / "a_mask.png").shape == size[::-1]
    with Image.open(tmp_path / "out" / "a_panel.png") as panel:
        assert max(panel.size) < 3000


def test_a_name_that_no_table_can_hold(tmp_path):
    files = photos(tmp_path / "in", 1)
    odd = os.fsencode(tmp_path / "in") + b"/Jos\xe9.png"
    try:
        os.link(files[0].path, odd)
    except OSError:
        pytest.skip("this disk takes no such name")
    report = predict_pictures(dark_segmenter(), find_pictures([tmp_path / "in"]), tmp_path / "out")
    assert report.done == ["p0"]
    [reason] = report.failed.values()
    assert "its name is not UTF-8" in reason


def test_any_failure_of_one_picture_spares_the_others(tmp_path, monkeypatch):
    files, model = photos(tmp_path / "in"), dark_segmenter()
    fuse = model.fuse

    def too_large(samples, size, *others):
        if size[1] == 100:
            raise RuntimeError("can't allocate memory")
        return fuse(samples, size, *others)

    model.fuse = too_large
    report = predict_pictures(model, files, tmp_path / "out")
    assert report.done == ["p0", "p2"]
    assert report.failed == {files[1].path: "RuntimeError: can't allocate memory"}


def test_a_call_that_came_to_nothing_can_be_repeated_with_other_settings(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    files = find_pictures([tmp_path / "a.png"])
    predict_pictures(dark_segmenter(), files, tmp_path / "out")
    assert predict_pictures(dark_segmenter(), files, tmp_path / "out", Settings(num_samples=4)).failed


def test_bf16_is_close(tmp_path):
    files = photos(tmp_path / "in", 1)
    predict_pictures(dark_segmenter(), files, tmp_path / "a")
    predict_pictures(dark_segmenter(), files, tmp_path / "b", Settings(bf16=True))
    a, b = (load(tmp_path / name / "p0_probability.png").astype(int) for name in "ab")
    assert abs(a - b).mean() < 3


@pytest.mark.parametrize("orientation", [1, 6])
def test_cup_to_disc_ratio_of_the_upright_picture(orientation, tmp_path):
    """A disc 60 rows tall and 80 columns wide, in it a cup 24 tall and 64 wide."""
    values = np.full((96, 96, 3), 230, np.uint8)
    values[18:78, 8:88], values[36:60, 16:80] = 90, 10
    upright, exif = Image.fromarray(values), Image.Exif()
    exif[0x112] = orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "a.png", exif=exif)
    model = dark_segmenter(regions=("disc", "cup"), image_size=(96, 96), num_samples=9)
    predict_pictures(model, find_pictures([tmp_path / "a.png"]), tmp_path / "out")
    disc, cup = csv.DictReader((tmp_path / "out" / "predictions.csv").open())
    assert disc["vertical_ratio"] == "nan"
    assert float(cup["vertical_ratio"]) == pytest.approx(24 / 60, abs=0.03)
    assert float(cup["vertical_ratio_low"]) <= float(cup["vertical_ratio"]) + 0.02
    assert float(cup["vertical_ratio_high"]) >= float(cup["vertical_ratio"]) - 0.02


def test_a_table_of_another_version_is_not_called_damaged(tmp_path):
    files = photos(tmp_path / "in", 1)
    predict_pictures(dark_segmenter(), files, tmp_path / "out")
    table = tmp_path / "out" / "predictions.csv"
    table.write_text(table.read_text().replace("samples_area_min", "smallest"))
    with pytest.raises(DataError, match=r"another version \(no column 'samples_area_min'\)"):
        predict_pictures(dark_segmenter(), files, tmp_path / "out", resume=True)
