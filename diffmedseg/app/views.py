"""Draw a scene: pure functions from a scene and the positions of the controls to RGB arrays."""

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.app.scene import Scene
from diffmedseg.figures import COLOURS
from diffmedseg.prediction.volumes.panel import PLANES, cut_plane

MASK, SAMPLE, PROBABILITY, DISAGREEMENT, IMAGE = "Mask", "Sample", "Probability", "Disagreement", "Image alone"
LAYERS = (MASK, SAMPLE, PROBABILITY, DISAGREEMENT, IMAGE)
#: Colour maps of the soft layers, from matplotlib.
COLOUR_MAPS = {PROBABILITY: "viridis", DISAGREEMENT: "inferno"}
_SHORTEST, _LONGEST = 480, 1024  # px: limits of the longer side of a view
_DASH = 5  # px
_LINE = 2  # px


@dataclass(frozen=True)
class Look:
    """Settings of a view.

    Attributes:
        layer: One of :data:`LAYERS`.
        channel: The shown channel; the first channel if the scene does not have it.
        region: Number of the region; None for all. A soft layer shows one region: None is the first.
        opacity: Opacity of the layer, in [0, 1].
        sample: Number of the sample, from 0, limited to the existing samples.
        threshold: The mask is where the probability exceeds it.
        contours: Whether inner and outer contour are drawn.
    """

    layer: str = MASK
    channel: str = ""
    region: int | None = None
    opacity: float = 0.4
    sample: int = 0
    threshold: float = 0.5
    contours: bool = True


def draw_plane(scene: Scene, look: Look, plane: str = "axial", position: int = 0) -> NDArray[np.uint8]:
    """Draw a plane of a scene with a layer and outlines.

    Args:
        scene: The scene.
        look: Settings of the view.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        position: Number of the plane along its axis, limited to the existing planes.

    Returns:
        (H, W, 3), with square pixels: distances of rows and columns are proportional to mm.
    """
    axis = PLANES[plane]
    position = min(max(position, 0), scene.shape[axis] - 1)
    base = _base(scene, look.channel, axis, position)
    size = _drawn_size(scene, axis, base.shape[0], base.shape[1])
    drawn = np.asarray(Image.fromarray(base).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    regions = range(len(scene.regions)) if look.region is None else [look.region]
    if look.layer in COLOUR_MAPS:
        maps = scene.probability if look.layer == PROBABILITY else scene.disagreement
        _blend_map(drawn, _resized(cut_plane(maps[regions[0]], axis, position), size), look)
    masks = _masks(scene, look, axis, position)
    for k in regions:
        mask = _resized(masks[k].astype(np.uint8) * 255, size) > 127
        colour = _colour(k)
        if look.layer in {MASK, SAMPLE}:
            drawn[mask] += look.opacity * (colour - drawn[mask])
        if look.layer != IMAGE:
            drawn[_edge(mask)] = colour
        if look.contours and look.layer != IMAGE:
            _draw_contours(drawn, scene, k, axis, position, size)
    return drawn.round().clip(0, 255).astype(np.uint8)


def largest_planes(scene: Scene) -> dict[str, int]:
    """Return the position of each plane where the first region's mask is largest; the middle if the mask is empty."""
    mask = scene.mask[0]
    if not mask.any():
        return {plane: scene.shape[axis] // 2 for plane, axis in PLANES.items()}
    others = {axis: tuple(i for i in range(3) if i != axis) for axis in PLANES.values()}
    return {plane: int(mask.sum(others[axis]).argmax()) for plane, axis in PLANES.items()}


def _base(scene: Scene, channel: str, axis: int, position: int) -> NDArray[np.uint8]:
    """Return a plane of the image, (H, W, 3)."""
    values = scene.images.get(channel, next(iter(scene.images.values())))
    if values.ndim == 4:  # a picture has one plane
        return np.ascontiguousarray(values[0])
    return np.repeat(cut_plane(values, axis, position)[..., None], 3, axis=-1)


def _drawn_size(scene: Scene, axis: int, rows: int, columns: int) -> tuple[int, int]:
    """Return width and height in square pixels."""
    down, across = 1.0, 1.0
    if scene.spacing is not None:
        down, across = (scene.spacing[i] for i in range(3) if i != axis)
    height, width = rows * down, columns * across
    longest = max(rows, columns)
    scale = min(max(longest, _SHORTEST), _LONGEST) / max(height, width)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _masks(scene: Scene, look: Look, axis: int, position: int) -> NDArray[np.bool_]:
    """Return a plane of the layer's masks, (K, rows, columns). Masks of a sample are on the model's grid."""
    if look.layer != SAMPLE:
        return cut_plane(scene.mask_at(look.threshold), axis, position)
    sample = scene.samples[min(max(look.sample, 0), len(scene.samples) - 1)]
    there = int((position + 0.5) * sample.shape[axis + 1] / scene.shape[axis])
    return cut_plane(sample, axis, there)


def _resized(values: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize(size, Image.Resampling.BILINEAR))


def _colour(region: int) -> NDArray[np.float32]:
    return np.array(to_rgb(COLOURS[region % len(COLOURS)]), np.float32) * 255


def _blend_map(drawn: NDArray[np.float32], levels: NDArray[np.uint8], look: Look) -> None:
    """Lay a soft map over the image. Where the map is 0, the image stays unchanged."""
    colours = matplotlib.colormaps[COLOUR_MAPS[look.layer]](levels)[..., :3].astype(np.float32) * 255
    weight = np.float32(look.opacity) * np.clip(levels.astype(np.float32) / 13, 0, 1)[..., None]  # 13: 5 %
    drawn += weight * (colours - drawn)


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask within :data:`_LINE` pixels of its edge. The image's border is no edge."""
    inside = np.pad(mask, 1, mode="edge")
    for _ in range(_LINE):
        smaller = inside.copy()
        smaller[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = smaller
    return mask & ~inside[1:-1, 1:-1]


def _draw_contours(
    drawn: NDArray[np.float32], scene: Scene, region: int, axis: int, position: int, size: tuple[int, int]
) -> None:
    """Draw the inner contour in white and the outer contour in the region's colour, both dashed."""
    y, x = np.arange(drawn.shape[0])[:, None], np.arange(drawn.shape[1])
    dashes = (x // _DASH + y // _DASH) % 2 == 0  # dashed in every direction
    for contour, colour in ((scene.inner, np.float32(255)), (scene.outer, _colour(region))):
        if contour is not None:
            filled = _resized(cut_plane(contour[region], axis, position).astype(np.uint8) * 255, size) > 127
            drawn[_edge(filled) & dashes] = colour
