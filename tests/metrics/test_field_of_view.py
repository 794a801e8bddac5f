import numpy as np
import pytest
import torch

from diffmedseg.metrics.cases import score_cases
from diffmedseg.metrics.images import score_image


def test_nothing_outside_the_field_of_view_counts():
    """As if the picture were cut to it."""
    generator = torch.Generator().manual_seed(0)
    probability, samples = torch.rand(1, 20, 30, generator=generator), torch.rand(3, 1, 20, 30, generator=generator)
    reference = (torch.rand(2, 1, 20, 30, generator=generator) > 0.6).to(torch.uint8)
    seen = torch.zeros(20, 30, dtype=torch.bool)
    seen[3:15, 5:22] = True
    part = (..., slice(3, 15), slice(5, 22))
    inside = score_image("a", probability, samples, reference, 0.5, 0.0, field_of_view=seen)
    cut = score_image("a", probability[part], samples[part], reference[part], 0.5, 0.0)
    [a], [b] = (score_cases([image], ("vessels",)) for image in (inside, cut))
    for name in ("dice", "iou", "brier", "nll", "ged_unbiased", "diversity", "uncertainty", "rater_correlation"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-6)
    torch.testing.assert_close(inside.reliability[0], cut.reliability[0])
    everything = score_image("a", probability, samples, reference, 0.5, 0.0)
    assert everything.counts.sum() > inside.counts.sum()


def test_the_density_of_vessels_is_taken_inside_the_field_of_view():
    """Of the fused mask, the reference (the first of two raters) and the samples."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.rand(9, 1, 20, 30, generator=generator)
    reference = (torch.rand(2, 1, 20, 30, generator=generator) > 0.7).to(torch.uint8)
    seen = torch.zeros(20, 30, dtype=torch.bool)
    seen[3:15, 5:22] = True
    for field_of_view, inside in ((seen, seen), (None, seen | True)):
        image = score_image("a", samples.mean(0), samples, reference, 0.5, 0.0, field_of_view=field_of_view)
        [row] = score_cases([image], ["vessels"], tubular=True)
        drawn = [(sample[0][inside] > 0.5).float().mean().item() for sample in samples]
        assert row.density == pytest.approx((samples.mean(0)[0][inside] > 0.5).float().mean().item())
        assert row.density_reference == pytest.approx(reference[0, 0][inside].float().mean().item())
        assert (row.density_low, row.density_high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])))
        [other] = score_cases([image], ["lesion"])
        assert all(np.isnan(getattr(other, f"density{name}")) for name in ("", "_reference", "_low", "_high"))
