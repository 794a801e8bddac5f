"""Read outlines that were drawn by hand and stored as lists of points."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffmedseg.errors import DataError
from diffmedseg.wording import count

#: Points (x, y) of an outline, in pixels of its picture.
Outline = list[tuple[float, float]]

_LARGEST = 10_000_000  # bytes: an XML file of outlines has some ten thousand
_GAP = 0.25  # of the length of an outline: largest gap between its end and its start
_JUMP = 5  # times the longest step of an outline: a polygon of few corners may close by a long edge
_OUTSIDE = 0.05  # of the side of a picture: hands slip, but outlines of another picture reach further


def read_outlines(path: Path) -> dict[int, list[Outline]]:
    """Read an XML file of DDTI: a ``mark`` for each picture, with its number and outlines as JSON within ``svg``.

    Returns:
        Outlines by the number of their picture; an empty list if the ``svg`` is empty.

    Raises:
        DataError: If the file is damaged, or an outline has too few points or is open; names the file.
    """
    by_picture: dict[int, list[Outline]] = {}
    for mark in _parse(path).iter("mark"):
        number, content = (mark.findtext("image") or "").strip(), (mark.findtext("svg") or "").strip()
        if not number.isdecimal():
            raise DataError(f"{path} has a mark that names no picture: expected <image>1</image>", [path.name])
        subject = f"{path}: the outlines of picture {number}"
        try:
            regions = json.loads(content) if content else []
            outlines = [[(float(point["x"]), float(point["y"])) for point in region["points"]] for region in regions]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{subject} are cut short or damaged ({error}); expected JSON with points", [path.name]
            ) from error
        for outline in outlines:
            _check_outline(outline, subject, path)
        by_picture.setdefault(int(number), []).extend(outlines)
    return by_picture


def _parse(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path} is larger than {_LARGEST:,} bytes: it is no file of outlines", [path.name])
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} cannot be read as XML ({error})", [path.name]) from error


def _check_outline(outline: Outline, subject: str, path: Path) -> None:
    """Refuse an outline with too few points, or with its end far from its start."""
    if not all(map(math.isfinite, (value for point in outline for value in point))):
        raise DataError(f"{subject} have a point that is not a number", [path.name])
    if len(outline) < 3:
        raise DataError(
            f"{subject} include an outline of {count(len(outline), 'point')}; expected at least 3", [path.name]
        )
    steps = [math.dist(a, b) for a, b in pairwise(outline)]
    gap = math.dist(outline[-1], outline[0])
    if gap > _GAP * (sum(steps) + gap) and gap > _JUMP * max(steps):
        raise DataError(
            f"{subject} include an open outline. It ends {gap:.0f} pixels from its start, "
            f"{gap / (sum(steps) + gap):.0%} of its length",
            [path.name],
        )


def fill_outlines(outlines: Sequence[Outline], size: tuple[int, int], path: Path) -> NDArray[np.uint8]:
    """Return the mask (h, w) of the pixels in or on any of the outlines, uint8 in {0, 1}.

    Args:
        outlines: The outlines.
        size: Height and width of their picture.
        path: Their file, for the message.

    Raises:
        DataError: If an outline reaches clearly beyond the picture; names the file.
    """
    height, width = size
    mask = Image.new("L", (width, height))
    for outline in outlines:
        (left, right), (top, bottom) = ((min(values), max(values)) for values in zip(*outline, strict=True))
        if min(left / width, top / height) < -_OUTSIDE or max(right / width, bottom / height) > 1 + _OUTSIDE:
            raise DataError(
                f"{path} has an outline from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), beyond its picture of "
                f"{width} x {height} pixels: the picture was resized or is another one",
                [path.name],
            )
        ImageDraw.Draw(mask).polygon(outline, fill=1, outline=1)
    return np.array(mask)
