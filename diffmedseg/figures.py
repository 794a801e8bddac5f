"""Parts that all figures share: colours, outlines, legends, maps with a scale, fitted titles, files."""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath
from torch import Tensor

from diffmedseg.atomic import write_alone

# The colour-blind can tell them apart (Okabe & Ito 2008, "Color Universal Design").
ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION = "#0072B2", "#D55E00"
#: Colours of several regions, in order.
COLOURS = (ORANGE, GREEN, YELLOW, VERMILLION)
#: Colours of curves on white.
CURVES = (BLUE, ORANGE, GREEN, VERMILLION, SKY_BLUE)


@dataclass(frozen=True)
class Line:
    """The style of one kind of outline.

    Attributes:
        colour: Colour for a single region. Several regions have the colours of :data:`COLOURS`.
        width: Width in points.
        style: Line style of matplotlib.
        pale: Whether the colours of regions are mixed with white, half and half.
        cased: Whether a dark edge makes the line visible on bright images.
    """

    colour: str
    width: float
    style: Literal["solid", "dashed", "dotted"] | tuple[float, tuple[float, ...]] = "solid"
    pale: bool = False
    cased: bool = False

    def colour_of(self, region: int, regions: int) -> tuple[float, float, float]:
        """Return the colour of a region, from 0, of ``regions`` regions."""
        red, green, blue = to_rgb(COLOURS[region % len(COLOURS)] if regions > 1 else self.colour)
        return ((red + 1) / 2, (green + 1) / 2, (blue + 1) / 2) if self.pale and regions > 1 else (red, green, blue)


MASK = Line(ORANGE, 1.5)
SAMPLE = Line(SKY_BLUE, 0.8, pale=True)
REFERENCE = Line("#FFFFFF", 1, (0, (2.5, 2.5)), cased=True)
UNSURE = Line(SKY_BLUE, 1, "dotted")
INNER, OUTER = Line(VERMILLION, 1.3, "dotted"), Line(VERMILLION, 1.3, "dashed")

#: Colour map and largest value of the maps.
PROBABILITY, DISAGREEMENT = ("gray", 1.0), ("inferno", 0.5)

_MEASURE = TextToPath()
_HANDLE = 0.5  # inches: maximum width of a legend entry beside its text


class Drawing(Figure):
    """A figure that notebooks show as a picture, even without pyplot."""

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=110)
        return written.getvalue()


# Images, outlines and maps.


def show(axis: Axes, image: Tensor) -> None:
    """Show an image (C, H, W) in [-1, 1]: three or more channels as colours, fewer as grey."""
    three = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    axis.imshow((three.float().cpu() + 1).div(2).clamp(0, 1).permute(1, 2, 0).numpy())
    axis.set(xticks=[], yticks=[])


def show_map(axis: Axes, values: Tensor, kind: tuple[str, float]) -> None:
    """Show a map (H, W) as :data:`PROBABILITY` or :data:`DISAGREEMENT`."""
    colours, most = kind
    axis.imshow(values.float().cpu().numpy(), vmin=0, vmax=most, cmap=colours)
    axis.set(xticks=[], yticks=[])


def scale_below(axis: Axes) -> None:
    """Draw the scale of a map below it. A usual colour bar would shrink the map."""
    bar = axis.figure.colorbar(axis.images[0], cax=axis.inset_axes((0, -0.09, 1, 0.04)), orientation="horizontal")
    bar.ax.tick_params(labelsize=7)


def outline(axis: Axes, mask: Tensor, line: Line = MASK) -> None:
    """Draw the 0.5 contour of each region of a (K, H, W) mask."""
    for k, region in enumerate(mask.float().cpu()):
        if min(region.shape) > 1 and (region > 0.5).any() and not (region > 0.5).all():
            colour = line.colour_of(k, len(mask))
            contour = axis.contour(
                region.numpy(), levels=[0.5], colors=[colour], linewidths=line.width, linestyles=[line.style]
            )
            contour.set_path_effects(_casing(line))


def _casing(line: Line) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.withStroke(linewidth=line.width + 1, foreground="black")] if line.cased else []


# Legends and titles.


def legend_of(lines: Sequence[tuple[Line, str]], regions: Sequence[str]) -> list[Line2D]:
    """Return the entries of a legend: the kinds of outlines, and the colours of several regions.

    Args:
        lines: The kinds of outlines in a figure, with their names.
        regions: Names of the regions.
    """
    if len(regions) == 1:
        return [_entry(line, line.colour_of(0, 1), name) for line, name in lines]
    colours = [_entry(MASK, MASK.colour_of(k, len(regions)), name) for k, name in enumerate(regions)]
    return colours + [_entry(line, to_rgb("#BBBBBB" if line.pale else "#777777"), name) for line, name in lines]


def _entry(line: Line, colour: tuple[float, float, float], name: str) -> Line2D:
    entry = Line2D([], [], color=colour, linewidth=line.width, linestyle=line.style, label=name.replace("_", " "))
    entry.set_path_effects(_casing(line))
    return entry


def draw_legend(figure: Figure, entries: Sequence[Line2D], fontsize: float = 8, note: str = "") -> None:
    """Draw a legend below all axes, in as many columns as fit.

    Args:
        figure: A figure with a constrained layout.
        entries: Lines with their labels.
        fontsize: Size of the text in points.
        note: Text above the entries.
    """
    inches = figure.get_figwidth() - 0.3
    labels = [fit(str(entry.get_label()), inches - _HANDLE, fontsize) for entry in entries]
    widths = [text_width(label, fontsize) + _HANDLE for label in labels]
    legend = figure.legend(
        entries,
        labels,
        loc="outside lower center",
        ncols=len(widths) if sum(widths) <= inches else max(int(inches / max(widths)), 1),
        fontsize=fontsize,
        title=fit(note, inches, fontsize) or None,
        title_fontsize=fontsize,
        frameon=False,
        columnspacing=1,
        handlelength=1.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def text_width(text: str, fontsize: float) -> float:
    """Return the width of the longest line of a text in inches."""
    font = FontProperties(size=fontsize)
    widths = [_MEASURE.get_text_width_height_descent(line, font, ismath=False)[0] for line in text.splitlines()]
    return float(max(widths, default=0)) / 72


def fit(text: str, inches: float, fontsize: float) -> str:
    """Break the lines of a text to a maximum width in inches; break within words only if necessary."""
    longest = max(map(len, text.splitlines()), default=0)
    width = math.ceil(1.5 * longest * inches / max(text_width(text, fontsize), inches))  # letters differ in width
    while width > 1 and text_width(text, fontsize) > inches:
        width -= 1
        broken = "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""])
        if text_width(broken, fontsize) <= inches:
            return broken
    return text


def of_first(regions: Sequence[str]) -> str:
    """Return the suffix of a title for the first of several regions: ``, tumour core``; empty for one region."""
    return f", {regions[0]}".replace("_", " ") if len(regions) > 1 else ""


def set_title(axis: Axes, text: str, inches: float, fontsize: float = 8) -> None:
    """Write a title above axes, broken to their width in inches."""
    axis.set_title(fit(text, inches, fontsize), fontsize=fontsize, parse_math=False)


def label_row(axis: Axes, text: str, inches: float, fontsize: float = 8) -> None:
    """Write the name of a row at its left, broken to its height in inches."""
    axis.set_ylabel(fit(text, inches, fontsize), fontsize=fontsize, parse_math=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, completely or not at all."""
    write_alone(path, partial(figure.savefig, format="png", dpi=110))
