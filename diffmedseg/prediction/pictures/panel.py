"""A picture of a prediction, to be looked at."""

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from PIL import Image

from diffmedseg.figures import COLOURS, Drawing, outline
from diffmedseg.segmentation import Segmentation, resize_soft
from diffmedseg.wording import count


def draw_overlay(
    picture: Image.Image, segmentation: Segmentation, regions: Sequence[str], what: str = "picture"
) -> Drawing:
    """Draw the picture with the outlines of mask and samples; the probability with contours; and the disagreement.

    Args:
        picture: RGB, upright.
        segmentation: Of this picture alone, upright, its maps of the picture's size.
        regions: Names of the regions; probability, contours and disagreement are those of the first.
        what: What is drawn: the picture, or a window of it.
    """
    width, height = picture.size
    figure = Drawing(figsize=(9 * min(max(width / height, 0.5), 2.5), 3.4), layout="constrained")
    mask_axis, probability_axis, disagreement_axis = figure.subplots(1, 3)
    mask_axis.imshow(np.asarray(picture))
    samples = segmentation.samples[0]
    for sample in samples if len(samples) > 1 else ():
        outline(mask_axis, resize_soft(sample[None].float(), (height, width))[0], linewidth=0.6)
    outline(mask_axis, segmentation.mask[0], linewidth=1.6)
    shares = segmentation.mask[0].float().mean((-2, -1)).tolist()
    names = [f"{region}, {share:.1%} of the {what}" for region, share in zip(regions, shares, strict=True)]
    lines = [Line2D([], [], color=colour) for _, colour in zip(names, COLOURS * len(names), strict=False)]
    mask_axis.legend(lines, names, fontsize=7, loc="upper right")
    mask_axis.set_title(
        "mask" + (f", and {count(len(samples), 'sample')} (thin)" if len(samples) > 1 else ""), fontsize=9
    )
    contours = [one[0, :1] for one in (segmentation.inner, segmentation.outer) if one is not None]
    for contour in contours:
        outline(probability_axis, contour, linewidth=1.2, linestyle="dashed")
    probability = "probability, contours (dashed)" if contours else "probability"
    maps = [(probability_axis, segmentation.probability, 1.0, "gray", probability)]
    maps += [(disagreement_axis, segmentation.uncertainty, 0.5, "inferno", "disagreement")]
    for axis, values, most, colours, title in maps:
        shown = axis.imshow(values[0, 0].numpy(), vmin=0, vmax=most, cmap=colours)
        figure.colorbar(shown, ax=axis, shrink=0.8)
        axis.set_title(f"{title}, {regions[0]}" if len(regions) > 1 else title, fontsize=9)
    for axis in (mask_axis, probability_axis, disagreement_axis):
        axis.set(xticks=[], yticks=[])
    return figure
