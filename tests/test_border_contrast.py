"""Contrast to the border of the image: a proposer that learns nothing from the data."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers import isic_files
from helpers.tiny_run import tiny_data

from diffmedseg.cli import main
from diffmedseg.data import ISIC2017DataModule
from diffmedseg.data.labels import FieldOfView, MaskRule
from diffmedseg.data.labels.whitening import whiten
from diffmedseg.errors import DataError
from diffmedseg.models.encoders import PACKAGED
from diffmedseg.pseudo.border import BorderContrast
from diffmedseg.pseudo.proposers import Council, Proposer

needs_weights = pytest.mark.skipif(find_spec(PACKAGED["lite0"].package) is None, reason="weights are not installed")


def border(size=32, width=6):
    where = torch.ones(size, size, dtype=torch.bool)
    where[width:-width, width:-width] = False
    return where


def disc(size=64, radius=12):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (y - size / 2) ** 2 + (x - size / 2) ** 2 < radius**2


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def border_distance(features, healthy, shrinkage):
    return torch.stack([whiten(*one, shrinkage).norm(dim=0) for one in zip(features, healthy, strict=False)])


def picture(skin=(0.4, 0.1, 0.0), lesion=(-0.2, -0.4, -0.4)):
    colours = [torch.tensor(one).view(3, 1, 1) for one in (skin, lesion)]
    return (torch.where(disc(), colours[1], colours[0]) + 0.03 * noise(3, 64, 64)).clamp(-1, 1)[None]


def test_it_is_the_distance_of_mahalanobis():
    features, where = noise(2, 3, 32, 32), border().expand(2, -1, -1)
    found = border_distance(features, where, 0.0)
    for own, distance in zip(features.double().numpy(), found.numpy(), strict=True):
        healthy = own[:, border().numpy()]
        offset = own - np.sort(healthy, axis=1)[:, (healthy.shape[1] - 1) // 2, None, None]
        inside = offset[:, border().numpy()]
        inverse = np.linalg.inv(inside @ inside.T / inside.shape[1])
        assert np.allclose(distance**2, np.einsum("chw,cd,dhw->hw", offset, inverse, offset))


def test_units_and_axes_of_features_change_nothing():
    features, where = noise(1, 4, 32, 32).double() * torch.tensor([1, 3, 0.2, 1]).view(4, 1, 1), border()[None]
    turned = torch.linalg.qr(noise(4, 4, seed=1).double()).Q
    moved = 7 * torch.einsum("dc,bchw->bdhw", turned, features)
    assert torch.allclose(border_distance(features, where, 0.3)[:, 8:24, 8:24].median(),
                          border_distance(moved, where, 0.3)[:, 8:24, 8:24].median(), rtol=0.05)  # fmt: skip
    assert torch.allclose(border_distance(features, where, 0.3), border_distance(5 * features + 2, where, 0.3))


def test_what_varies_at_the_border_counts_less():
    features = torch.cat([noise(1, 1, 32, 32), 0.05 * noise(1, 1, 32, 32, seed=1)], 1)
    loud, quiet = features.clone(), features.clone()
    loud[0, 0, 14:18, 14:18] += 1
    quiet[0, 1, 14:18, 14:18] += 1
    means = [border_distance(one, border()[None], 0.0)[0, 14:18, 14:18].mean() for one in (loud, quiet)]
    assert means[1] > 5 * means[0]


@pytest.mark.parametrize("where", [torch.zeros(32, 32, dtype=torch.bool), border()], ids=["no border", "constant"])
def test_without_healthy_pixels_that_vary_nothing_is_found(where):
    features = torch.ones(1, 3, 32, 32)
    features[..., 12:20, 12:20] = 5
    assert not border_distance(features, where[None], 0.3).any()


@needs_weights
@pytest.mark.parametrize(
    "lesion", [(-0.2, -0.4, -0.4), (0.9, 0.7, 0.6), (0.9, -0.3, -0.3)], ids=["dark", "pale", "red"]
)
def test_lesions_of_any_colour_are_found(lesion):
    rule = MaskRule(healthy_border=0.1875)
    image = picture(lesion=lesion)
    [[found]] = BorderContrast(rule, tiny_data().info)(image, ["a"])
    mask = torch.from_numpy(rule.decide(rule.soften(found.numpy(), np.ones((64, 64), bool))).mask)
    assert 2 * (mask & disc()).sum() / (mask.sum() + disc().sum()) > 0.9


@needs_weights
def test_the_dark_corners_of_a_dermatoscope_are_no_skin():
    image = picture()
    image[..., ~disc(64, 34)] = -0.97
    blind, aware = (MaskRule(healthy_border=0.1875, field_of_view=view) for view in (None, FieldOfView()))
    lesion, skin = disc(64, 10), disc(64, 24) & ~disc(64, 15)
    ratio = []
    for rule in (blind, aware):
        [[found]] = BorderContrast(rule, tiny_data().info)(image, ["a"])
        ratio.append(float(found[lesion].mean() / found[skin].mean()))
    assert ratio[1] > 2 * ratio[0]


@needs_weights
def test_images_do_not_depend_on_each_other_and_may_have_any_size():
    propose = BorderContrast(MaskRule(healthy_border=0.1875), tiny_data().info)
    both = torch.cat([picture(), picture(lesion=(0.9, 0.7, 0.6))])
    together = propose(both, ["a", "b"])
    alone = torch.cat([propose(one[None], ["a"]) for one in both])
    assert torch.allclose(together, alone, atol=1e-3)
    assert propose(both[..., :48, :], ["a", "b"]).shape == (2, 1, 48, 64)


def test_data_whose_border_is_not_known_to_be_healthy_is_refused():
    with pytest.raises(DataError, match=r"mask_rule\.healthy_border is not set"):
        BorderContrast(MaskRule(), tiny_data().info)
    with pytest.raises(ValueError, match=r"healthy_border is 0\.5"):
        MaskRule(healthy_border=0.5)


class Says(Proposer):
    """Proposes the same maps always."""

    title, learned_from, relative = "a test", "nothing", False

    def __init__(self, *masks):
        self.maps = torch.stack(masks)[:, None].float()

    def __call__(self, image, keys):
        return self.maps


def test_masks_are_left_out_where_proposers_disagree():
    near, far = torch.roll(disc(), 2, 1), torch.roll(disc(), 15, 1)
    rule, both = MaskRule(), [Says(disc(), disc()), Says(near, far)]
    image = torch.zeros(2, 3, 64, 64)
    strict = Council(both, rule, None, agreement=0.7).decide(image, ["a", "b"])
    assert strict[0].objection is None
    assert "proposers agree by a Dice of 0." in strict[1].objection
    assert all(one.objection is None for one in Council(both, rule, None).decide(image, ["a", "b"]))
    assert (strict[0].mask == Council(both, rule, None).decide(image, ["a", "b"])[0].mask).all()
    with pytest.raises(DataError, match="--agreement needs two or more proposers"):
        Council(both[:1], rule, None, agreement=0.7)


@needs_weights
def test_the_command_proposes_by_the_mean_of_luminance_and_border(tmp_path, capsys):
    isic_files.write(tmp_path / "isic", ISIC2017DataModule, training=10, test=1)
    place = [f"--data.root={tmp_path / 'isic'}", "--data.image_size=32", "--out", str(tmp_path / "out")]
    main(["pseudo", "isic2017", "--proposer", "luminance+border", *place])
    said = (tmp_path / "out" / "supervision.txt").read_text()
    assert said.startswith("labels: pseudo masks of luminance (learned from nothing) and contrast to the border")
    with pytest.raises(SystemExit):
        main(["pseudo", "isic2017", "--proposer", "luminance+bordr", *place])
    assert "There is no proposer 'bordr'. Did you mean border?" in capsys.readouterr().err
