"""Draw the images whose samples are farthest from the raters."""

from collections.abc import Callable, Sequence
from math import ceil

from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.data.store import ImageStore, to_signed
from diffmedseg.figures import set_title, show
from diffmedseg.metrics.scores import CaseScore

_CASES_IN_ROW = 3
_PICTURES = ("image", "raters", "samples")
_INCHES = 1.5  # side of a picture


def choose_worst(rows: Sequence[CaseScore], number: int) -> list[CaseScore]:
    """Return the rows of the first region with the largest unbiased GED, the largest first."""
    first = [row for row in rows if row.region == rows[0].region]
    return sorted(first, key=lambda row: row.ged_unbiased, reverse=True)[:number]


def draw_sets(
    rows: Sequence[CaseScore],
    store: ImageStore,
    index_of: Callable[[CaseScore], int],
    samples_of: Callable[[int], Tensor],
) -> Figure:
    """Draw each image, and for each pixel the shares of raters and of samples with foreground.

    Titles have the terms of the unbiased GED; labels have the number of empty masks. Only the first region is drawn.

    Args:
        rows: Scores of the images.
        store: The split.
        index_of: Returns the index, in the split, of the image of a row.
        samples_of: Returns the samples (S, K, H, W), in {0, 1}, of the image with an index.
    """
    columns = len(_PICTURES) * min(_CASES_IN_ROW, len(rows))
    lines = ceil(len(rows) / _CASES_IN_ROW)
    figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.75) * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis in axes[len(rows) * len(_PICTURES) :]:
        axis.set_axis_off()
    for number, row in enumerate(rows):
        index = index_of(row)
        raters, samples = store.reference(index)[:, 0].float(), samples_of(index)[:, 0].float()
        image, *shares = axes[number * len(_PICTURES) :][: len(_PICTURES)]
        show(image, to_signed(store.image(index)))
        for axis, masks in zip(shares, (raters, samples), strict=True):
            axis.imshow(masks.mean(0).numpy(), cmap="cividis", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            empty = int((~masks.flatten(1).any(1)).sum())
            axis.set_xlabel(f"{empty} of {len(masks)} empty", fontsize=7)
        for axis, name in zip((image, *shares), _PICTURES, strict=True):
            axis.set_title(name, fontsize=7)
        set_title(shares[0], f"{row.case}\n{_terms(row)}\n{_PICTURES[1]}", len(_PICTURES) * _INCHES, fontsize=7)
    return figure


def _terms(row: CaseScore) -> str:
    """Return the unbiased GED of an image with its terms, as text."""
    parts = f"2 x {row.distance_to_raters:.2f} - {row.diversity:.2f} - {row.rater_diversity:.2f}"
    return f"GED (unbiased) {row.ged_unbiased:.2f} = {parts}"
