"""Figures of a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.evaluation.provenance import Curve
from diffmedseg.figures import (
    CURVES,
    DISAGREEMENT,
    MASK,
    ORANGE,
    PROBABILITY,
    REFERENCE,
    SKY_BLUE,
    draw_legend,
    label_row,
    legend_of,
    of_first,
    outline,
    scale_below,
    set_title,
    show,
    show_map,
)
from diffmedseg.metrics.calibration import risk_coverage
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.segmentation import Segmentation, resize_soft


@dataclass(frozen=True)
class Example:
    """One image of a case, on the model's grid, for figures.

    Attributes:
        image: (C, H, W), in [-1, 1].
        raters: (R, K, H, W), in {0, 1}.
        probability: (K, H, W), in [0, 1].
        uncertainty: (K, H, W), in [0, 0.5].
        mask: (K, H, W), bool.
    """

    image: Tensor
    raters: Tensor
    probability: Tensor
    uncertainty: Tensor
    mask: Tensor


def example_of(batch: Batch, segmentation: Segmentation, i: int, threshold: float) -> Example:
    """Return an image of a batch with its raters and its segmentation, at the size of the raters' masks.

    Args:
        batch: The batch.
        segmentation: The segmentation of the batch.
        i: Index of the image.
        threshold: Foreground is where the probability exceeds it.
    """
    raters = batch["raters"][i][batch["rater_valid"][i]].cpu()
    size = (int(raters.shape[-2]), int(raters.shape[-1]))
    maps = segmentation.probability, segmentation.uncertainty
    soft, doubt = (resize_soft(values[i : i + 1].float().cpu(), size)[0] for values in maps)
    return Example(batch["image"][i].float().cpu(), raters, soft, doubt, soft > threshold)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def draw_curves(curves: Mapping[str, Curve], tested: int | None) -> Figure:
    """Draw the curves of training over its steps.

    Args:
        curves: Curves of one unit, by name.
        tested: Step of the tested weights; None if it is not known.
    """
    figure, axis = _figure(4.2, 3.8)
    for (name, curve), colour, marker in zip(curves.items(), cycle(CURVES), cycle("os^Dv"), strict=False):
        label = name.partition("/")[2].replace("_", " ")
        every = max(len(curve) // 20, 1)  # keeps markers distinguishable
        axis.plot(*zip(*curve, strict=True), color=colour, marker=marker, markersize=4, markevery=every, label=label)
    if tested is not None:
        axis.axvline(tested, color="grey", linewidth=1, linestyle="--", label="tested weights")
    axis.set(xlabel="training step", ylabel="value", xlim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_reliability(reliability: dict[str, list[dict[str, float]]]) -> Figure:
    """Draw the reliability diagram: the frequency of foreground over the probability.

    Args:
        reliability: The ``reliability`` of :func:`~diffmedseg.evaluation.summary.summarise_test`.
    """
    figure, axis = _figure(4.2, 3.8)
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfect")
    names = {"whole": "all pixels", "neighbourhood": "near a lesion"}
    # The first curve is wide and hollow, to be visible below the second.
    styles: tuple[dict[str, Any], ...] = (
        {"linewidth": 4, "alpha": 0.45, "markersize": 9, "markerfacecolor": "none"},
        {"markersize": 3.5},
    )
    for (part, bins), colour, style in zip(reliability.items(), (ORANGE, SKY_BLUE), styles, strict=False):
        points = [(entry["probability"], entry["frequency"]) for entry in bins]
        if points:
            axis.plot(*zip(*points, strict=True), color=colour, marker="o", label=names[part], clip_on=False, **style)
    axis.set(xlabel="probability", ylabel="share that is foreground", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False)
    return figure


def draw_risk_coverage(rows: Sequence[CaseScore]) -> Figure:
    """Draw the mean Dice of the remaining cases, if the most uncertain cases are left to a human."""
    dice, doubt = ([getattr(row, name) for row in rows] for name in ("dice", "uncertainty"))
    figure, axis = _figure(4.2, 3.8)
    for label, order, colour, style in (
        ("by uncertainty", doubt, ORANGE, "-"),
        ("by the true errors", [-score for score in dice], "grey", ":"),
    ):
        coverage, risk = risk_coverage(order, dice)
        axis.plot(coverage, 1 - risk, color=colour, linestyle=style, label=label)
    axis.axhline(float(np.mean(dice)), color="grey", linewidth=1, linestyle="--", label="at random")
    axis.set(xlabel="share of cases kept", ylabel="mean Dice of these cases", xlim=(0, 1))
    axis.legend(frameon=False, loc="upper right")
    return figure


def draw_dice_over_uncertainty(rows: Sequence[CaseScore]) -> Figure:
    """Draw every case: its Dice over its uncertainty."""
    figure, axis = _figure(4.2, 3.8)
    doubt, dice = ([getattr(row, name) for row in rows] for name in ("uncertainty", "dice"))
    axis.scatter(doubt, dice, s=12, color=SKY_BLUE, alpha=0.6, edgecolors="none")
    axis.set(xlabel="uncertainty (1 - soft Dice confidence)", ylabel="Dice", ylim=(-0.02, 1.02))
    return figure


def draw_examples(examples: Sequence[tuple[str, Example]], regions: Sequence[str]) -> Figure:
    """Draw images with the outlines of the raters and of the mask, their probability and their disagreement.

    Args:
        examples: Title and image of each row.
        regions: Names of the regions. Probability and disagreement are shown for the first region.
    """
    of = of_first(regions)
    titles = ("image", "reference and mask", f"probability{of}", f"disagreement{of}")
    figure = Figure(figsize=(8.4, 2.05 * len(examples) + 0.8), layout="constrained")
    grid = figure.subplots(len(examples), len(titles), squeeze=False)
    for axes, (title, example) in zip(grid, examples, strict=True):
        label_row(axes[0], title, 1.9)
        show(axes[0], example.image)
        show(axes[1], example.image)
        outline(axes[1], example.mask)
        for rater in example.raters:
            outline(axes[1], rater, REFERENCE)
        show_map(axes[2], example.probability[0], PROBABILITY)
        show_map(axes[3], example.uncertainty[0], DISAGREEMENT)
    for axis, name in zip(grid[0], titles, strict=True):
        set_title(axis, name, 1.9, 9)
    for axis in grid[-1][-2:]:
        scale_below(axis)
    draw_legend(figure, legend_of([(REFERENCE, "reference, each rater"), (MASK, "mask of the model")], regions))
    return figure


def choose_examples(rows: Sequence[CaseScore], count: int = 3) -> dict[str, list[CaseScore]]:
    """Choose the worst, the median and the best cases by Dice, each case once.

    Args:
        rows: Scores of one region.
        count: Number of cases in each group.
    """
    ordered = sorted(rows, key=lambda row: (row.dice, row.case))
    count = min(count, max(len(ordered) // 3, 1))
    middle = max((len(ordered) - count) // 2, 0)
    groups: dict[str, Any] = {"worst": ordered[:count]}
    if len(ordered) > 2 * count:
        groups["median"] = ordered[middle : middle + count]
    if len(ordered) > count:
        groups["best"] = ordered[-count:][::-1]
    return groups
