"""What segmentations and data sets show, save and measure in a notebook."""

import base64
import csv
import io
import math
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.dark_disc import bright_segmenter, dark_segmenter, picture
from PIL import Image
from PIL.ExifTags import Base

from diffmedseg.data import SyntheticDataModule
from diffmedseg.errors import DataError
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.prediction import find_pictures, predict_pictures
from diffmedseg.segmentation import Segmentation

SPACING = (5.0, 0.8, 0.5)


def rows(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def volume(slices=6, size=32):
    """Slices of two channels; the lesion is bright."""
    image = torch.full((slices, 2, size, size), -0.9)
    image[1:4, :, 8:20, 8:24] = 0.9
    return image


def calibrated(model):
    regions = len(model.regions)
    model.conformal = Conformal(
        [0.9] * regions, [0.2] * regions, [1.5] * regions, 0.95, 0.9, 20, model.num_samples, model.num_steps
    )
    return model


def as_picture(figure):
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))


@pytest.mark.parametrize("contours", [False, True])
@pytest.mark.parametrize("regions", [("lesion",), ("lesion", "nucleus")])
def test_save_writes_what_predict_writes(regions, contours, tmp_path):
    model = dark_segmenter(regions=regions)
    if contours:
        calibrated(model)
    picture(32, 32).save(tmp_path / "a.png")  # as large as the grid: resizing differs by rounding
    assert predict_pictures(model, find_pictures([tmp_path / "a.png"]), tmp_path / "predicted").failed == {}
    with Image.open(tmp_path / "a.png") as opened:
        written = model.segment(opened, keys=["a"]).save(tmp_path / "saved", "a")
    names = {path.name for path in (tmp_path / "predicted").iterdir()}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == names
    assert {path.name for path in written} == names - {"predictions.yaml"}
    for name in names - {"predictions.csv"}:
        ours, theirs = ((tmp_path / place / name).read_bytes() for place in ("saved", "predicted"))
        assert ours == theirs, name
    ours, theirs = (rows(tmp_path / place) for place in ("saved", "predicted"))
    for row in (*ours, *theirs):
        assert float(row.pop("seconds")) > 0
        row.pop("digest")  # of the file
    assert ours == theirs


def test_save_keeps_the_orientation_of_the_file(tmp_path):
    model, exif = dark_segmenter(), Image.Exif()
    exif[Base.Orientation] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        result = model.segment(opened)
        drawn = as_picture(result.plot(opened))
    result.save(tmp_path / "out")
    with Image.open(tmp_path / "out" / "image_mask.png") as mask:
        assert mask.size == picture().size
        assert mask.getexif()[Base.Orientation] == 6
    assert drawn.std() > 10


def test_save_adds_images_and_loses_none(tmp_path):
    model = dark_segmenter()
    result = model.segment(torch.stack([torch.zeros(3, 32, 32) - 0.5, torch.ones(3, 32, 32)]))
    result.save(tmp_path)
    assert [row["image"] for row in rows(tmp_path)] == ["image1", "image2"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for names in ((), ("image2", "c")):
        with pytest.raises(DataError, match="holds results of image"):
            result.save(tmp_path, *names)
    for names in (("a",), ("a", "a"), ("../a", "b"), ("", "b"), ("a/b", "c")):
        with pytest.raises(ValueError, match=r"Give each image its own name|not the name of a file"):
            result.save(tmp_path, *names)
    other = model.segment(torch.zeros(3, 32, 32) - 0.5, num_samples=2)
    with pytest.raises(DataError, match="other settings"):
        other.save(tmp_path, "new")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    result.save(tmp_path, "c", "d")
    assert [row["image"] for row in rows(tmp_path)] == ["image1", "image2", "c", "d"]
    assert before.items() - {path: path.read_bytes() for path in tmp_path.iterdir()}.items() <= {
        (tmp_path / "predictions.csv", before[tmp_path / "predictions.csv"])
    }
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not predictions"):
        result.save(tmp_path / "foreign")


def test_save_refuses_volumes(tmp_path):
    result = bright_segmenter(("flair", "t1ce")).segment(volume())
    with pytest.raises(ValueError, match=r"takes volumes of flair, t1ce.*diffmedseg predict"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_volume_is_that_of_the_voxels():
    model = bright_segmenter(("flair", "t1ce"))
    result = model.segment(volume(), spacing=SPACING)
    [(region, estimate)] = result.volume_ml().items()
    voxel = math.prod(SPACING) / 1000
    assert region == "lesion"
    assert estimate.ml == pytest.approx(int(result.mask.sum()) * voxel)
    assert estimate.ml == pytest.approx(3 * 12 * 16 * voxel, rel=0.1)
    assert (estimate.low, estimate.high) == (None, None)


def test_the_interval_of_a_volume_is_that_of_whole_samples():
    model = calibrated(bright_segmenter(("flair", "t1ce"), ("lesion", "core")))
    result = model.segment(volume(), spacing=SPACING)
    voxel = math.prod(SPACING) / 1000
    sizes = result.binary_samples.sum((0, 3, 4)) * voxel  # on the grid, which is the images' size
    for k, estimate in enumerate(result.volume_ml().values()):
        assert estimate.low == pytest.approx(float(sizes[:, k].min()) / 1.5)
        assert estimate.high == pytest.approx(float(sizes[:, k].max()) * 1.5)
        assert estimate.low <= estimate.ml <= estimate.high


def test_slices_of_a_volume_share_the_noise():
    model, image = bright_segmenter(("flair", "t1ce")), torch.full((2, 2, 32, 32), 0.2)
    image[:, 1] = torch.tensor([-0.1, -0.2])[:, None, None]  # of a channel that the model does not look at
    alone, together = model.segment(image), model.segment(image, spacing=SPACING)
    assert torch.equal(together.samples[0], together.samples[1])
    assert not torch.equal(alone.samples[0], alone.samples[1])
    same = model.segment(image, spacing=SPACING, keys=["p", "p"])
    assert torch.equal(same.samples, model.segment(image, keys=["p", "p"]).samples)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, math.nan), (1, 1, math.inf), (-1, 1, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="expected the distances of slices, rows and columns in mm"):
        bright_segmenter(("flair", "t1ce")).segment(volume(), spacing=spacing)


def test_a_volume_needs_spacing_and_one_key():
    model = bright_segmenter(("flair", "t1ce"))
    with pytest.raises(ValueError, match=r"size of the voxels is not known.*spacing="):
        model.segment(volume()).volume_ml()
    with pytest.raises(ValueError, match="the same key"):
        model.segment(volume(2), spacing=SPACING, keys=["a", "b"])


def test_results_are_short_in_a_console():
    model = dark_segmenter(regions=("lesion", "nucleus"))
    result = model.segment(picture())
    share = float(result.mask[0, 0].float().mean())
    assert repr(result) == (
        f"Segmentation(1 image of 60 x 90, 3 samples; lesion {share:.1%}, "
        f"nucleus {float(result.mask[0, 1].float().mean()):.1%})"
    )
    assert 0.05 < share < 0.5
    with_volume = bright_segmenter(("flair", "t1ce")).segment(volume(), spacing=SPACING)
    assert f"lesion {with_volume.volume_ml()['lesion'].ml:.1f} ml)" in repr(with_volume)
    plain = Segmentation(result.samples, result.probability, result.uncertainty, result.mask)
    assert "region 1" in repr(plain)


def test_html_holds_a_small_picture_and_numbers():
    results = [dark_segmenter(regions=("<b>",)).segment(torch.rand(number, 3, 40, 60) - 1) for number in (1, 7)]
    for result, more in zip(results, (False, True), strict=True):
        html = result._repr_html_()
        data = re.search('src="data:image/png;base64,([^"]+)"', html)[1]
        assert Image.open(io.BytesIO(base64.b64decode(data))).width > 100
        assert len(html) < 200_000
        assert ("first 4 shown" in html) == more
        assert "&lt;b&gt;" in html
        assert "<b>" not in html


def test_plots_show_the_image_and_its_mask():
    model, image = calibrated(dark_segmenter()), picture(300, 200)
    result = model.segment(image)
    figure = result.plot(image)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["mask and 3 samples", "probability and contours"]
    assert np.array_equal(figure.axes[0].images[0].get_array(), np.asarray(image))
    assert as_picture(figure).shape[0] > 200
    large = dark_segmenter().segment(picture(1200, 900))
    assert max(large.plot(picture(1200, 900)).axes[0].images[0].get_array().shape) == 800


def test_plots_lie_as_viewers_turn_pictures():
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    written = io.BytesIO()
    picture().save(written, "PNG", exif=exif)
    with Image.open(written) as opened:
        figure = dark_segmenter().segment(opened).plot(opened)
    shown, probability = (axis.images[0].get_array() for axis in figure.axes[:2])
    assert shown.shape[:2] == probability.shape == (90, 60)
    dark = shown.mean(-1) < 128
    assert (dark & (probability > 0.5)).sum() > 0.9 * dark.sum()


def test_plots_refuse_what_was_not_segmented():
    model = dark_segmenter()
    result = model.segment(torch.zeros(2, 3, 32, 32) - 0.5)
    with pytest.raises(ValueError, match="1 image of 60 x 90; the segmentation has 2 of 32 x 32"):
        result.plot(picture())
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"There is no image {index} of 2 images: expected 0 to 1"):
            result.plot(torch.zeros(2, 3, 32, 32) - 0.5, index)


def test_results_travel_without_their_model():
    model = dark_segmenter()
    result = model.segment(picture())
    loaded = pickle.loads(pickle.dumps(result))
    assert torch.equal(loaded.mask, result.mask)
    assert loaded.origin is None
    assert len(pickle.dumps(result)) < 1.5 * sum(
        one.nbytes for one in (result.samples, result.probability, result.uncertainty, result.mask)
    )
    assert result.to("cpu").origin.model is model
    for use in (lambda: loaded.plot(picture()), lambda: loaded.save("nowhere")):
        with pytest.raises(ValueError, match="is not known"):
            use()


def test_data_sets_have_length_items_and_pictures():
    data = SyntheticDataModule(image_size=16, num_train=6, num_val=3, num_test=4)
    dataset = data.dataset("test")
    assert len(dataset) == 4
    assert dataset is data.dataset("test")
    item = dataset[1]
    assert item["id"] == dataset.ids[1] == dataset[-3]["id"]
    assert torch.equal(item["image"], dataset.image(1))
    assert item["masks"].shape == (4, 1, 16, 16)
    assert len(list(dataset)) == 4
    assert dataset.plot(1).axes[0].get_title() == dataset.ids[1]
    assert as_picture(dataset.plot(1)).std() > 10
    for index in (4, -5):
        for use in (dataset.__getitem__, dataset.plot):
            with pytest.raises(IndexError, match=f"There is no item {index} of 4 items: expected 0 to 3, or -4 to -1"):
                use(index)
    with pytest.raises(ValueError, match="There is no split 'training': expected one of train, val, test"):
        data.dataset("training")


def test_familiarity_is_said():
    model = dark_segmenter()
    result = model.segment(picture())
    assert "familiarity 0.02" in repr(replace(result, familiarity=torch.tensor([0.5, 0.0213])))
