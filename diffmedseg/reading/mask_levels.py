"""Find the value range of a mask, and tell labels from soft masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

#: Grey values of a mask.
Values = NDArray[Any]
#: Largest deviation from a range or a whole number, as after resampling or a float export; a part of the range.
ROUNDING = 1e-3
_RANGES = (1, 255, 65535)
_TWO_LEVELS = 0.05  # of the range: a mask of two levels, such as 0 and 1.02, leaves no doubt
_EDGES = 0.2  # of the foreground: at most so many pixels around its edges are neither black nor white
_BLACK = 0.1  # of the top: a palette's black may be lighter than 0 (3 in DRIVE)
_SOFT_LEVELS = 8  # between black and white; fewer levels that fill areas are labels; ours
_STEP = 0.1  # of the top: labels border on each other in larger steps than soft masks; ours
_LOSSY = (".jpg", ".jpeg", ".jfif", ".jp2", ".webp")
_NOISE = 0.1  # of the top: deviations from black and white after compression with losses


@dataclass(frozen=True)
class MaskLevels:
    """Evidence on the value range of a mask.

    Attributes:
        low: The smallest value.
        top: The largest value.
        two: Whether the background, 0, and the top are the only values.
        small: Whether the largest value that the file can hold is 255.
        labels: Some of the values if the mask is a label map; else empty.
    """

    low: float
    top: float
    two: bool
    small: bool
    labels: tuple[float, ...]

    @property
    def empty(self) -> bool:
        """Whether there is only background."""
        return self.top <= ROUNDING

    @property
    def fills(self) -> int:
        """The range (1, 255 or 65535) that the values fill; 0 if they fill no range."""
        near = _TWO_LEVELS if self.two else ROUNDING
        return next((full for full in _RANGES if abs(self.top - full) <= near * full), 0)

    @property
    def reach(self) -> int:
        """The range that the values fill, or fill by more than half; 0 if there is no such range."""
        return self.fills or next((full for full in _RANGES[1:] if full / 2 < self.top <= full), 0)

    @property
    def text(self) -> str:
        """The smallest and the largest value, for messages."""
        return f"{self.low:g} to {self.top:g}"


def find_levels(values: Values, path: Path) -> MaskLevels:
    """Collect evidence on the range of a mask.

    Raises:
        DataError: If some values are NaN or infinite, or clearly below 0.
    """
    levels = np.unique(values).astype(np.float64)
    if not len(levels) or not np.isfinite(levels).all():
        raise DataError(
            f"{path} has NaN, infinite values or no values: save background as 0 and foreground as 1", [path.name]
        )
    low, top = float(levels[0]), float(levels[-1])
    lossy = top > 1 and path.name.lower().endswith(_LOSSY)  # no labels survive in such files
    tolerance = (_NOISE if lossy else ROUNDING) * max(top, 1)
    if low < -tolerance:
        raise not_a_mask(path, f"values {low:g} to {top:g}")
    black = low if low <= _BLACK * top else 0.0
    middle = levels[(levels > black + tolerance) & (levels < top - tolerance)]
    labels = (
        top > 1 + _TWO_LEVELS
        and len(middle) > 0
        and not (lossy and _are_few(values, black + tolerance, top - tolerance))
        and _are_labels(values, black + tolerance, top - tolerance, len(middle))
    )
    examples = (*levels[:4].tolist(), *levels[4:][-1:].tolist())
    small = values.dtype in (np.uint8, np.bool_)
    return MaskLevels(low, top, not len(middle) and low <= black + tolerance, small, examples if labels else ())


def _are_few(values: Values, black: float, white: float) -> bool:
    """Return whether few values lie between black and white, as around edges that were compressed with losses."""
    middle = np.count_nonzero((values > black) & (values < white))
    return bool(middle < _EDGES * np.count_nonzero(values >= white))


def _are_labels(values: Values, black: float, white: float, number: int) -> bool:
    """Return whether values are labels, rather than soft edges or probabilities.

    At a soft edge, a value lies between the values of both sides. Labels fill areas of the same value, with large
    steps between the areas.

    Args:
        values: The values.
        black: Largest value of the background.
        white: Smallest value of the foreground.
        number: Number of different values between black and white.
    """
    numbers: Values = (
        values if values.dtype.kind == "f" else values.astype(np.int16 if values.dtype == np.uint8 else np.int64)
    )
    middle = (numbers > black) & (numbers < white)
    least: Values = _neighbours(numbers, np.minimum)
    most: Values = _neighbours(numbers, np.maximum)
    if 2 * np.count_nonzero(middle & (least < numbers) & (numbers < most)) >= np.count_nonzero(middle):
        return False
    if number < _SOFT_LEVELS:
        return True
    steps = []
    for axis in (-2, -1):
        first, second = (np.s_[..., :-1, :], np.s_[..., 1:, :]) if axis == -2 else (np.s_[..., :-1], np.s_[..., 1:])
        step = np.abs(numbers[first] - numbers[second])
        steps.append(step[(middle[first] | middle[second]) & (step > 0)])
    all_steps = np.concatenate(steps)
    return not len(all_steps) or float(np.median(all_steps)) >= _STEP * white


def _neighbours(values: Values, extreme: np.ufunc) -> Values:
    """Return the smallest or the largest value of each pixel and its eight neighbours in (..., H, W)."""
    for axis in (-2, -1):
        width = [(0, 0)] * values.ndim
        width[axis] = (1, 1)
        padded = np.pad(values, width, mode="edge")
        size = values.shape[axis]
        first, second, third = (np.take(padded, range(start, start + size), axis) for start in range(3))
        values = extreme(extreme(first, second), third)
    return values


def not_a_mask(path: Path, found: str, remedy: str = "") -> DataError:
    """Return the error for a mask without a clear range.

    Args:
        path: Its file.
        found: Its values, such as "values 0 to 3".
        remedy: What to do; by default, save 0 and 255.
    """
    remedy = remedy or "Save background as 0 and foreground as 255, one mask per label"
    return DataError(f"{path} has {found}; expected 0 to 1, or 0 to 255. {remedy}", [path.name])
