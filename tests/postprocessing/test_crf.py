import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffmedseg.postprocessing.crf import CRFSettings, DenseCRF, RandomSubsetCRF, crf_marginals

pydensecrf = pytest.importorskip("pydensecrf.densecrf")


def disc(size=48, radius=12, x=0):
    grid = torch.arange(size) - size / 2 + 0.5
    return (grid[:, None] ** 2 + (grid[None] - x) ** 2 < radius**2).float()


def photo(truth, channels=3, seed=0):
    noise = 0.05 * torch.randn(channels, *truth.shape, generator=torch.Generator().manual_seed(seed))
    return (0.5 - truth + noise).clamp(-1, 1)


def blurred(mask):
    return F.avg_pool2d(mask[None], 13, 1, 6).clamp(0, 1)


def dice(a, b):
    return float(2 * ((a > 0.5) & (b > 0.5)).sum() / ((a > 0.5).sum() + (b > 0.5).sum()))


SMALL = CRFSettings(bilateral_xy=20)


def test_it_is_what_pydensecrf_gives_for_colour_pictures():
    """Its own two-dimensional class, with the settings of DiffSeg's code."""
    truth = disc()
    image, probability = photo(truth), blurred(truth)
    field = pydensecrf.DenseCRF2D(48, 48, 2)
    classes = torch.cat([1 - probability, probability]).clamp(min=1e-5)
    field.setUnaryEnergy(np.ascontiguousarray(-classes.log().flatten(1).numpy()))
    field.addPairwiseGaussian(sxy=3, compat=3)
    colours = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous()
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=colours.numpy(), compat=10)
    expected = torch.from_numpy(np.array(field.inference(5))[1].reshape(48, 48))
    found = crf_marginals(image, probability, CRFSettings())[0]
    assert ((found > 0.5) == (expected > 0.5)).float().mean() > 0.998
    assert (found - expected).abs().mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_masks_are_drawn_to_the_edges(channels):
    truth = disc(radius=14)
    coarse = F.interpolate(blurred(disc(radius=11))[None], (12, 12), mode="area")[0]  # a smaller grid
    before = F.interpolate(coarse[None], (48, 48), mode="bilinear")[0, 0]
    after = crf_marginals(photo(truth, channels), coarse, SMALL)[0]
    assert dice(after, truth) > 0.97 > dice(before, truth)


def test_a_map_that_is_no_probability_is_refused():
    for bad in (blurred(disc()) * 255, blurred(disc()) - 0.1, blurred(disc()) * float("nan")):
        with pytest.raises(ValueError, match=r"has to be in \[0, 1\]"):
            crf_marginals(photo(disc()), bad, SMALL)


def test_nested_regions_stay_nested():
    outer, inner = disc(radius=16), disc(radius=8)
    image = photo(outer + 0.7 * inner)
    found = crf_marginals(image, torch.cat([blurred(outer), blurred(inner)]), SMALL, nested=True)
    assert (found[0] >= found[1] - 1e-6).all()
    assert dice(found[0], outer) > 0.95
    assert dice(found[1], inner) > 0.9
    assert 0 <= found.min() <= found.max() <= 1


def test_exclusive_regions():
    left, right = disc(radius=9, x=-12), disc(radius=9, x=12)
    found = crf_marginals(photo(left - right), torch.cat([blurred(left), blurred(right)]), SMALL)
    assert dice(found[0], left) > 0.93
    assert dice(found[1], right) > 0.93
    assert (found.sum(0) <= 1 + 1e-5).all()


def test_large_images_are_shrunk_and_deviations_may_scale():
    truth = disc(96, 28)
    found = crf_marginals(photo(truth), blurred(truth), CRFSettings(longest=48, bilateral_xy=20))
    assert found.shape == (1, 48, 48)
    half = crf_marginals(
        photo(disc(48)), blurred(disc(48)), CRFSettings(bilateral_xy=40, smooth_xy=6, reference_size=96)
    )
    same = crf_marginals(photo(disc(48)), blurred(disc(48)), CRFSettings(bilateral_xy=20, smooth_xy=3))
    assert torch.equal(half, same)


def samples():
    drawn = torch.stack([blurred(disc(radius=r)) for r in (10, 12, 13, 14, 16)]).clamp(0, 1)
    return drawn[None].expand(2, -1, -1, -1, -1)


def refined(scheme, images=2, keys=("a", "b")):
    drawn = samples()[:images]
    photos = photo(disc(radius=13)).expand(images, -1, -1, -1)
    return scheme(photos, drawn, drawn.mean(1), False, keys)


@pytest.mark.parametrize("scheme", [DenseCRF(SMALL), RandomSubsetCRF(settings=SMALL)])
def test_schemes_refine_a_batch(scheme):
    after = refined(scheme)
    assert after.shape == samples().mean(1).shape
    assert dice(after[0, 0], disc(radius=13)) > 0.95
    assert torch.equal(refined(type(scheme)(settings=SMALL)), after)


def test_subsets_are_keyed_and_averaged():
    scheme = RandomSubsetCRF(rounds=1, subset=2, settings=SMALL)
    results = {key: refined(scheme, 1, [key]) for key in "abcdef"}
    assert torch.equal(refined(scheme, 1, ["a"]), results["a"])
    assert any(not torch.equal(results["a"], other) for other in results.values())
    everything = RandomSubsetCRF(rounds=2, subset=99, settings=SMALL)
    torch.testing.assert_close(refined(everything, 1, ["a"]), refined(DenseCRF(SMALL), 1, ["a"]))


def test_processes_give_the_same():
    alone, shared = (refined(RandomSubsetCRF(settings=SMALL, processes=n)) for n in (0, 2))
    assert torch.equal(alone, shared)
