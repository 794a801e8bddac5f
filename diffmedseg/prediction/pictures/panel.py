"""The panel of a picture: its outlines, probability and disagreement."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffmedseg.figures import (
    DISAGREEMENT,
    INNER,
    MASK,
    OUTER,
    PROBABILITY,
    SAMPLE,
    Drawing,
    draw_legend,
    legend_of,
    of_first,
    outline,
    scale_below,
    set_title,
    show_map,
)
from diffmedseg.segmentation import Segmentation, resize_soft
from diffmedseg.wording import count

_HEIGHT = 3  # of a picture, in inches


def draw_overlay(
    picture: Image.Image, segmentation: Segmentation, regions: Sequence[str], what: str = "picture"
) -> Drawing:
    """Draw the picture with outlines of mask and samples, the probability with contours, and the disagreement.

    Args:
        picture: The picture: RGB, upright.
        segmentation: Segmentation of this picture only, upright. Its maps have the size of the picture.
        regions: Names of the regions. Samples, probability, contours and disagreement are drawn for the first region.
        what: Name of the drawn image in the legend: ``picture`` or ``window``.
    """
    width, height = picture.size
    inches = _HEIGHT * min(max(width / height, 0.5), 2.5)
    figure = Drawing(figsize=(3 * inches + 0.2, _HEIGHT + 0.85), layout="constrained")
    axes = figure.subplots(1, 3)
    samples = segmentation.samples[0]
    axes[0].imshow(np.asarray(picture))
    axes[0].set(xticks=[], yticks=[])
    for sample in samples if len(samples) > 1 else ():
        outline(axes[0], resize_soft(sample[None].float(), (height, width))[0], SAMPLE)
    outline(axes[0], segmentation.mask[0])
    show_map(axes[1], segmentation.probability[0, 0], PROBABILITY)
    show_map(axes[2], segmentation.uncertainty[0, 0], DISAGREEMENT)
    contours = [
        (line, name, mask[0, :1])
        for line, name, mask in (
            (INNER, "inner contour", segmentation.inner),
            (OUTER, "outer contour", segmentation.outer),
        )
        if mask is not None
    ]
    for line, _, mask in contours:
        outline(axes[1], mask, line)
    of = of_first(regions)
    titles = (
        "mask" + (f" and {count(len(samples), 'sample')}" if len(samples) > 1 else ""),
        f"probability{' and contours' if contours else ''}{of}",
        f"disagreement{of}",
    )
    for axis, title in zip(axes, titles, strict=True):
        set_title(axis, title, inches - 0.1, 9)
    for axis in axes[1:]:
        scale_below(axis)
    shares = segmentation.mask[0].float().mean((-2, -1)).tolist()
    sizes = [f"{region}, {share:.1%} of the {what}" for region, share in zip(regions, shares, strict=True)]
    lines = [(MASK, f"mask: {sizes[0]}" if len(sizes) == 1 else "mask")]
    lines += [(SAMPLE, "each sample, behind the mask")] if len(samples) > 1 else []
    draw_legend(figure, legend_of(lines + [(line, name) for line, name, _ in contours], sizes))
    return figure
