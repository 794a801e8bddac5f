"""What is drawn of a scene, and what the page says of it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.scenes import scene
from hypothesis import given, strategies as st
from matplotlib.colors import to_rgb

from diffmedseg.app import page
from diffmedseg.app.views import (
    DISAGREEMENT,
    IMAGE,
    LAYERS,
    MASK,
    PROBABILITY,
    SAMPLE,
    Look,
    draw_plane,
    largest_planes,
)
from diffmedseg.figures import COLOURS

ORANGE = np.array(to_rgb(COLOURS[0])) * 255


def test_opacity_0_leaves_the_inside_and_1_covers_it():
    picture = scene((1, 20, 30), spacing=None)
    plain = draw_plane(picture, Look(IMAGE))
    height, width = plain.shape[:2]
    inside = (slice(height * 7 // 20, height * 9 // 20), slice(width * 13 // 30, width * 16 // 30))
    clear = draw_plane(picture, Look(MASK, opacity=0, contours=False))
    full = draw_plane(picture, Look(MASK, opacity=1, contours=False))
    assert np.array_equal(clear[inside], plain[inside])
    assert np.abs(full[inside] - ORANGE).max() < 1
    outside = (slice(0, height // 8), slice(None))
    assert np.array_equal(full[outside], plain[outside])


def test_planes_have_square_pixels_and_the_head_is_up():
    volume = scene((4, 20, 30), spacing=(10.0, 1.0, 1.0))
    axial, coronal = (draw_plane(volume, Look(IMAGE), plane, 1) for plane in ("axial", "coronal"))
    assert axial.shape[1] / axial.shape[0] == pytest.approx(30 / 20, abs=0.01)
    assert coronal.shape[1] / coronal.shape[0] == pytest.approx(30 / 40, abs=0.01)
    top = np.zeros((4, 20, 30), np.uint8)
    top[-1] = 255  # slices count from the feet
    coronal = draw_plane(replace(volume, images={"flair": top}), Look(IMAGE), "coronal", 5)
    assert coronal[: len(coronal) // 8].min() > 200
    assert coronal[-len(coronal) // 8 :].max() < 50


def test_the_threshold_moves_the_mask_and_its_own_value_is_the_models_mask():
    volume = scene()
    assert volume.mask_at(0.43) is volume.mask  # what the slider's steps make of 0.4331
    assert not volume.mask_at(0.9).any()
    assert volume.mask_at(0.05).all()
    assert volume.size_at(0, 0.43) == volume.sizes["lesion"].value
    assert volume.size_at(0, 0.05) == volume.mask[0].size


def test_each_sample_is_drawn_in_every_plane():
    volume = scene(samples=3)
    for plane in ("axial", "coronal", "sagittal"):
        position = {"axial": 1, "coronal": 10, "sagittal": 14}[plane]
        first, last = (draw_plane(volume, Look(SAMPLE, sample=s, contours=False), plane, position) for s in (0, 2))
        assert plane == "axial" or first.shape == last.shape
        beyond = draw_plane(volume, Look(SAMPLE, sample=99, contours=False), plane, position)
        assert np.array_equal(beyond, last)
    axial = [draw_plane(volume, Look(SAMPLE, sample=s, opacity=1, contours=False)) for s in (0, 2)]
    covered = [(np.abs(one - ORANGE).max(-1) < 2).sum() for one in axial]
    assert covered[0] < covered[1]


@given(
    st.sampled_from(LAYERS), st.sampled_from(["axial", "coronal", "sagittal"]), st.integers(-3, 99),
    st.sampled_from([None, 0, 1]), st.floats(0, 1), st.integers(-5, 50), st.floats(0.01, 0.99), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_whatever_the_sliders_say_something_is_drawn(
    layer, plane, position, region, opacity, sample, threshold, contours, fitted
):
    volume = scene(regions=("disc", "cup"), contours=fitted)
    look = Look(layer, "nothing", region, opacity, sample, threshold, contours)
    drawn = draw_plane(volume, look, plane, position)
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3
    assert max(drawn.shape) >= 480
    html = page.views({"m": (volume, look)}, dict.fromkeys(("axial", "coronal", "sagittal"), position))
    assert html.count("<img") == 3


def test_soft_layers_show_nothing_where_they_are_0():
    volume = replace(scene(contours=False), disagreement=np.zeros((1, 4, 20, 30), np.uint8))
    plain, drawn = (draw_plane(volume, Look(layer, opacity=1)) for layer in (IMAGE, DISAGREEMENT))
    assert np.array_equal(plain[:50], drawn[:50])
    probable = draw_plane(volume, Look(PROBABILITY, opacity=1))
    assert not np.array_equal(plain[:50], probable[:50])


def test_the_largest_planes_hold_the_mask():
    volume = scene()
    assert largest_planes(volume) == {"axial": 0, "coronal": 5, "sagittal": 10}
    empty = replace(volume, mask=volume.mask & False)
    assert largest_planes(empty) == {"axial": 2, "coronal": 10, "sagittal": 15}


def test_the_page_escapes_names_and_says_sizes_with_their_intervals():
    picture = scene((1, 20, 30), spacing=None)
    html = page.views({"m": (picture, Look())}, {}) + page.facts(picture, 0.43)
    assert "scan&lt;1&gt;" in html
    assert html.index("Looks unlike &lt;others&gt;.") < html.index("<img")  # seen before the mask
    assert "<1>" not in html
    assert re.search(r"70\xa0px</td><td [^>]*>40 to 120\xa0px</td><td [^>]*>50 to 90\xa0px", html)
    assert "not calibrated" in page.facts(scene(contours=False), 0.43)
    assert "Volume above 0.43" in page.facts(scene(), 0.43)
    for use in ("Research. Not for diagnosis.", "Teaching."):
        assert "not for diagnosis" in page.banner(use).lower()


def test_two_models_are_compared_by_regions_of_the_same_name():
    first = scene(regions=("disc", "cup"))
    moved = replace(scene(), regions=("cup",), mask=np.roll(first.mask[1:], 1, -1))
    said = page.compare([first, moved], [0.43, 0.43])
    assert "masks of cup: 0.875" in said
    assert "disc" not in said
    assert "no region of the same name" in page.compare([scene(), moved], [0.43, 0.43])


def test_each_models_warning_stands_above_the_views():
    doubtful, fine = scene(), replace(scene(), note="")
    for spacing in (None, (3.0, 1.0, 1.0)):
        looks = {name: (replace(one, spacing=spacing), Look()) for name, one in (("a", doubtful), ("b", fine))}
        html = page.views(looks, dict.fromkeys(("axial", "coronal", "sagittal"), 0))
        assert html.count('role="alert"') == 1
        assert html.index("a: Looks unlike &lt;others&gt;.") < html.index("<img")
