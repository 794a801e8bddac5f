"""Some of the regions of a data set, such as the optic cup alone."""

import numpy as np
import pytest
import torch
from helpers.picture_files import lesion, write_refuge, yaml_module

from diffmedseg.errors import DataError
from diffmedseg.recipes import recipe


def test_the_cup_alone_has_the_masks_of_the_cup(tmp_path):
    write_refuge(tmp_path)
    both, cup = yaml_module("refuge", tmp_path), yaml_module("refuge", tmp_path, regions=["cup"])
    assert (cup.info.regions, cup.info.nested) == (("cup",), False)
    for split in ("train", "val", "test"):
        one, two = cup.load(split), both.load(split)
        for index in range(len(one)):
            assert torch.equal(one.masks(index), two.masks(index)[:, 1:])
            assert torch.equal(one.reference(index), two.reference(index)[:, 1:])
            assert torch.equal(one.filled(index), two.filled(index)[:, 1:])
    assert np.array_equal(cup.load("test").reference(1)[0, 0], lesion(5, 0.5))


def test_every_choice_of_regions_shares_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    write_refuge(tmp_path / "data")
    for regions in (None, ["cup"], ["disc"]):
        yaml_module("refuge", tmp_path / "data", regions=regions).load("test")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_tracks_count_the_masks_of_the_regions_that_are_read(tmp_path):
    write_refuge(tmp_path)
    path = tmp_path / "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp"
    from PIL import Image

    values = np.asarray(Image.open(path)).copy()
    values[values == 0] = 128  # no cup
    Image.fromarray(values).save(path)
    assert yaml_module("refuge", tmp_path, min_nonempty=1).load("test").ids == ["T0001", "T0002"]
    assert yaml_module("refuge", tmp_path, min_nonempty=1, regions=["cup"]).load("test").ids == ["T0002"]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (["rim"], r"regions are \['rim'\]; expected some of disc, cup"),
        ([], r"regions are \[\]; expected some of disc, cup"),
        (["cup", "disc"], r"name them from the outermost to the innermost"),
    ],
)
def test_regions_that_cannot_be(regions, message, tmp_path):
    with pytest.raises(DataError, match=message):
        yaml_module("refuge", tmp_path, regions=regions)


def test_a_model_of_the_cup_is_built_in_python(tmp_path):
    write_refuge(tmp_path)
    model, data, _ = recipe("medsegdiff-lite", "refuge", root=tmp_path, settings=["--data.regions=[cup]"]).build()
    assert data.info.regions == ("cup",)
    assert model.denoiser.mask_channels == 1
