"""Data sets of which models are shown windows, such as those around an optic disc."""

import csv

import numpy as np
import pytest
import torch
from helpers.picture_files import SIZE, lesion, save, write_refuge, yaml_module
from helpers.tiny_run import TINY, tiny_model, tiny_trainer
from PIL import Image

from diffmedseg import load_checkpoint
from diffmedseg.callbacks import CaseMetrics
from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.metrics.images import score_image
from diffmedseg.reading.pictures import shrink_image
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo import export

HEADER = "id,left,top,width,height"
IDS = ("g0001", "n0001", "n0002", "V0001", "T0001", "T0002")
MIDDLES = {name: (3, 4, 16, 16) for name in IDS}


def write_windows(path, windows):
    path.write_text("\n".join([HEADER, *(",".join(map(str, (name, *window))) for name, window in windows.items())]))
    return path


def cropped(tmp_path, windows, **options):
    root = tmp_path / "data"
    if not root.exists():
        write_refuge(root)
    file = write_windows(tmp_path / f"{abs(hash(str(windows)))}.csv", windows)
    return yaml_module("refuge", root, windows=str(file), **options)


def test_image_and_masks_are_cropped_before_they_are_shrunk(tmp_path):
    """The window has the size of the grid, so that every pixel is kept."""
    data = cropped(tmp_path, MIDDLES | {"T0002": (9, 2, 16, 16)})
    assert data.info.cropped
    store = data.load("test")
    with Image.open(tmp_path / "data" / "Test400" / "T0002.jpg") as photo:
        native = np.asarray(photo)
    assert np.array_equal(store.image(1).permute(1, 2, 0), native[2:18, 9:25])
    assert np.array_equal(store.masks(1)[0, 0], lesion(5)[2:18, 9:25])
    assert np.array_equal(store.reference(1)[0, 0], lesion(5))  # what it is scored against is whole
    assert (store.window(0), store.window(1)) == ((3, 4, 16, 16), (9, 2, 16, 16))
    assert store.size_of(1) == SIZE


def test_other_windows_are_not_taken_from_the_cache(tmp_path):
    first = cropped(tmp_path, MIDDLES).load("train").image(0)
    other = cropped(tmp_path, MIDDLES | {"g0001": (0, 0, 16, 16)}).load("train").image(0)
    whole = yaml_module("refuge", tmp_path / "data").load("train").image(0)
    again = cropped(tmp_path, MIDDLES).load("train").image(0)
    assert not torch.equal(first, other)
    assert not torch.equal(first, whole)
    assert torch.equal(first, again)


def test_a_window_of_a_large_jpeg_is_decoded_as_sharply_as_it_is_seen(tmp_path):
    """A JPEG is decoded at a fraction of its size, which the window must take part in."""
    y, x = np.mgrid[:640, :800]
    stripes = (127 + 100 * np.sin(x / 6) * np.cos(y / 9)).astype(np.uint8)
    Image.fromarray(np.stack([stripes] * 3, -1)).save(tmp_path / "a.jpg", quality=97)
    window = CropWindow(336, 208, 96, 64)
    with Image.open(tmp_path / "a.jpg") as image:
        found = shrink_image(image, (32, 48), window).astype(int)
    with Image.open(tmp_path / "a.jpg") as image:
        cut = shrink_image(image.crop((336, 208, 432, 272)), (32, 48)).astype(int)
    assert abs(found - cut)[:, 1:-1, 1:-1].max() <= 6
    assert np.ptp(found) > 150


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n0003,0,0,9,9", r"line 8: there is no picture n0003\. There are T0001, T0002, V0001 and 3 more"),
        ("g0001,0,0,9,9", r"line 8: g0001 has two windows"),
        ("T0002,0,0,9", r"line 7: found 'T0002,0,0,9'; expected id,left,top,width,height in whole pixels"),
        ("T0002,0,0,9,9,9", r"line 7: found 'T0002,0,0,9,9,9'; expected"),
        ("T0002,0,zero,9,9", r"line 7: found 'T0002,0,zero,9,9'; expected"),
        ("T0002,0,0.5,9,9", r"line 7: found 'T0002,0,0.5,9,9'; expected"),
        ("T0002,-1,0,9,9", r"line 7: 'T0002,-1,0,9,9' has no id, or its window lies outside the picture"),
        ("T0002,0,0,0,9", r"line 7: 'T0002,0,0,0,9' has no id, or"),
        ("T0002,22,0,9,9", r"line 7: the window of T0002 ends at column 31, row 9; the picture is 30 x 24 pixels"),
        ("T0002,0,16,9,9", r"line 7: the window of T0002 ends at column 9, row 25; the picture is 30 x 24 pixels"),
        (None, r"windows\.csv has no window for 1 pictures: T0002"),
    ],
)
def test_bad_lines_are_refused(line, message, tmp_path):
    write_refuge(tmp_path / "data")
    kept = dict(list(MIDDLES.items())[: 6 if line and not line.startswith("T0002") else 5])
    path = write_windows(tmp_path / "windows.csv", kept)
    path.write_text(path.read_text() + f"\n{line or ''}\n")
    with pytest.raises(DataError, match=message) as caught:
        yaml_module("refuge", tmp_path / "data", windows=str(path)).load("test")
    assert "windows.csv" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"id,left,top,size\ng0001,0,0,9\n", b"\xff\xfe\x00"])
def test_a_file_that_holds_no_windows_is_refused(content, tmp_path):
    write_refuge(tmp_path)
    if content is not None:
        (tmp_path / "windows.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"windows\.csv(, line 1: expected the columns id,left| cannot be read)"):
        yaml_module("refuge", tmp_path, windows=str(tmp_path / "windows.csv")).load("test")


def test_perfect_masks_in_windows_are_scored_as_those_of_whole_pictures(tmp_path):
    """What lies in the window is found; what lies outside of it counts as missed."""
    windows = MIDDLES | {"T0001": (1, 0, 28, 24), "T0002": (0, 10, 14, 14)}
    data = cropped(tmp_path, windows)
    data.setup("test")
    [batch] = data.test_dataloader()
    scorer, model = CaseMetrics(), tiny_model()
    model.regions = data.info.regions
    for i, case in enumerate(batch["case"]):
        left, top, width, height = windows[case]
        inside = batch["reference"][i][0, :, top : top + height, left : left + width].float()
        outputs = {"segmentation": Segmentation(*(one[None] for one in (inside[None], inside, inside, inside > 0)))}
        one = {name: values[i : i + 1] for name, values in batch.items()}
        scorer.on_test_batch_end(tiny_trainer(None), model, outputs | {"seconds": 0.0}, one, i)
    scorer._close_case()
    whole, cut = scorer.images["T0001"], scorer.images["T0002"]
    for k, scale in enumerate((1, 0.5)):
        everything, kept = lesion(5, scale), lesion(5, scale)[10:, :14]
        assert whole.counts[:, k].tolist() == [lesion(4, scale).sum(), 0, 0]
        assert cut.counts[:, k].tolist() == [kept.sum(), 0, everything.sum() - kept.sum()]
        assert cut.pairs[0, k, 0, 0] == kept.sum()
        assert cut.pairs[:, k, 0, 1].tolist() == [kept.sum(), everything.sum()]
    assert scorer.surfaces["T0001"][0].hd95 == 0
    assert scorer.surfaces["T0002"][0].hd95 > 0


def test_all_that_is_scored_of_a_window_lies_where_it_does():
    """As if the maps of the whole picture had been given."""
    generator = torch.Generator().manual_seed(0)
    window, size = CropWindow(5, 3, 8, 6), (12, 20)
    small = torch.rand(7, 1, 6, 8, generator=generator)
    reference = (torch.rand(2, 1, *size, generator=generator) > 0.6).to(torch.uint8)
    large = torch.zeros(7, 1, *size)
    large[..., 3:9, 5:13] = small

    def score(maps, **options):
        contours = maps[3] > 0.7, maps[3] > 0.2
        return score_image("a", maps[0], maps[1:4], reference, 0.5, 0.0, maps[4], None, contours, maps[5], **options)

    in_window, placed = vars(score(small, window=window)), vars(score(large))
    for name, value in placed.items():
        torch.testing.assert_close(in_window[name], value, msg=name) if name != "case" else None


def test_from_a_first_model_by_windows_to_a_second(run, tmp_path):
    """Train on the windows that a model found, and predict on such windows, never on whole pictures."""
    root, file, photos = tmp_path / "data", tmp_path / "windows.csv", tmp_path / "photos"
    write_refuge(root)
    main(["windows", str(run), str(root), "--data", "refuge", "--out", str(file)])
    lines = list(csv.reader(file.open()))
    assert ",".join(lines[0]) == HEADER
    assert sorted(line[0] for line in lines[1:]) == sorted(IDS)
    with pytest.raises(SystemExit, match=r"windows\.csv already exists\. Name a new file"):
        main(["windows", str(run), str(root), "--data", "refuge", "--out", str(file)])
    with pytest.raises(SystemExit, match="isic2017 takes no windows"):
        main(["windows", str(run), str(root), "--data", "isic2017", "--out", str(tmp_path / "other.csv")])
    write_windows(file, MIDDLES)
    tiny = [option for option in TINY if not option.startswith("--data.num_")]
    main(
        [
            "train",
            "medsegdiff-lite",
            "refuge",
            *tiny,
            f"--data.root={root}",
            f"--data.windows={file}",
            f"--runs={tmp_path}",
        ]
    )
    second = tmp_path / "medsegdiff-lite-refuge" / "version_0"
    assert load_checkpoint(second).cropped
    assert {row["case"] for row in csv.DictReader((second / "cases.csv").open())} == {"T0001", "T0002"}
    with Image.open(root / "Test400" / "T0001.jpg") as photo:
        save(photos / "T0001.png", np.asarray(photo))
    with pytest.raises(SystemExit, match=r"trained on windows of pictures.*--windows"):
        main(["predict", str(second), str(photos), "--out", str(tmp_path / "out")])
    main(["predict", str(second), str(photos), "--out", str(tmp_path / "out"), "--windows", str(file)])
    probability = np.asarray(Image.open(tmp_path / "out" / "T0001_disc_probability.png"))
    assert probability.shape == SIZE
    assert probability[4:20, 3:19].any()
    assert not np.delete(np.delete(probability, np.s_[4:20], 0), np.s_[3:19], 1).any()
    entry = export(second, "medsegdiff-lite_refuge.crops", tmp_path / "zoo")
    assert "The windows of its training are in windows.csv." in (entry / "README.md").read_text()
    with pytest.raises(SystemExit, match="Find windows by a model of whole pictures"):
        main(["windows", str(second), str(photos), "--out", str(tmp_path / "other.csv")])


def test_the_optic_cup_alone_on_disc_crops(run, tmp_path):
    """MedSegDiff's task: the first model finds the disc, the second is trained on the cup within its window."""
    root, file, photos = tmp_path / "data", tmp_path / "windows.csv", tmp_path / "photos"
    write_refuge(root)
    main(["windows", str(run), str(root), "--data", "refuge", "--out", str(file)])
    write_windows(file, MIDDLES)  # the first model of this test finds nothing
    tiny = [option for option in TINY if not option.startswith("--data.num_")]
    options = [f"--data.root={root}", "--data.regions", "[cup]", "--data.windows", str(file), f"--runs={tmp_path}"]
    main(["train", "medsegdiff", "refuge", *tiny, *options, "--name", "cup", "--model.denoiser.init_args.size=tiny"])
    second = tmp_path / "cup" / "version_0"
    assert load_checkpoint(second).regions == ("cup",)
    rows = list(csv.DictReader((second / "cases.csv").open()))
    assert {row["region"] for row in rows} == {"cup"}
    main(["evaluate", str(second)])
    with Image.open(root / "Test400" / "T0001.jpg") as photo:
        save(photos / "T0001.png", np.asarray(photo))
    main(["predict", str(second), str(photos), "--out", str(tmp_path / "out"), "--windows", str(file)])
    assert not list((tmp_path / "out").glob("*disc*"))
    probability = np.asarray(Image.open(next((tmp_path / "out").glob("T0001*probability.png"))))
    assert not np.delete(np.delete(probability, np.s_[4:20], 0), np.s_[3:19], 1).any()
