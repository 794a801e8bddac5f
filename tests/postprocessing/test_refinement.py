import torch

from diffmedseg.postprocessing.refinement import LargestComponent, Refinement


def spots():
    """A ring, a smaller spot beside it, and faint ground: (1, 1, 12, 20)."""
    probability = torch.full((1, 1, 12, 20), 0.2)
    probability[..., 2:9, 2:9] = 0.9
    probability[..., 4:7, 4:7] = 0.3
    probability[..., 4:6, 14:17] = 0.95
    return probability


def refine(refinement, probability, nested=False):
    image = torch.zeros(len(probability), 3, *probability.shape[-2:])
    return refinement(image, probability[:, None], probability, nested, ["a"] * len(probability))


def test_the_largest_part_is_kept_and_filled():
    before = spots()
    after = refine(LargestComponent(), before)
    assert (after[..., 4:6, 14:17] == 0).all()
    assert (after[..., 4:7, 4:7] == 1).all()
    untouched = torch.ones_like(before, dtype=torch.bool)
    untouched[..., 4:6, 14:17] = untouched[..., 4:7, 4:7] = False
    assert torch.equal(after[untouched], before[untouched])
    assert torch.equal(refine(LargestComponent(), after), after)


def test_an_empty_mask_stays_empty():
    faint = torch.full((2, 2, 8, 8), 0.4)
    assert torch.equal(refine(LargestComponent(), faint), faint)


def test_what_comes_first_is_refined_first():
    class Inverse(Refinement):
        def refine(self, image, samples, probability, nested, key):
            return 1 - probability

    after = refine(LargestComponent(Inverse()), spots())
    assert torch.equal(after, refine(LargestComponent(), 1 - spots()))


def test_regions_stay_nested():
    outer, inner = torch.full((1, 1, 8, 16), 0.9), torch.full((1, 1, 8, 16), 0.2)
    outer[..., 6:8] = 0.1  # the outer region keeps its right part, the inner one lies in the left
    inner[..., 1:5] = 0.8
    after = refine(LargestComponent(), torch.cat([outer, inner], 1), nested=True)
    assert (after[:, 1] <= after[:, 0]).all()
