import torch

from diffmedseg.metrics.extent import vertical_extent, vertical_ratios


def box(top, bottom, left=3, right=9):
    mask = torch.zeros(20, 16, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_extent_counts_rows_and_bridges_gaps():
    masks = torch.stack([box(4, 14), box(0, 1), box(19, 20), box(0, 20), box(5, 5), box(2, 4) | box(10, 12)])
    assert vertical_extent(masks).tolist() == [10, 1, 1, 20, 0, 10]


def test_cup_to_disc():
    disc, cup, empty = box(4, 14), box(6, 11), box(0, 0)
    pairs = torch.stack([torch.stack([disc, cup]), torch.stack([disc, empty]), torch.stack([empty, empty])])
    ratios = vertical_ratios(pairs)
    assert ratios[:, 0].isnan().all()
    assert ratios[:2, 1].tolist() == [0.5, 0]
    assert ratios[2, 1].isnan()
