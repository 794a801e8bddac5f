"""The energy term, and training on the masks of all raters."""

from functools import partial

import pytest
import torch
from helpers.small_networks import small

from diffmedseg.metrics.functional import generalized_energy_distance
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter, MedSegDiffV1, SSNSegmenter, StochasticUNet
from diffmedseg.models.energy import energy_distance, soft_distances
from diffmedseg.models.targets import training_targets

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
MASKS = torch.stack([(IMAGES[:, :1] > level).float() for level in (-0.5, 0.0, 0.5, 1.0)], 1)  # the last is empty
LITE = partial(MedSegDiffLite, presence=True)


def batch(own=slice(None), raters=MASKS):
    valid, draws = torch.ones(raters.shape[:2], dtype=torch.bool)[own], list(range(len(raters)))[own]
    return {"image": IMAGES[own], "mask": raters[own, 0], "raters": raters[own], "rater_valid": valid, "draw": draws}


def segmenter(network=MedSegDiffLite, **options):
    return MedSegDiffSegmenter(small(network), image_size=(32, 32), num_steps=2, **options)


def masks(*sizes):
    """One image of masks: the first pixels of 4 x 100, in one region."""
    return torch.stack([(torch.arange(400).reshape(1, 4, 100) < size).float() for size in sizes])[None]


def test_the_term_of_masks_is_the_metric():
    """But for the one pixel that all have in common, which changes little in large masks."""
    samples, raters = (sets.repeat_interleave(20, 3) for sets in (masks(300, 200, 100, 0), masks(250, 150, 0)))
    expected = generalized_energy_distance(samples[0].bool(), raters[0].bool()).unbiased
    found = energy_distance(samples, raters, torch.ones(1, 3, dtype=torch.bool))
    assert found.item() == pytest.approx(expected.item(), abs=1e-3)


def test_equal_masks_have_no_distance_even_if_they_are_soft():
    soft = torch.rand(2, 3, 2, 8, 8)
    torch.testing.assert_close(soft_distances(soft, soft).diagonal(dim1=1, dim2=2), torch.zeros(2, 2, 3))


def test_the_term_is_unbiased_and_least_where_samples_have_the_raters_distribution():
    """Samples are one of three masks: all pairs by their probability give the mean of samples drawn at random."""
    kinds, raters, valid = masks(200, 90, 0), masks(200, 90, 0, 0), torch.ones(1, 4, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)

    def expected(chances):
        pairs = ((i, j, chances[i] * chances[j]) for i in range(3) for j in range(3))
        return sum(p * energy_distance(kinds[:, [i, j]], raters, valid) for i, j, p in pairs)

    right, wrong = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.5, 0.25, 0.25])
    assert expected(right).item() == pytest.approx(0, abs=1e-6)
    assert expected(wrong) > 0.05
    for number in (2, 5):
        drawn = torch.multinomial(wrong, 3000 * number, replacement=True, generator=generator).reshape(3000, number)
        found = energy_distance(kinds[0][drawn], raters.expand(3000, -1, -1, -1, -1), valid.expand(3000, -1))
        assert found.item() == pytest.approx(expected(wrong).item(), abs=0.03)


def test_the_expectation_over_presence_is_exact():
    """Each of two samples is empty or not: all four cases by their probability."""
    shapes, raters, valid = masks(200, 90), masks(150, 0, 0), torch.ones(1, 3, dtype=torch.bool)
    expected = torch.tensor(0.0)
    for present in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chance = 0.3 ** sum(present) * 0.7 ** (2 - sum(present))
        samples = shapes * torch.tensor(present)[:, None, None, None]
        expected = expected + chance * energy_distance(samples, raters, valid)
    torch.testing.assert_close(energy_distance(shapes, raters, valid, torch.tensor([[0.3]])), expected)


def test_descent_finds_how_many_raters_outline_nothing():
    shapes, raters, valid = masks(200, 200), masks(200, 0, 0, 0), torch.ones(1, 4, dtype=torch.bool)
    logit = torch.zeros(1, 1, requires_grad=True)
    optimiser = torch.optim.SGD([logit], lr=3)
    for _ in range(100):
        optimiser.zero_grad()
        energy_distance(shapes, raters, valid, logit.sigmoid()).backward()
        optimiser.step()
    assert logit.sigmoid().item() == pytest.approx(0.25, abs=0.01)


def test_a_faint_answer_to_an_empty_mask_has_a_gradient():
    samples = torch.full((1, 2, 1, 8, 8), 0.01, requires_grad=True)
    energy_distance(samples, torch.zeros(1, 2, 1, 8, 8), torch.ones(1, 2, dtype=torch.bool)).backward()
    assert (samples.grad.sum(1) > 0).all()


def test_padded_raters_do_not_count():
    samples, raters = masks(200, 90), masks(150, 70)
    padded, valid = masks(150, 70, 400), torch.tensor([[True, True, False]])
    torch.testing.assert_close(energy_distance(samples, padded, valid), energy_distance(samples, raters, valid[:, :2]))


@pytest.mark.parametrize("network", [MedSegDiffLite, LITE, partial(MedSegDiffLite, prior="samples")])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_energy_term_teaches_all_steps(network, steps):
    model, places = segmenter(network, energy_weight=1.0, energy_steps=steps), []
    forward = model.denoiser.forward

    def watched(x_t, t, condition):
        out = forward(x_t, t, condition)
        out.register_hook(lambda gradient: places.append((int(t[0]), bool(gradient.any()))))
        return out

    model.denoiser.forward = watched
    encoded = model.denoiser.encode(IMAGES)
    model._energy(batch(), encoded).backward()
    assert len(places) == steps
    assert all(taught for _, taught in places)
    assert model.denoiser.head[2].weight.grad.any()
    if encoded.presence is not None:
        assert model.denoiser.presence.out.weight.grad.any()


@pytest.mark.parametrize("options", [{"energy_weight": 1.0}, {"raters": "all"}])
@pytest.mark.parametrize("network", [MedSegDiffLite, LITE, StochasticUNet])
def test_losses_of_parts_average_to_that_of_the_batch(network, options):
    if network is StochasticUNet:
        model = SSNSegmenter(small(network), image_size=(32, 32), **options)
    else:
        model = segmenter(network, **options)
    whole = model.training_loss(batch())
    parts = torch.stack([model.training_loss(batch(slice(i, i + 1))) for i in range(3)])
    torch.testing.assert_close(parts.mean(), whole, rtol=1e-4, atol=1e-5)
    whole.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.denoiser.parameters())
    assert model.needs == ("mask", "raters")


def test_all_raters_share_one_run_of_the_condition_network():
    model, rows = segmenter(raters="all", noise_levels=2), []
    model.denoiser.condition.register_forward_hook(lambda *_: rows.append("again"))
    forward, encode = model.denoiser.forward, model.denoiser.encode
    model.denoiser.encode = lambda image: (rows.append(len(image)), encode(image))[1]
    model.denoiser.forward = lambda x_t, t, c: (rows.append(len(x_t)), forward(x_t, t, c))[1]
    model.training_loss(batch())
    assert rows == [3, 3 * 4 * 2]


def test_with_one_rater_all_is_the_same_as_one():
    losses = [segmenter(raters=raters).training_loss(batch(raters=MASKS[:, :1])) for raters in ("one", "all")]
    torch.testing.assert_close(*losses)


def test_each_image_counts_alike_however_many_raters_it_has():
    own = batch() | {"rater_valid": torch.tensor([[True] * 4, [True, True, False, False], [False, False, False, True]])}
    targets = training_targets(own, "all", skip_empty=False)
    weight = targets.weight.reshape(3, 4)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1, 1, 1], [2, 2, 0, 0], [0, 0, 0, 4]]))
    assert targets.present.flatten().tolist() == [0.75, 1.0, 0.0]
    assert torch.equal(training_targets(own, "one", skip_empty=True).present, targets.present)
    filled = training_targets(own, "all", skip_empty=True).weight.reshape(3, 4)
    torch.testing.assert_close(filled, torch.tensor([[1.0, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0]]))


def test_one_step_makes_a_mask_of_noise_and_is_trained_to():
    """Two raters outline the left half, two the right: one step of sampling learns to choose by its noise."""
    torch.manual_seed(0)
    network = MedSegDiffLite(1, 1, "tiny")
    model = MedSegDiffSegmenter(
        network, image_size=(16, 16), num_steps=1, prior_share=0.0, energy_weight=10.0, energy_samples=4
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    left, image = torch.zeros(1, 16, 16), torch.zeros(8, 1, 16, 16)
    left[..., :8] = 1
    raters = torch.stack([left, 1 - left])[None].expand(8, -1, -1, -1, -1)
    for step in range(120):
        rows = list(range(8 * step, 8 * step + 8))
        own = {
            "image": image,
            "mask": torch.stack([raters[i, row % 2] for i, row in enumerate(rows)]),
            "raters": raters,
            "rater_valid": torch.ones(8, 2, dtype=torch.bool),
            "draw": rows,
        }
        optimiser.zero_grad()
        model.training_loss(own).backward()
        optimiser.step()
    samples = (model.sample(image[:1], 64, keys=["a"]).samples[0] > 0.5).float()
    distance = soft_distances(samples[None], raters[:1])[0, :, :, 0]  # to the left half and to the right
    assert 0.2 < (distance[:, 0] < distance[:, 1]).float().mean() < 0.8
    assert distance.amin(1).mean() < 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"raters": "every"}, "every"),
        ({"energy_weight": -1.0}, "energy_weight is -1"),
        ({"energy_samples": 1}, "give at least 2"),
        ({"energy_steps": 0}, "energy_steps is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        MedSegDiffSegmenter(small(MedSegDiffV1), image_size=(32, 32), **options)
