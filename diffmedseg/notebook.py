"""Show segmentations and data sets in a notebook: figures, and HTML with a small picture."""

import base64
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from html import escape
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from diffmedseg.data.store import ImageStore, check_index, to_bytes, to_signed
from diffmedseg.figures import REFERENCE, Drawing, draw_legend, legend_of, outline, set_title, show
from diffmedseg.measuring import volumes_ml
from diffmedseg.prediction.pictures.panel import draw_overlay
from diffmedseg.reading.model_range import to_model_range
from diffmedseg.reading.pictures import turn_upright
from diffmedseg.segmentation import Segmentation, resize_soft
from diffmedseg.wording import count

_LONGEST = 800  # px: longest side of a drawn picture
_SHOWN = 4  # images in HTML
_SIDE = 1.6  # inches: side of each image


def select(result: Segmentation, index: int) -> Segmentation:
    """Return one image of a segmentation, on the CPU."""

    def take(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Segmentation):
            return select(value, index)
        return value[index : index + 1].cpu() if isinstance(value, Tensor) else value

    return Segmentation(**{field.name: take(getattr(result, field.name)) for field in fields(result)})


def _regions(result: Segmentation) -> Sequence[str]:
    if result.origin is not None:
        return result.origin.model.regions
    return _numbered(result.mask.shape[1])


def _numbered(regions: int) -> list[str]:
    return [f"region {k}" for k in range(1, regions + 1)]


def _facts(result: Segmentation) -> list[str]:
    """Return the facts of a segmentation: the size of each region, and the familiarity of the images."""
    if result.origin is not None and result.origin.spacing is not None:
        facts = []
        for region, (ml, low, high) in volumes_ml(result).items():
            interval = "" if low is None else f" ({low:.1f} to {high:.1f})"
            facts.append(f"{region} {ml:.1f} ml{interval}")
    else:
        shares = result.mask.float().mean((0, 2, 3)).tolist()
        facts = [f"{region} {share:.1%}" for region, share in zip(_regions(result), shares, strict=True)]
    if result.familiarity is not None:
        facts.append(f"familiarity {float(result.familiarity.min()):.2g}")
    return facts


def describe(result: Segmentation) -> str:
    """Describe a segmentation in a line."""
    number, _, height, width = result.mask.shape
    samples = count(result.samples.shape[1], "sample")
    return f"Segmentation({count(number, 'image')} of {height} x {width}, {samples}; {', '.join(_facts(result))})"


def as_html(result: Segmentation) -> str:
    """Describe a segmentation in HTML: the first images' probability with the mask's outline, and its facts."""
    number = min(len(result.mask), _SHOWN)
    figure = Drawing(figsize=(_SIDE * max(number, 1), _SIDE), layout="constrained")
    for i, axis in enumerate(figure.subplots(1, max(number, 1), squeeze=False)[0][:number]):
        probability, mask = result.probability[i, :1].float().cpu(), result.mask[i].cpu()
        show(axis, _shrink(probability, 200) * 2 - 1)
        outline(axis, _shrink(mask.float(), 200))
    picture = base64.b64encode(figure._repr_png_()).decode()
    more = f" (the first {number} shown)" if number < len(result.mask) else ""
    text = escape(describe(result))
    return f'<div><img src="data:image/png;base64,{picture}" alt="probability and mask"><br>{text}{more}</div>'


def _shrink(maps: Tensor, longest: int) -> Tensor:
    """Shrink maps (C, H, W) to a longest side in pixels; smaller maps are kept."""
    height, width = maps.shape[-2:]
    scale = min(longest / max(height, width), 1)
    return resize_soft(maps[None], (max(round(height * scale), 1), max(round(width * scale), 1)))[0]


def plot(result: Segmentation, image: PIL.Image.Image | np.ndarray | Tensor, index: int = 0) -> Drawing:
    """Draw one image of a segmentation; see :meth:`Segmentation.plot`."""
    index, origin = check_index(index, len(result.mask), "image"), result.origin
    if origin is None:
        raise ValueError("The model of this segmentation is not known. Plot a result of model.segment.")
    images = to_model_range(image, len(origin.model.image_channels), origin.model.value_range)
    selected = select(result, index)
    turn = partial(turn_upright, orientation=origin.orientation)
    samples, probability, uncertainty, mask = map(
        turn, (selected.samples, selected.probability, selected.uncertainty, selected.mask)
    )
    if len(images) != len(result.mask) or images.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"Got {count(len(images), 'image')} of {images.shape[-2]} x {images.shape[-1]}; the segmentation has "
            f"{len(result.mask)} of {mask.shape[-2]} x {mask.shape[-1]}. Pass the segmented images."
        )
    inner, outer = (
        None if contour is None else _small_mask(turn(contour)) for contour in (selected.inner, selected.outer)
    )
    upright = Segmentation(
        samples,
        _shrink(probability[0], _LONGEST)[None],
        _shrink(uncertainty[0], _LONGEST)[None],
        _small_mask(mask),
        inner=inner,
        outer=outer,
    )
    return draw_overlay(_as_picture(images[index]), upright, origin.model.regions)


def _small_mask(mask: Tensor) -> Tensor:
    return _shrink(mask[0].float(), _LONGEST)[None] > 0.5


def _as_picture(image: Tensor) -> PIL.Image.Image:
    """Make an RGB picture of an image (C, H, W) in [-1, 1]: three channels as colours, others as grey."""
    three = image if len(image) == 3 else image[:1].expand(3, -1, -1)
    return PIL.Image.fromarray(to_bytes(_shrink(three.float().cpu(), _LONGEST)).permute(1, 2, 0).numpy())


def plot_item(store: ImageStore, index: int) -> Drawing:
    """Draw an item of a data set with the outlines of every rater."""
    figure = Drawing(figsize=(3, 3.5), layout="constrained")
    axis = figure.subplots()
    show(axis, to_signed(store.image(index)))
    masks = store.masks(index)
    for rater in masks:
        outline(axis, rater, REFERENCE)
    set_title(axis, store.ids[index], 2.8)
    draw_legend(figure, legend_of([(REFERENCE, "reference, each rater")], _numbered(masks.shape[1])))
    return figure
