"""Every command reads a kind of mask alike: the right values, or the same refusal that names the file."""

import json

import numpy as np
import pytest
from helpers.mask_kinds import HEIGHT, MIXED, NEARLY, NUMBER, REFUSED, RIGHT, WIDTH, lesion, probability, scaled
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import FileNames, ISIC2018DataModule, SliceFolders
from diffmedseg.data.checking import check_data
from diffmedseg.data.configured import build_data
from diffmedseg.errors import DataError
from diffmedseg.evaluation import read_mask
from diffmedseg.evaluation.mask_folders import pair_masks, score_pairs
from diffmedseg.experiments import data_config
from diffmedseg.reading.masks import MaskReader, binarise


def photo(number):
    return Image.fromarray(np.random.default_rng(number).integers(30, 220, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def write_masks(folder, writers, suffix, name="c{}"):
    folder.mkdir(parents=True)
    for number, write in enumerate(writers):
        write(lesion(number), folder / f"{name.format(number)}.{suffix}")
    return folder


def by_file_names(root, writers, suffix):
    write_masks(root / "masks", writers, suffix)
    (root / "images").mkdir()
    for number in range(NUMBER):
        photo(number).save(root / f"images/c{number}.png")
    layout = FileNames("images/(?P<id>.+)", {"lesion": ["masks/{id}"]})
    cases = layout.find(root)
    reader = layout.reader(cases)
    return [reader.read(case)[0, 0] for case in cases]


def by_isic(root, writers, suffix):
    images, masks = (root / name for name in ISIC2018DataModule.folders()["training"])
    write_masks(masks, writers, "png", "ISIC_000000{}_segmentation")
    images.mkdir()
    for number in range(NUMBER):
        photo(number).save(images / f"ISIC_000000{number}.jpg")
    data = ISIC2018DataModule(root, image_size=16)
    stores = [data.load(split) for split in ("train", "val", "test")]
    found = {name: store.reference(i)[0, 0].numpy() for store in stores for i, name in enumerate(store.ids)}
    return [found[name] for name in sorted(found)]


def by_score(root, writers, suffix):
    folder = write_masks(root / "masks", writers, suffix)
    files = sorted(folder.iterdir())
    reader = MaskReader(files)
    return [read_mask(path, reader).values for path in files]


def by_slices(root, writers, suffix):
    folder = write_masks(root / "TCGA_1", writers, "tif", "TCGA_1_{}_mask")
    for number in range(NUMBER):
        photo(number).save(folder / f"TCGA_1_{number}.tif")
    layout = SliceFolders("TCGA_.+", ["a", "b", "c"], (1.0, 1.0, 1.0))
    return list(layout.read(layout.find(root)[0], {1}).labels)


COMMANDS = {"FileNames": by_file_names, "score": by_score, "ISIC": by_isic, "slices": by_slices}
_TAKES = {"ISIC": "png", "slices": "tif"}  # others take all


def table(kinds):
    """Pair kinds and the commands that take their suffix."""
    return [
        pytest.param(command, kind, id=f"{command}-{kind}")
        for kind, row in kinds.items()
        for command in COMMANDS
        if _TAKES.get(command) in {None, row[0]}
    ]


@pytest.mark.parametrize(("command", "kind"), table(RIGHT))
def test_right_values(command, kind, tmp_path):
    suffix, write = RIGHT[kind]
    for number, mask in enumerate(COMMANDS[command](tmp_path, [write] * NUMBER, suffix)):
        assert np.array_equal(mask, lesion(number))


@pytest.mark.parametrize(("command", "kind"), table(NEARLY))
def test_soft_edges(command, kind, tmp_path):
    suffix, write = NEARLY[kind]
    for number, mask in enumerate(COMMANDS[command](tmp_path, [write] * NUMBER, suffix)):
        assert (mask != lesion(number)).mean() < 0.01


@pytest.mark.parametrize(("command", "kind"), table(MIXED))
@pytest.mark.parametrize("last", [False, True])
def test_mixed_ranges_whatever_the_order(command, kind, last, tmp_path):
    suffix, one, other = MIXED[kind]
    writers = [one] + [other] * (NUMBER - 1)
    for number, mask in enumerate(COMMANDS[command](tmp_path, writers[::-1] if last else writers, suffix)):
        assert np.array_equal(mask, lesion(number))


@pytest.mark.parametrize(("command", "kind"), table(REFUSED))
def test_refusals_are_alike_and_name_the_file(command, kind, tmp_path):
    suffix, write, message = REFUSED[kind]
    with pytest.raises(DataError, match=message) as caught:
        COMMANDS[command](tmp_path, [write] * NUMBER, suffix)
    said = str(caught.value)
    [path] = [path for path in tmp_path.rglob(f"*{suffix}") if str(path) in said and "0" in path.stem][:1]
    with pytest.raises(DataError) as alone:
        MaskReader([path]).read(path)
    assert str(alone.value) in said


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("low", "others", "message"),
    [
        (scaled(2), scaled(1), "values 0 to 2; other masks beside it have values up to 1"),
        (scaled(1), probability(255, np.uint8), "values 0 to 1; other masks beside it have values up to 255"),
        (scaled(4095, np.uint16), scaled(255), "values 0 to 4095; other masks beside it have values up to 255"),
        (scaled(60), scaled(80), "values 0 to [68]0; expected 0 to 1"),
    ],
)
def test_ranges_that_cannot_be_told(low, others, message, last, tmp_path):
    writers = [low] + [others] * (NUMBER - 1)
    with pytest.raises(DataError, match=message):
        by_score(tmp_path, writers[::-1] if last else writers, "png")


def test_a_mask_that_is_low_all_over(tmp_path, capsys):
    """It is empty for ``score``, which says so; nobody learns from it."""
    low = [scaled(20), probability(100, np.uint8), *[scaled(255)] * (NUMBER - 2)]
    with pytest.raises(DataError, match=r"c0\.png has values up to 20, none above half of the range"):
        by_file_names(tmp_path / "training", low, "png")
    predictions, truth = tmp_path / "p", tmp_path / "t"
    write_masks(predictions, low, "png")
    write_masks(truth, [scaled(255)] * NUMBER, "png")
    main(["score", str(predictions), str(truth), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["empty_after_thresholding"] == [str(predictions / f"c{i}.png") for i in (0, 1)]
    assert [found["cases"][f"c{i}"]["dice"] for i in range(NUMBER)] == [0, 0, 1, 1, 1, 1]


def test_a_folder_that_is_low_all_over(tmp_path):
    folder = write_masks(tmp_path / "p", [probability(100, np.uint8)] * NUMBER, "png")
    with pytest.raises(DataError, match=r"c0\.png, .*no value is above half of the range, in these masks and in"):
        score_pairs(pair_masks(folder, folder))


def test_empty_masks_are_empty(tmp_path):
    writers = [scaled(0), *[scaled(255)] * (NUMBER - 1)]
    assert [mask.any() for mask in by_score(tmp_path, writers, "png")] == [False] + [True] * (NUMBER - 1)
    assert not by_score(tmp_path / "all", [scaled(0)] * NUMBER, "png")[0].any()


@pytest.mark.parametrize("values", [[0, 1.0000001], [-1e-7, 1], [0, 0.9999], [0, 1], [0, 255.00002]])
def test_brain_masks(values, tmp_path):
    assert binarise(np.array([[values]], np.float32), tmp_path / "b.nii").tolist() == [[[False, True]]]


def check(root, writers, **options):
    write_masks(root / "masks", writers, "png")
    (root / "images").mkdir()
    for number in range(NUMBER):
        photo(number).save(root / f"images/c{number}.png")
    config = data_config("folder")
    config["init_args"] |= {"root": str(root), "folds": 3} | options
    return {problem.kind: problem for problem in check_data(build_data(config)).problems}


def test_masks_that_are_lost_on_the_grid_are_counted(tmp_path):
    def dot(mask, path):
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[0, 0] = 255
        Image.fromarray(values).save(path)

    problem = check(tmp_path, [scaled(255), *[dot] * (NUMBER - 1)], image_size=8)["mask lost on the grid"]
    assert not problem.serious
    assert "with foreground in the file and none on the grid of 8 x 8 pixels" in problem.text


def test_masks_that_are_inverted_are_noted(tmp_path):
    def inverted(mask, path):
        scaled(255)(~(mask & (np.arange(WIDTH) % 9 == 0)), path)

    problem = check(tmp_path / "inverted", [inverted] * NUMBER)["mask nearly everywhere"]
    assert not problem.serious
    assert "Invert the masks" in problem.text
    assert "mask nearly everywhere" not in check(tmp_path / "right", [scaled(255)] * NUMBER)


@pytest.mark.parametrize("kind", ["two colours", "85 and 170", "transparent white"])
def test_data_check_names_what_is_refused(kind, tmp_path):
    _, write, message = REFUSED[kind]
    problem = check(tmp_path, [write] * NUMBER)["unreadable"]
    assert message in problem.text
    assert problem.names == [f"c{number}" for number in range(NUMBER)]
