"""Windows around what a first model finds, and a second model that looks into windows."""

import logging

import numpy as np
import pytest
from helpers.dark_disc import dark_segmenter, disc, picture
from helpers.picture_files import write_refuge, yaml_module
from PIL import Image

from diffmedseg.data.pictures.windows import read_windows, write_windows
from diffmedseg.errors import DataError
from diffmedseg.prediction import find_pictures, find_windows, predict_pictures
from diffmedseg.prediction.pictures.windows import window_around
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import resize_soft

WINDOW = CropWindow(4, 2, 50, 40)  # holds the disc of the picture


def load(path):
    with Image.open(path) as image:
        return np.asarray(image)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        picture().save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def test_a_window_is_a_square_around_the_largest_part():
    mask = np.zeros((20, 40), bool)
    mask[5:10, 10:14] = mask[0, 0] = mask[18, 30] = True
    assert window_around(mask, (200, 800), 2) == (160, 0, 160, 160)  # rows are scaled by 10, columns by 20
    assert window_around(mask, (200, 800), 1) == (200, 35, 80, 80)
    assert window_around(mask, (200, 800), 9) == (140, 0, 200, 200)  # no larger than the picture
    edge = np.zeros((20, 20), bool)
    edge[17:, :3] = True
    assert window_around(edge, (100, 100), 2) == (0, 70, 30, 30)  # moved into it
    assert window_around(edge & False, (90, 100), 2) == (0, 0, 100, 90)


def test_windows_are_found_and_written(photos, tmp_path, caplog):
    Image.new("RGB", (70, 50), "white").save(photos / "empty.png")
    turned = Image.Exif()
    turned[0x112] = 6
    picture().save(photos / "turned.jpg", exif=turned)
    (photos / "broken.png").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        windows, report = find_windows(dark_segmenter(), find_pictures([photos]), batch_size=2)
    assert report.done == ["a", "b", "empty"]
    assert {path.name for path in report.failed} == {"broken.png", "turned.jpg"}
    assert "The mask is empty in 1 pictures: empty. Their windows are the whole pictures." in caplog.text
    assert windows["empty"] == (0, 0, 70, 50)
    y, x = np.nonzero(disc())
    left, top, width, height = windows["a"]
    assert width == height == pytest.approx(2 * (np.ptp(y) + 1), abs=4)
    assert left <= x.min()
    assert x.max() < left + width
    assert top <= y.min()
    assert y.max() < top + height
    write_windows(tmp_path / "windows.csv", windows)
    assert read_windows(tmp_path / "windows.csv") == windows


def test_windows_need_a_model_of_whole_pictures(photos):
    files = find_pictures([photos])
    for model in (dark_segmenter(cropped=True), dark_segmenter(("flair",))):
        with pytest.raises(DataError, match="Find windows by a model of whole pictures"):
            find_windows(model, files)
    with pytest.raises(ValueError, match=r"margin is 0\.5; it has to be at least 1"):
        find_windows(dark_segmenter(), files, 0.5)


def test_maps_of_a_window_lie_over_the_picture(photos, tmp_path):
    model, files, windows = dark_segmenter(cropped=True), find_pictures([photos]), dict.fromkeys("ab", WINDOW)
    report = predict_pictures(model, files, tmp_path / "out", panels=True, windows=windows)
    assert (report.done, report.failed) == (["a", "b"], {})
    outside = np.ones((60, 90), bool)
    outside[2:42, 4:54] = False
    for kind in ("mask", "probability", "disagreement"):
        assert not load(tmp_path / "out" / f"a_{kind}.png")[outside].any()
    mask = load(tmp_path / "out" / "a_mask.png") > 0
    assert overlap(mask, disc()) > 0.95
    whole = predict_pictures(dark_segmenter(), files, tmp_path / "whole")
    assert whole.done == ["a", "b"]
    assert overlap(load(tmp_path / "whole" / "a_mask.png") > 0, disc()) < overlap(mask, disc())
    row = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    values = dict(zip(row[0].split(","), row[1].split(","), strict=True))
    assert (values["width"], values["height"], int(values["area"])) == ("90", "60", mask.sum())
    assert float(values["area_fraction"]) == pytest.approx(mask.mean(), abs=1e-6)
    assert float(values["samples_area_min"]) == pytest.approx(mask.sum(), rel=0.1)
    assert (tmp_path / "out" / "a_panel.png").is_file()


def test_pictures_without_a_fitting_window_fail_alone(photos, tmp_path):
    turned = Image.Exif()
    turned[0x112] = 6
    picture().save(photos / "turned.jpg", exif=turned)
    windows = {"a": WINDOW, "turned": CropWindow(0, 0, 9, 9), "c": CropWindow(41, 0, 50, 40)}
    picture().save(photos / "c.png")
    model, files = dark_segmenter(cropped=True), find_pictures([photos])
    report = predict_pictures(model, files, tmp_path / "out", windows=windows)
    assert report.done == ["a"]
    reasons = {path.name: reason for path, reason in report.failed.items()}
    assert reasons.keys() == {"b.png", "c.png", "turned.jpg"}
    assert "the file of windows does not have this picture" in reasons["b.png"]
    assert "its window ends at column 91, row 40; the picture is 90 x 60" in reasons["c.png"]
    assert "not upright by its EXIF orientation" in reasons["turned.jpg"]
    windows["b"] = CropWindow(0, 0, 20, 20)
    with pytest.raises(DataError, match="predicted with other settings"):
        predict_pictures(model, files, tmp_path / "out", resume=True, windows=windows)


def test_whole_pictures_and_windows_are_not_mixed(photos, tmp_path):
    files = find_pictures([photos])
    with pytest.raises(DataError, match=r"trained on windows of pictures.*--windows"):
        predict_pictures(dark_segmenter(cropped=True), files, tmp_path / "out")
    with pytest.raises(DataError, match="trained on whole pictures"):
        predict_pictures(dark_segmenter(), files, tmp_path / "out", windows={"a": WINDOW, "b": WINDOW})
    assert not (tmp_path / "out").exists()


def test_a_prediction_in_a_window_is_the_one_that_was_scored(tmp_path):
    write_refuge(tmp_path / "data")
    names = ("g0001", "n0001", "n0002", "V0001", "T0001", "T0002")
    windows = {name: CropWindow(2 + n, n, 20, 18) for n, name in enumerate(names)}
    write_windows(tmp_path / "windows.csv", windows)
    data = yaml_module("refuge", tmp_path / "data", windows=str(tmp_path / "windows.csv"), image_size=32)
    model = dark_segmenter(regions=("disc", "cup"), cropped=True)
    data.setup("test")
    predict_pictures(model, find_pictures([tmp_path / "data" / "Test400"]), tmp_path / "out", windows=windows)
    [batch] = data.test_dataloader()
    tested = model.test_step(data.on_after_batch_transfer(batch, 0), 0)["segmentation"]
    for i, case in enumerate(batch["case"]):
        scored = resize_soft(tested.probability[i : i + 1], windows[case].size)[0, 0] > model.threshold
        left, top, width, height = windows[case]
        predicted = load(tmp_path / "out" / f"{case}_disc_mask.png") > 0
        assert np.array_equal(predicted[top : top + height, left : left + width], scored)
        assert predicted.sum() == scored.sum() > 0
