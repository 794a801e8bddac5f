"""Settings that follow from the data and the machine."""

import numpy as np
import pytest
import yaml
from helpers.mri_files import data_module, write_nifti
from helpers.picture_files import save, save_mask, yaml_module
from helpers.tiny_run import tiny_data

from diffmedseg.cli import main
from diffmedseg.data.measured import grid_of, measure
from diffmedseg.data.planning import Machine, plan
from diffmedseg.errors import DataError

LARGE, SMALL = Machine("a large machine", 10**9), Machine("a small machine", 8 * 64**2)


def write_lesions(root, side, size=256):
    """Pictures with one square lesion each, at places that differ."""
    for number in range(8):
        mask = np.zeros((size, size), bool)
        corner = 20 + 13 * number
        mask[corner : corner + side, corner : corner + side] = True
        image = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
        save(root / "images" / f"p{number}.png", image)
        save_mask(root / "masks" / f"p{number}.png", mask)


def settings(planned):
    return {name: value for name, (value, _) in planned.settings.items()}


@pytest.mark.parametrize("side", [2, 3, 6])
def test_every_lesion_survives_the_grid_and_no_smaller_grid_keeps_them_all(side, tmp_path):
    write_lesions(tmp_path, side)
    found = measure(yaml_module("folder", tmp_path, folds=2))
    grid = settings(plan(found, LARGE))["image_size"]
    kept = yaml_module("folder", tmp_path, folds=2, image_size=list(grid)).load("train")
    assert all(kept.masks(index).any() for index in range(len(kept)))
    smaller = [one for one in found.lost if one < grid[0]]
    assert all(found.lost[one] for one in smaller)
    assert grid[0] <= 256


def test_larger_lesions_need_no_larger_grid(tmp_path):
    grids = []
    for side in (2, 40):
        write_lesions(tmp_path / str(side), side)
        grids.append(settings(plan(measure(yaml_module("folder", tmp_path / str(side), folds=2)), LARGE))["image_size"])
    assert grids[0] > grids[1] == (64, 64)


def test_a_small_machine_learns_patches_of_the_same_grid(tmp_path):
    write_lesions(tmp_path, 2)
    found = measure(yaml_module("folder", tmp_path, folds=2))
    large, small = settings(plan(found, LARGE)), settings(plan(found, SMALL))
    assert large["image_size"] == small["image_size"]
    assert (large["patch"], small["patch"]) == (None, 64)
    assert (large["batch_size"], small["batch_size"]) == (32, 8)


def write_thick(root, thickness, spacings):
    for number, spacing in enumerate(spacings):
        image = np.random.default_rng(number).integers(50, 200, (8, 64, 64))
        mask = np.zeros_like(image)
        mask[1 : 1 + thickness, 20:40, 20:40] = 1
        for folder, values in (("images", image), ("masks", mask)):
            write_nifti(root / folder / f"p{number}.nii.gz", values, spacing=(spacing, 1.0, 1.0))


def test_context_follows_from_how_many_slices_lesions_span(tmp_path):
    planned = {}
    for name, thickness, spacings in (("thin", 1, [5] * 4), ("thick", 5, [1] * 4), ("mixed", 5, [1, 1, 5, 5])):
        write_thick(tmp_path / name, thickness, spacings)
        data = data_module("volumes", tmp_path / name, folds=4, image_size=32, val_fraction=0)
        planned[name] = settings(plan(measure(data), LARGE))
    assert planned["thin"]["context"] == 0
    assert planned["thick"]["context"] == 1
    assert "context_distance" not in planned["thick"]
    assert planned["mixed"]["context_distance"] in (1.0, 5.0)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((500, 500), (256, 256)), ((500, 450), (256, 256)), ((500, 250), (256, 128)), ((100, 400), (64, 256))],
)
def test_grids_follow_the_shape_of_images(size, grid):
    assert grid_of(size, 256) == grid


def test_specks_do_not_decide(tmp_path):
    write_lesions(tmp_path, 40)
    mask = np.zeros((256, 256), bool)
    mask[50:90, 50:90] = mask[3, 3] = True
    save_mask(tmp_path / "masks" / "p3.png", mask)
    data = yaml_module("folder", tmp_path, folds=8, val_fraction=0)
    found = measure(data)
    assert settings(plan(found, LARGE))["image_size"] == (64, 64)
    assert found.specks == int("p3" in data.split_cases("train"))


def test_the_command_writes_a_configuration_that_says_why(tmp_path, capsys):
    write_lesions(tmp_path / "data", 6)
    out = tmp_path / "plan.yaml"
    main(["data", "plan", "folder", str(tmp_path / "data"), "--set", "folds=2", "--out", str(out)])
    printed = capsys.readouterr().out
    assert out.read_text() == printed
    assert "lesions has a pixel" in printed
    assert "red: percentiles 1, 50 and 99" in printed
    content = yaml.safe_load(printed)["data"]["init_args"]
    assert set(content) == {"image_size", "patch", "batch_size"}
    from diffmedseg.recipes import recipe

    options = [f"-c={out}", "--trainer.accelerator=cpu", f"--runs={tmp_path / 'runs'}"]
    _, data, _ = recipe("medsegdiff-lite", "folder", root=tmp_path / "data", settings=options).build()
    assert data.image_size == tuple(content["image_size"])
    assert data.batch_size == content["batch_size"]


def test_generated_images_cannot_be_measured():
    with pytest.raises(DataError, match="not read from files"):
        measure(tiny_data())


@pytest.mark.parametrize("spacing", [(4.0, 2.0, 0.5), (4.0, 0.5, 2.0), (4.0, 1.0, 1.0)])
def test_every_lesion_survives_the_margin_that_is_proposed(spacing, tmp_path):
    """A margin for square pixels fills a part of the grid, so the lesions have fewer pixels."""
    for number in range(4):
        image = np.random.default_rng(number).integers(50, 200, (2, 96, 96))
        mask = np.zeros_like(image)
        mask[1, 41 + number : 44 + number, 30 + 5 * number : 32 + 5 * number] = 1
        for folder, values in (("images", image), ("masks", mask)):
            write_nifti(tmp_path / folder / f"p{number}.nii.gz", values, spacing=spacing)
    proposed = settings(plan(measure(data_module("volumes", tmp_path, folds=2)), LARGE))
    size, square = list(proposed["image_size"]), proposed.get("square_pixels", False)
    assert square == (spacing[1] != spacing[2])
    planned = data_module("volumes", tmp_path, folds=2, image_size=size, square_pixels=square)
    for split in ("train", "test"):
        store = planned.load(split)
        shown = {case for index, case in enumerate(store.cases) if store.masks(index).any()}
        assert shown == set(store.cases)
