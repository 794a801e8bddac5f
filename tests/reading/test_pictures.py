"""Every kind of picture, through every command that reads pictures: all take it alike, or all refuse it alike.

A new kind is a row of ``picture_kinds.KINDS``.
"""

import re
import warnings

import numpy as np
import pytest
import torch
from helpers.picture_files import save_mask, yaml_module
from helpers.picture_kinds import GREY, KINDS, UPRIGHT, Kind, exif, image_of, saved, turned
from PIL import Image

from diffmedseg.data.checking import check_data
from diffmedseg.data.isic import ISIC2018DataModule
from diffmedseg.errors import DataError
from diffmedseg.prediction.run import Report
from diffmedseg.reading.model_range import to_model_range
from diffmedseg.reading.opening import image_size
from diffmedseg.reading.pictures import read_picture, read_upright, shrink_image, turn_upright
from diffmedseg.reading.png import _size

GRID = (32, 48)


def mask(kind):
    """A mask as large as the upright picture."""
    return np.tri(*((60, 90) if kind.levels is None else kind.levels.shape[:2]), dtype=bool)


def folder(kind, root):
    """A folder of pictures of a kind, with upright masks."""
    (root / "images").mkdir()
    for name in "abc":
        kind.write(root / "images" / f"{name}.{kind.suffix}")
        save_mask(root / "masks" / f"{name}.png", mask(kind))
    return yaml_module("folder", root, folds=2, image_size=GRID, range=kind.value_range)


def train(kind, tmp_path):
    return folder(kind, tmp_path).load("train").image(0)


def train_on_isic(kind, tmp_path):
    images, masks = (tmp_path / name for name in ISIC2018DataModule.folders()["training"])
    images.mkdir()
    for number in range(3):
        kind.write(images / f"ISIC_000000{number}.{kind.suffix}")
        save_mask(masks / f"ISIC_000000{number}_segmentation.png", mask(kind))
    return ISIC2018DataModule(tmp_path, image_size=GRID).load("train").image(0)


def predict(kind, tmp_path):
    return read_picture(image_of(kind, tmp_path), 3, GRID, kind.value_range).image


def segment(kind, tmp_path):
    path = image_of(kind, tmp_path)
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore", UserWarning)  # notes, of which a test of their own
        values = ((to_model_range(image, 3, kind.value_range)[0] + 1) * 127.5).round().byte()
    return torch.from_numpy(shrink_image(Image.fromarray(values.permute(1, 2, 0).contiguous().numpy()), GRID))


COMMANDS = [train, train_on_isic, predict, segment]


def fits(command, kind):
    if command is train_on_isic:  # its files are found by their names, and links are followed
        return kind.suffix in ("jpg", "png") and kind.value_range is None and "link" not in kind.name
    # Pillow opens the file before segment() is called, and train looks for the endings that it reads.
    if command is segment:
        return kind.refusal != "cannot be decoded" and "link" not in kind.name
    return command is predict or kind.suffix not in ("tga", "pcx")


ROWS = [
    pytest.param(command, kind, id=f"{command.__name__}-{kind.name}")
    for command in COMMANDS
    for kind in KINDS
    if fits(command, kind)
]


@pytest.mark.parametrize(("command", "kind"), ROWS)
def test_is_read_rightly_or_refused(command, kind, tmp_path):
    if kind.levels is None:
        with pytest.raises((DataError, ValueError), match=kind.refusal) as caught:
            command(kind, tmp_path)
        assert command is segment or f".{kind.suffix}: it " in str(caught.value)
        return
    expected = shrink_image(Image.fromarray(np.ascontiguousarray(kind.levels)), GRID).astype(float)
    off = np.abs(command(kind, tmp_path).numpy() - expected)
    assert off.mean() < kind.off


@pytest.mark.parametrize("kind", [k for k in KINDS if fits(train, k)], ids=lambda kind: kind.name)
def test_data_check_says_what_is_refused_and_what_is_doubtful(kind, tmp_path):
    problems = [one for one in check_data(folder(kind, tmp_path)).problems if one.kind != "same image"]
    texts = {problem.kind: problem.text for problem in problems}
    if kind.levels is None:
        assert re.search(kind.refusal, texts["unreadable"])
    else:
        assert set(texts) & {"unreadable", "dark picture", "transparent picture", "turned picture"} == {*kind.notes}
    assert any(one.serious for one in problems) == (kind.levels is None or kind.notes == ("dark picture",))


@pytest.mark.parametrize("kind", [k for k in KINDS if k.levels is not None], ids=lambda kind: kind.name)
def test_prediction_says_what_is_doubtful_and_knows_the_size(kind, tmp_path):
    path = image_of(kind, tmp_path)
    found = read_picture(path, 3, GRID, kind.value_range)
    assert {note.kind for note in found.notes} == {*kind.notes} - {"turned picture"}
    assert image_size(path) == found.upright_size == kind.levels.shape[:2]
    shown = read_upright(path, 45, kind.value_range)
    expected = Image.fromarray(np.ascontiguousarray(kind.levels)).convert("RGB")
    expected.thumbnail((45, 45))
    assert np.abs(np.asarray(shown).astype(float) - np.asarray(expected)).mean() < kind.off + 3


@pytest.mark.parametrize("kind", [k for k in KINDS if k.refusal], ids=lambda kind: kind.name)
def test_a_report_names_a_refused_file_once(kind, tmp_path):
    path, report = image_of(kind, tmp_path), Report()
    with report.attempt(path):
        read_picture(path, 3, GRID, kind.value_range)
    assert re.search(kind.refusal, report.failed[path])
    assert str(path) not in report.failed[path]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_turning_is_what_viewers_do(orientation):
    levels = torch.from_numpy(GREY.copy())
    assert torch.equal(turn_upright(levels, orientation), torch.from_numpy(turned(GREY, orientation).copy()))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_that_lie_over_the_stored_picture_are_refused(orientation, tmp_path):
    kind = Kind("jpg", saved(exif=exif(orientation)), None, "orientation")
    data = folder(kind, tmp_path)
    with pytest.raises(
        DataError, match=rf"60 x 90 pixels after the turn by its EXIF orientation {orientation}; a\.png has 90 x 60"
    ):
        data.load("train")


def test_a_folder_that_is_almost_black_is_warned_of_each_time(tmp_path, caplog):
    kind = next(kind for kind in KINDS if kind.name == "png 12 bits in 16")
    data = folder(kind, tmp_path)
    for module in (data, yaml_module("folder", tmp_path, folds=2, image_size=GRID)):
        caplog.clear()
        module.prepare_data()
        module.setup("fit")
        [warning] = [one.getMessage() for one in caplog.records if "dark" in one.getMessage()]
        assert re.search(
            r"3 dark pictures; of a: it has 16 bits.*--range 0 4095.*range for a data set.*Items: a, b, c", warning
        )


def test_a_range_is_a_fact_of_the_data():
    assert yaml_module("folder", ".", range=[0, 4095]).info.value_range == (0, 4095)
    with pytest.raises(DataError, match="below the second"):
        yaml_module("folder", ".", range=[9, 9])


def test_grey_models_are_trained_on_the_luminance_that_they_predict_from(tmp_path):
    kind = next(kind for kind in KINDS if kind.name == "png colour")
    trained = folder(kind, tmp_path), yaml_module("folder", tmp_path, folds=2, image_size=GRID, grey=True)
    predicted = read_picture(tmp_path / "images" / "a.png", 1, GRID).image
    assert torch.equal(trained[1].load("train").image(0), predicted)
    assert not torch.equal(trained[0].load("train").image(0)[:1], predicted)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (5, 8), (9, 1), (16, 17)])
def test_rows_of_a_png_hold_every_pixel_once(interlaced, width, height):
    one, two = (_size(width, height, bits, interlaced) for bits in (8, 16))
    assert two - one == width * height
