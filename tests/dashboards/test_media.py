import numpy as np
import pytest
import torch
from PIL import Image

from diffmedseg.callbacks.panels import LargestSlices
from diffmedseg.dashboards.media import Picture, case_table, overlay
from diffmedseg.metrics.scores import CaseScore


def picture(height=8, width=8, channels=3, regions=1, samples=2):
    ramp = torch.linspace(-1, 1, width).expand(channels, height, width).clone()
    mask = torch.zeros(regions, height, width, dtype=torch.bool)
    for k in range(regions):
        mask[k, k : height - k, k : width - k] = True
    return Picture("a", ramp, mask, ~mask, mask[None].repeat(samples, 1, 1, 1), mask.float() * 0.5)


def read(shown, name):
    with Image.open(shown._masks[name]._path) as image:
        return np.asarray(image)


def test_masks_are_classes_and_the_innermost_region_shows():
    shown = overlay(picture(regions=3), ["whole", "core", "enhancing"], 256)
    reference = read(shown, "reference")
    assert [reference[i, i] for i in range(4)] == [1, 2, 3, 3]
    assert shown._masks["reference"]._val["class_labels"] == {0: "background", 1: "whole", 2: "core", 3: "enhancing"}
    assert read(shown, "disagreement").max() == 4  # evenly split
    assert {*shown._masks} == {"reference", "fused", "sample_1", "sample_2", "disagreement"}


def test_a_single_sample_does_not_disagree():
    assert {*overlay(picture(samples=1), ["lesion"], 256)._masks} == {"reference", "fused", "sample_1"}


def test_many_samples_are_not_all_shown():
    assert "sample_5" not in overlay(picture(samples=9), ["lesion"], 256)._masks


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_those_of_the_image(channels):
    shown = overlay(picture(channels=channels), ["lesion"], 256).image
    assert (shown.size, shown.mode) == ((8, 8), "RGB")
    assert np.asarray(shown)[0, [0, -1], 0].tolist() == [0, 255]


def test_large_pictures_are_shrunk_with_their_masks():
    shown = overlay(picture(100, 200), ["lesion"], 50)
    assert shown.image.size == (50, 25)
    for name in shown._masks:
        assert read(shown, name).shape == (25, 50)
    assert set(np.unique(read(shown, "reference"))) <= {0, 1}


def test_the_table_leaves_out_what_no_case_has():
    first = CaseScore("a", "lesion", 0.5, 0.4, False, 1, 2, 1, nsd=1.0)
    rows = [first, CaseScore("b", "lesion", 1.0, 1.0, True, 1, 2, 1)]
    table = case_table(rows)
    assert "hd95" not in table.columns
    assert [row[table.columns.index("nsd")] for row in table.data] == [1.0, None]
    assert [row[table.columns.index("both_empty")] for row in table.data] == [False, True]


def test_slices_shown_are_the_largest_one_of_each_case_or_several_where_cases_are_few():
    shown = LargestSlices(3)
    for index, area in enumerate([0, 5, 9, 5, *[1] * 12, 7]):
        shown.offer("a", index, area, ("a", index))
    shown.offer("b", 0, 1, ("b", 0))
    assert shown.chosen() == [("a", 2), ("a", 16), ("b", 0)]
    for case in "cd":
        assert shown.wants(case) == (case == "c")
        if shown.wants(case):
            shown.offer(case, 0, 1, (case, 0))
    assert shown.chosen() == [("a", 2), ("b", 0), ("c", 0)]
