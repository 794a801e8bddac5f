"""Apply the strokes that a user draws over a mask: orange adds, blue removes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.figures import BLUE, ORANGE

#: Colours of the brush.
ADD, REMOVE = ORANGE, BLUE
_OPAQUE = 127  # of 255: less opaque pixels are the faint edge of a stroke


def correct(mask: NDArray[np.bool_], layers: Sequence[NDArray[np.uint8]]) -> None:
    """Apply strokes to a mask, in place.

    Args:
        mask: (H, W).
        layers: The strokes, each (h, w, 4) in RGBA; later strokes lie above earlier ones.
    """
    for layer in layers:
        drawn = layer[..., 3] > _OPAQUE
        colours = [np.array(to_rgb(colour)) * 255 for colour in (ADD, REMOVE)]
        to_add, to_remove = (np.abs(layer[..., :3] - colour).sum(-1) for colour in colours)
        adds = _fit(drawn & (to_add <= to_remove), mask.shape)
        removes = _fit(drawn & (to_add > to_remove), mask.shape)
        mask |= adds
        mask &= ~removes


def _fit(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.NEAREST)) > 127
