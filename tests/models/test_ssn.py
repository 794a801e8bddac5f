import math

import pytest
import torch
from helpers.small_networks import small

from diffmedseg.models import (
    Condition,
    Denoiser,
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    SSNSegmenter,
    StochasticUNet,
)
from diffmedseg.models.drawing import sample_generators
from diffmedseg.models.finetuning import initialise
from diffmedseg.models.low_rank_normal import (
    LowRankNormal,
    NormalNoise,
    choose_likely,
    log_likelihoods,
    monte_carlo_loss,
)

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
SHAPE = (2, 2, 3)  # regions, height, width
RANK = 3


def some_normal(batch=2):
    generator = torch.Generator().manual_seed(1)
    mean, factors, deviation = (
        torch.randn(batch, *shape, generator=generator) for shape in (SHAPE, (RANK, *SHAPE), SHAPE)
    )
    return LowRankNormal(mean, factors, deviation.abs())


def covariance(normal):
    factors = normal.factors.flatten(2)
    return factors.mT @ factors + torch.diag_embed(normal.deviation.flatten(1).square())


def generators(batch, samples):
    return [[torch.Generator().manual_seed(100 * b + s) for s in range(samples)] for b in range(batch)]


def keyed_batch(rows, first=0):
    own = slice(first, first + rows)
    return {"image": IMAGES[own], "mask": (IMAGES[own, :1] > 0).float(), "draw": list(range(first, first + rows))}


def test_samples_are_linear_in_the_noise_with_the_covariance_of_the_definition():
    """Unit vectors of noise give the columns of a matrix A, and A A^T is the covariance."""
    normal, size = some_normal(), math.prod(SHAPE)
    unit = torch.eye(RANK + size).expand(2, -1, -1)
    noise = NormalNoise(unit[..., :RANK], unit[..., RANK:].unflatten(-1, SHAPE))
    columns = (normal.sample(noise) - normal.mean[:, None]).flatten(2)
    torch.testing.assert_close(columns.mT @ columns, covariance(normal))


def test_keyed_samples_have_the_mean_and_covariance_of_the_distribution():
    normal = some_normal(1)
    logits = normal.sample(NormalNoise.draw(generators(1, 20_000), normal))[0].flatten(1)
    torch.testing.assert_close(logits.mean(0), normal.mean[0].flatten(), atol=0.06, rtol=0)
    torch.testing.assert_close(logits.T.cov(), covariance(normal)[0], atol=0.2, rtol=0.05)


def test_noise_is_bit_for_bit_that_of_the_sample_alone():
    normal = some_normal()
    whole = NormalNoise.draw(generators(2, 3), normal)
    alone = NormalNoise.draw([generators(2, 3)[1][2:]], normal)
    assert torch.equal(whole.latents[1, 2], alone.latents[0, 0])
    assert torch.equal(whole.pixels[1, 2], alone.pixels[0, 0])
    pairs = whole.with_opposites()
    assert torch.equal(pairs.latents, torch.cat([whole.latents, -whole.latents], 1))
    assert torch.equal(pairs.pixels, torch.cat([whole.pixels, -whole.pixels], 1))


def test_loss_is_the_likelihood_by_brute_force():
    generator = torch.Generator().manual_seed(2)
    logits, mask = torch.randn(2, 5, *SHAPE, generator=generator), torch.rand(2, *SHAPE, generator=generator).round()
    pixel = torch.where(mask[:, None] == 1, logits.sigmoid(), 1 - logits.sigmoid())  # p(y_i | logit_i)
    likelihood = pixel.double().prod(-1).prod(-1).prod(-1).mean(1)
    expected = -likelihood.log().mean() / math.prod(SHAPE)
    torch.testing.assert_close(monte_carlo_loss(log_likelihoods(logits, mask), mask[0].numel()).double(), expected)


def test_a_likelihood_too_small_for_a_float_has_a_loss_and_a_gradient():
    """exp(-65,536) is zero in every floating-point type."""
    logits = torch.full((1, 2, 1, 256, 256), -1.0, requires_grad=True)
    loss = monte_carlo_loss(log_likelihoods(logits, torch.ones(1, 1, 256, 256)), 256 * 256)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log1p(math.e)))
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad < 0).all()


def test_log_likelihoods_tell_which_sample_is_the_raters():
    mask = torch.tensor([[[[1.0, 0.0]]]])
    found = log_likelihoods(torch.stack([mask * 2 - 1, 1 - mask * 2], 1), mask)
    torch.testing.assert_close(found, torch.tensor([[-2 * math.log1p(math.exp(-1)), -2 * math.log1p(math.e)]]))


def test_samples_are_chosen_in_proportion_to_their_likelihood_each_of_its_own_image():
    logits = torch.tensor([[-1.0, 0.0, 2.0], [5.0, 6.0, 7.0]]).reshape(2, 3, 1, 1, 1)
    mask, [keyed] = torch.ones(2, 1, 1, 1), generators(1, 2 * 4000)
    chosen = choose_likely(logits, log_likelihoods(logits, mask), keyed).reshape(2, 4000)
    for own, image in zip(chosen, logits.reshape(2, 3), strict=True):
        frequency = (own == image[:, None]).float().mean(1)
        torch.testing.assert_close(frequency, image.sigmoid() / image.sigmoid().sum(), atol=0.03, rtol=0)


def test_a_chain_stands_on_a_keyed_sample_of_the_prior():
    """An untrained step network adds nothing: chains are samples of the prior, and training sees the likely one."""
    torch.manual_seed(0)
    network = MedSegDiffLite(3, 1, "tiny", prior="samples")
    torch.nn.init.normal_(network.covariance.factors.weight, std=3.0)
    model = MedSegDiffSegmenter(network, image_size=(32, 32), num_steps=3).eval()
    samples, again = model.segment(IMAGES, 3, keys=list("abcd")), model.segment(IMAGES[1:2], 2, keys=["b"])
    torch.testing.assert_close(samples.samples[1:2, :2], again.samples, atol=1e-4, rtol=0)
    normal = network.encode(IMAGES).normal
    noise = NormalNoise.draw(sample_generators(model.seed, list("abcd"), range(3)), normal)
    torch.testing.assert_close(samples.samples, normal.sample(noise).detach().sigmoid(), atol=1e-4, rtol=0)
    modes = samples.binary_samples[:, 0].float()
    loss = [model.training_loss(keyed_batch(4) | {"mask": mask}) for mask in (modes, modes.roll(1, 0))]
    assert loss[0] < loss[1]


@pytest.mark.parametrize("options", [{"prior": "median"}, {"prior": "samples", "residual": False}])
def test_a_prior_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="prior"):
        MedSegDiffLite(3, 1, "tiny", **options)


class Maps(Denoiser):
    """A distribution whose maps are learned themselves, whatever the image."""

    def __init__(self, size=8, rank=2):
        super().__init__(1, 1)
        generator = torch.Generator().manual_seed(0)
        self.mean = torch.nn.Parameter(torch.zeros(1, 1, size, size))
        self.factors = torch.nn.Parameter(0.1 * torch.randn(1, rank, 1, size, size, generator=generator))
        self.log_deviation = torch.nn.Parameter(torch.full((1, 1, size, size), -2.3))

    def encode(self, image):
        maps = (self.mean, self.factors, self.log_deviation.exp())
        mean, factors, deviation = (one.expand(len(image), *one.shape[1:]) for one in maps)
        return Condition((), mean, LowRankNormal(mean, factors, deviation))

    def forward(self, x_t, t, condition, label=None):
        return condition.prior


def test_two_raters_who_disagree_on_a_block_become_samples_with_all_or_nothing_of_it():
    """As many samples have the block as raters; pixels by themselves would have a half of it in every sample."""
    model = SSNSegmenter(Maps(), image_size=(8, 8), channels_last=False)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    core, block = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    core[:, 2:6, 1:3], block[:, 2:6, 3:7] = 1, 1
    draws = torch.Generator().manual_seed(0)
    for step in range(150):
        full = torch.rand(8, 1, 1, 1, generator=draws) < 0.5
        batch = {
            "image": torch.zeros(8, 1, 8, 8),
            "mask": core + block * full,
            "draw": list(range(8 * step, 8 * step + 8)),
        }
        optimiser.zero_grad()
        model.training_loss(batch).backward()
        optimiser.step()
    samples = model.segment(torch.zeros(1, 1, 8, 8), 400).binary_samples[0].float()
    share = samples[:, block.bool()].mean(1)
    assert (share > 0.9).float().mean() > 0.35
    assert (share < 0.1).float().mean() > 0.35
    assert ((share > 0.25) & (share < 0.75)).float().mean() < 0.1
    assert samples[:, core.bool()].mean() > 0.8
    assert samples[:, (core + block) == 0].mean() < 0.2


def test_microbatches_give_the_full_batchs_loss(ssn):
    whole = ssn.training_loss(keyed_batch(4))
    parts = torch.stack([ssn.training_loss(keyed_batch(2, first)) for first in (0, 2)])
    torch.testing.assert_close(parts.mean(), whole)
    assert ssn.training_loss(keyed_batch(4) | {"draw": [4, 5, 6, 7]}) != whole


def test_every_weight_has_a_gradient_from_the_likelihood(ssn):
    ssn.training_loss(keyed_batch(4)).backward()
    assert not [name for name, p in ssn.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("scale", [1, 1e3])
def test_half_precision_and_large_covariances_stay_finite(ssn, scale):
    """A background whose covariance nothing holds back made the released code's covariances singular."""
    with torch.no_grad():
        for head in (ssn.denoiser.covariance.factors, ssn.denoiser.covariance.deviation):
            head.weight *= scale
            head.bias += scale
    with torch.autocast("cpu", torch.bfloat16):
        loss = ssn.training_loss(keyed_batch(4))
        samples = ssn.segment(IMAGES, keys=list("abcd")).samples
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.dtype == samples.dtype == torch.float32
    assert torch.isfinite(samples).all()
    assert all(torch.isfinite(p.grad).all() for p in ssn.parameters())


def test_samples_start_near_the_mean_and_differ():
    torch.manual_seed(0)
    with torch.no_grad():
        normal = StochasticUNet(3, 1, "tiny").encode(IMAGES).normal
    logits = normal.sample(NormalNoise.draw(generators(4, 8), normal))
    assert 0.05 < (logits - normal.mean[:, None]).std() < 0.3


def test_the_probability_is_the_mean_of_samples_and_the_prior_their_median(ssn):
    result = ssn.segment(IMAGES[:1], 2000, keys=["a"])
    torch.testing.assert_close(result.probability, result.samples.mean(1))
    torch.testing.assert_close(result.prior, result.samples.median(1).values, atol=0.05, rtol=0)
    again = ssn.segment(IMAGES[:1], 2000, num_steps=7, keys=["a"])
    assert torch.equal(again.samples, result.samples)


def test_covariances_are_fitted_by_the_names_of_regions():
    torch.manual_seed(0)
    source, model = (
        SSNSegmenter(small(StochasticUNet, 1, 2), image_size=(32, 32), regions=regions)
        for regions in (("whole", "core"), ("core", "whole"))
    )
    for parameter in source.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    initialise(model, source)
    theirs, own = (one.denoiser.eval().encode(IMAGES[:1, :1]).normal for one in (source, model))
    torch.testing.assert_close(own.factors, theirs.factors[:, :, [1, 0]])
    torch.testing.assert_close(own.deviation, theirs.deviation[:, [1, 0]])


def test_what_cannot_be_is_refused(ssn):
    with pytest.raises(ValueError, match="MedSegDiffV1 gives no distribution of masks: use StochasticUNet"):
        SSNSegmenter(small(MedSegDiffV1), image_size=(32, 32)).segment(IMAGES[:1])
    with pytest.raises(ValueError, match="mc_samples is 5"):
        SSNSegmenter(ssn.denoiser, mc_samples=5)
    with pytest.raises(ValueError, match="rank is 0"):
        StochasticUNet(3, 1, "tiny", rank=0)
    assert MedSegDiffSegmenter(small(MedSegDiffV1)).denoiser.encode(IMAGES).normal is None
