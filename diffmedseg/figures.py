"""What all pictures share: how images and outlines are shown, and how a figure is written."""

import io
import textwrap
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.atomic import write_alone


class Drawing(Figure):
    """A figure that notebooks show as a picture, whether or not pyplot is in use."""

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=110)
        return written.getvalue()


#: Characters that fit beside a row of pictures at the sizes that we use: 1.65 inches at 6 pt, 2 inches at 8 pt.
_LABEL_WIDTH = 26
# One colour per region, readable for the colour-blind (Okabe & Ito 2008).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")


def show(axis: Axes, image: Tensor) -> None:
    """Show an image (C, H, W) in [-1, 1]: its first three channels as colours, else its first as grey."""
    three = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    axis.imshow((three.float().cpu() + 1).div(2).clamp(0, 1).permute(1, 2, 0).numpy())
    axis.set(xticks=[], yticks=[])


def outline(axis: Axes, mask: Tensor, linewidth: float = 1, linestyle: str = "solid") -> None:
    """Draw the 0.5 contour of each region of a (K, H, W) mask."""
    for region, colour in zip(mask.float().cpu(), COLOURS * len(mask), strict=False):
        if min(region.shape) > 1 and (region > 0.5).any() and not (region > 0.5).all():
            axis.contour(region.numpy(), levels=[0.5], colors=[colour], linewidths=linewidth, linestyles=linestyle)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    write_alone(path, partial(figure.savefig, format="png", dpi=110))


def label_row(axis: Axes, text: str, fontsize: float) -> None:
    """Name a row of pictures at its left; lines longer than a row is high, as of names of cases, are broken."""
    lines = (part for line in text.splitlines() for part in textwrap.wrap(line, _LABEL_WIDTH) or [""])
    axis.set_ylabel("\n".join(lines), fontsize=fontsize)
