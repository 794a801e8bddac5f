"""The presence head: whether a rater outlines anything, apart from what the rater outlines."""

from functools import partial

import pytest
import torch
from helpers.small_networks import small

from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.models.drawing import sample_generators
from diffmedseg.models.finetuning import initialise
from diffmedseg.models.presence import draw_presence

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
KEYS = list("abcd")
LITE = partial(MedSegDiffLite, presence=True)


def model(mask_channels=1, **options):
    """A network whose masks are full, and empty as often as its head says."""
    network = small(LITE, 3, mask_channels)
    torch.nn.init.constant_(network.head[2].bias, 8.0)
    return MedSegDiffSegmenter(network, image_size=(32, 32), num_steps=2, prior_share=0.0, **options).eval()


def batch(mask):
    return {"image": IMAGES, "mask": mask, "draw": [0, 1, 2, 3]}


def empty(drawn):
    return ~(drawn.samples > 0.5).flatten(3).any(3)


def test_a_sample_is_empty_or_not_whatever_is_drawn_beside_it():
    segmenter = model()
    whole = segmenter.sample(IMAGES, 8, keys=KEYS)
    for order in ([3, 1], [2]):
        some = segmenter.sample(IMAGES[order], 5, keys=[KEYS[i] for i in order])
        torch.testing.assert_close(some.samples, whole.samples[order, :5], atol=1e-4, rtol=0)
    segmenter.pixels_per_pass = 3 * 32 * 32
    torch.testing.assert_close(segmenter.sample(IMAGES, 8, keys=KEYS).samples, whole.samples, atol=1e-4, rtol=0)
    assert torch.equal(empty(segmenter.sample(IMAGES, 8, num_steps=5, keys=KEYS)), empty(whole))
    assert 0.2 < empty(whole).float().mean() < 0.8


def test_samples_are_empty_as_often_as_the_head_says():
    segmenter = model()
    torch.nn.init.zeros_(segmenter.denoiser.presence.out.weight)
    torch.nn.init.constant_(segmenter.denoiser.presence.out.bias, torch.tensor(0.3).logit())
    drawn = segmenter.sample(IMAGES[:1], 400, num_steps=1, keys=["a"])
    assert (~empty(drawn)).float().mean() == pytest.approx(0.3, abs=0.07)  # three standard deviations
    shape = segmenter.denoiser.encode(IMAGES[:1]).prior.sigmoid()
    torch.testing.assert_close(drawn.prior, 0.3 * shape, atol=1e-4, rtol=0)


def test_nested_regions_are_present_together():
    chance = torch.tensor([0.8, 0.4])[None, :, None, None]
    generators = sample_generators(0, ["a"], range(2000))[0]
    together = draw_presence(chance, generators, nested=True)[:, :, 0, 0]
    assert not (together[:, 1] & ~together[:, 0]).any()
    apart = draw_presence(chance, sample_generators(0, ["a"], range(2000))[0], nested=False)[:, :, 0, 0]
    assert (apart[:, 1] & ~apart[:, 0]).float().mean() == pytest.approx(0.08, abs=0.02)
    for found in (together, apart):
        torch.testing.assert_close(found.float().mean(0), chance[0, :, 0, 0], atol=0.04, rtol=0)


def test_windows_of_an_image_have_the_presence_that_each_says():
    """An image of 32 x 48 pixels in two windows: what only the left window shows is there in the left one alone."""
    segmenter = model()
    segmenter.image_size = segmenter.tiling.image_size = (32, 48)
    segmenter.tiling.crop.fill_(32)
    said = iter([30.0, -30.0])
    segmenter.denoiser.presence.forward = lambda *maps: torch.full((1, 1), next(said))
    drawn = segmenter.sample(torch.zeros(1, 3, 32, 48), 2, keys=["a"])
    assert (drawn.samples[..., :16] > 0.5).all()
    assert not (drawn.samples[..., 32:] > 0).any()


@pytest.mark.parametrize("prior", ["mean", "samples"])
def test_empty_masks_teach_the_head_alone(prior):
    segmenter = MedSegDiffSegmenter(small(partial(LITE, prior=prior)), image_size=(32, 32))
    segmenter.training_loss(batch(torch.zeros(4, 1, 32, 32))).backward()
    taught = {name for name, p in segmenter.denoiser.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"presence.out.weight", "presence.hidden.weight"} <= taught
    assert not {
        name for name in taught if name.startswith(("head", "stem", "blocks", "covariance", "condition.decoder.head"))
    }
    assert all(p.grad is not None for p in segmenter.denoiser.parameters())  # as several processes need


def test_losses_of_parts_average_to_that_of_the_batch():
    segmenter = model()
    mask = (IMAGES[:, :1] > 0.5).float()
    mask[1] = 0
    whole = segmenter.training_loss(batch(mask))
    parts = [
        segmenter.training_loss({name: value[own] for name, value in batch(mask).items()})
        for own in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_a_network_learns_how_often_raters_outline_nothing():
    """Bright squares are outlined by 3 of 4 raters, dark ones by 1 of 4."""
    torch.manual_seed(0)
    segmenter = MedSegDiffSegmenter(
        MedSegDiffLite(1, 1, "tiny", presence=True), image_size=(16, 16), num_steps=2, noise_levels=2, prior_share=0.0
    )
    optimiser, draws = torch.optim.Adam(segmenter.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    square, rows = torch.zeros(1, 16, 16), torch.arange(16)
    square[:, 4:12, 4:12] = 1
    bright = (rows % 2 == 0)[:, None, None, None]

    def images():
        noise = 0.1 * torch.randn(16, 1, 16, 16, generator=draws)
        return (square * torch.where(bright, 0.7, -0.7) + noise).clamp(-1, 1)

    for step in range(60):
        outlined = torch.rand(16, 1, 1, 1, generator=draws) < torch.where(bright, 0.75, 0.25)
        optimiser.zero_grad()
        batch = {"image": images(), "mask": square * outlined, "draw": (16 * step + rows).tolist()}
        segmenter.training_loss(batch).backward()
        optimiser.step()
    drawn = segmenter.sample(images()[:2], 300, keys=["bright", "dark"])
    filled = ~empty(drawn)
    assert filled.float().mean(1)[:, 0].tolist() == pytest.approx([0.75, 0.25], abs=0.15)
    masks = (drawn.samples > 0.5)[filled].float()
    assert (2 * (masks * square).sum((1, 2)) / (masks + square).sum((1, 2))).mean() > 0.9


def test_a_checkpoint_keeps_the_head(tmp_path):
    segmenter = model()
    checkpoint = {"state_dict": segmenter.state_dict()}
    segmenter.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = MedSegDiffSegmenter.load_from_checkpoint(tmp_path / "last.ckpt").eval()
    assert torch.equal(again.sample(IMAGES, 3, keys=KEYS).samples, segmenter.sample(IMAGES, 3, keys=KEYS).samples)


def test_fine_tuning_fits_the_head_by_the_names_of_regions():
    source, target = (model(2, regions=names) for names in (("whole", "core"), ("core", "whole")))
    initialise(target, source)
    heads = [one.denoiser.presence.out.weight for one in (source, target)]
    assert torch.equal(heads[0], heads[1].flip(0))


def test_fine_tuning_adds_a_head_to_a_network_without_one():
    source = MedSegDiffSegmenter(small(MedSegDiffLite), image_size=(32, 32))
    target = model()
    before = target.denoiser.presence.out.weight.clone()
    found = initialise(target, source)
    assert found.left
    assert all(name.startswith("presence.") for name in found.left)
    assert torch.equal(target.denoiser.presence.out.weight, before)
