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
