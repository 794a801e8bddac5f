"""Figures: whatever the names, nothing overlaps or is cut, and each line has its own look."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from diffmedseg.callbacks.panels import draw_panel
from diffmedseg.evaluation.figures import Example, draw_examples
from diffmedseg.figures import (
    COLOURS,
    INNER,
    MASK,
    OUTER,
    REFERENCE,
    SAMPLE,
    UNSURE,
    draw_legend,
    fit,
    label_row,
    legend_of,
    set_title,
    text_width,
)
from diffmedseg.prediction.pictures.panel import draw_overlay
from diffmedseg.segmentation import Segmentation

REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    """Return the texts of a figure with the rectangles that they take."""
    found = [text for axis in figure.axes for text in (axis.title, axis.xaxis.label, axis.yaxis.label)]
    found += [text for legend in figure.legends for text in (*legend.get_texts(), legend.get_title())]
    return {text.get_text(): text.get_window_extent() for text in found if text.get_text()}


def check_nothing_is_cut(figure):
    drawn(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in texts(figure).items():
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text  # noqa: PT018
    titles = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
    for one, other in combinations(titles, 2):
        assert not one.overlaps(other)
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axis.get_window_extent()) for axis in figure.axes)


@pytest.mark.parametrize(("height", "fontsize"), [(1.65, 6), (2.05, 8)])
@pytest.mark.parametrize("name", ["ISIC_0012345", "LIDC-IDRI-0001_slice-8", "a" * 70, "worst: long\nDice 0.12"])
def test_a_name_of_any_length_stays_beside_its_row(height, fontsize, name):
    figure = Figure(figsize=(6, 3 * height), layout="constrained")
    for axis in figure.subplots(3, 1):
        label_row(axis, name, height - 0.15, fontsize)
    drawn(figure)
    rows = [axis.yaxis.label.get_window_extent() for axis in figure.axes]
    for above, below in pairwise(rows):
        assert below.y1 < above.y0
    assert "".join(figure.axes[0].get_ylabel().split()) == "".join(name.split())


@settings(max_examples=50)
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=80), st.floats(0.5, 4))
def test_lines_are_broken_to_fit_and_nothing_is_lost(text, inches):
    broken = fit(text, inches, 8)
    assert "".join(broken.split()) == "".join(text.split())
    assert text_width(broken, 8) <= inches


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_titles_of_any_length_fit_any_number_of_columns(columns):
    figure = Figure(figsize=(1.3 * columns, 2.5), layout="constrained")
    for axis in figure.subplots(1, columns, squeeze=False).flat:
        axis.set(xticks=[], yticks=[])
        set_title(axis, "train: TCGA_CS_4941_19960909_12 $x_1$ of a patient", 1.2, 5)
    draw_legend(figure, legend_of([(REFERENCE, "reference, each rater"), (MASK, "mask")], REGIONS))
    check_nothing_is_cut(figure)


def soft(samples, regions, size=(24, 24)):
    values = torch.rand(samples, regions, *size, generator=torch.Generator().manual_seed(0))
    values[..., 6:18, 6:18] += 0.6
    return values.clamp(0, 1)


@pytest.mark.parametrize(("samples", "regions"), [(1, REGIONS[:1]), (3, REGIONS)])
def test_panels_of_a_test_name_every_line_and_region(samples, regions):
    maps = soft(samples, len(regions))
    mean = maps.mean(0)
    row = "case", torch.zeros(3, 24, 24), (maps[:1] > 0.5).float(), Segmentation(maps, mean, mean / 2, mean > 0.5)
    example = Example(row[1], row[2], mean, mean / 2, mean > 0.5)
    for figure in (draw_panel([row], 4, regions), draw_examples([("worst: case\nDice 0.10", example)], regions)):
        check_nothing_is_cut(figure)
        said = " ".join(texts(figure))
        for region in regions if len(regions) > 1 else ():
            assert region.replace("_", " ") in said
        assert "reference, each rater" in said
        assert "mask" in said


@pytest.mark.parametrize(
    ("size", "fitted", "regions"),
    [((20, 100), True, REGIONS), ((48, 48), False, REGIONS[:1]), ((100, 20), True, REGIONS)],
)
def test_overlays_of_any_shape_name_every_line_and_region(size, fitted, regions):
    from PIL import Image

    maps = soft(3, len(regions), size)[None]
    mean = maps.mean(1)
    contours = (mean > 0.7, mean > 0.3) if fitted else (None, None)
    result = Segmentation(maps, mean, mean / 2, mean > 0.5, inner=contours[0], outer=contours[1])
    figure = draw_overlay(Image.new("RGB", size[::-1]), result, regions, "picture")
    check_nothing_is_cut(figure)
    said = " ".join(" ".join(texts(figure)).split())
    for text in ("each sample, behind the mask", *(region.replace("_", " ") + "," for region in regions)):
        assert text in said
    assert ("inner contour" in said) == ("outer contour" in said) == fitted


def test_no_two_kinds_of_lines_look_alike():
    looks = [(line.colour, line.style) for line in (MASK, SAMPLE, REFERENCE, UNSURE, INNER, OUTER)]
    assert len(set(looks)) == len(looks)
    assert len({line.colour for line in (MASK, SAMPLE, REFERENCE)}) == 3
    several = [MASK.colour_of(k, 3) for k in range(3)] + [SAMPLE.colour_of(k, 3) for k in range(3)]
    assert len(set(several)) == 6


#: Machado, Oliveira & Fernandes (2009), table 1, severity 1.0, for linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("colours", [COLOURS, (MASK.colour, SAMPLE.colour, REFERENCE.colour)])
def test_the_colour_blind_can_tell_colours_apart(kind, colours):
    linear = torch.tensor([to_rgb(colour) for colour in colours], dtype=torch.float64) ** 2.2
    seen = (linear @ torch.tensor(BLINDNESS[kind], dtype=torch.float64).T).clamp(0, 1) ** (1 / 2.2)
    apart = [float((one - other).norm()) for one, other in combinations(seen, 2)]
    assert min(apart) > 0.2  # of sqrt(3), black to white
