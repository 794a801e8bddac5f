"""Read the grey values of masks, and find the foreground."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffmedseg.errors import DataError
from diffmedseg.reading.levels import has_wide_colour, says_white_is_zero
from diffmedseg.reading.opening import PictureError, open_image
from diffmedseg.reading.png import check_rows

Values = NDArray[Any]

_RANGES = (1, 255, 65535)
_ROUNDING = 1e-3  # of the range: resampling and float exports leave so much
_TWO_LEVELS = 0.05  # of the range: a mask of two levels, such as 0 and 1.02, leaves no doubt
_EDGES = 0.2  # of the foreground: at most so many pixels around its edges are neither black nor white
_BLACK = 0.1  # of the top: a palette's black may be lighter than 0 (3 in DRIVE)
_COLOUR = 64  # channels may differ by so much: JPEG keeps colours less well
_SOFT_LEVELS = 8  # between black and white; fewer levels that fill areas are labels; ours
_STEP = 0.1  # of the top: labels border on each other in larger steps than soft masks; ours
_LOSSY = (".jpg", ".jpeg", ".jfif", ".jp2", ".webp")
_NOISE = 0.1  # of the top: deviations from black and white after compression with losses
_evidence = Lock()  # shared by all readers: a reader with a lock of its own could not be sent to other processes


def read_values(path: Path) -> Values:
    """Read the grey values of a mask in a picture, and turn it upright by its EXIF orientation.

    Returns:
        (h, w), as stored: bool, whole numbers or floats.

    Raises:
        DataError: If the file cannot be read, holds several pictures, or has colours or transparency.
    """
    with open_image(path) as image:
        if image.format == "PNG":
            check_rows(path)
        reduced = has_wide_colour(image)
        inverted = says_white_is_zero(image) and image.mode not in {"1", "L"}
        if inverted and image.mode in {"I", "F"}:
            raise PictureError("it says that 0 is white, in 32 bits. Save background as 0 and foreground as 255")
        values = _grey(ImageOps.exif_transpose(image), path)
    if reduced and values.max() <= 255 / 2:
        raise DataError(
            f"{path}: it is dark, and has 16 bits per colour, of which 8 are read. Save it as grey values, 0 and 255",
            [path.name],
        )
    return 65535 - values.astype(np.uint16) if inverted else values


def _grey(image: Image.Image, path: Path) -> Values:
    """Return the grey values of a picture. Refuse transparency and colours, where the mask is ambiguous."""
    if image.mode in {"1", "L", "I", "F"} or image.mode.startswith("I;16"):
        return np.asarray(image)
    colours = np.asarray(image.convert("RGBA")).astype(np.int16)
    if colours[..., 3].min() < 255:
        raise DataError(
            f"{path}: it is partly transparent. Say by grey values what is foreground, 0 and 255, without transparency",
            [path.name],
        )
    if np.ptp(colours[..., :3], axis=-1).max() <= _COLOUR:
        return np.asarray(image.convert("L"))
    indices = np.asarray(image)
    if image.mode == "P" and indices.max() <= 1 and not colours[indices == 0][..., :3].any():
        return indices  # black, and one colour
    raise DataError(f"{path}: it is coloured. Save a mask as grey values, one mask per label", [path.name])


@dataclass(frozen=True)
class _Levels:
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
        return self.top <= _ROUNDING

    @property
    def fills(self) -> int:
        """The range (1, 255 or 65535) that the values fill; 0 if they fill no range."""
        near = _TWO_LEVELS if self.two else _ROUNDING
        return next((full for full in _RANGES if abs(self.top - full) <= near * full), 0)

    @property
    def reach(self) -> int:
        """The range that the values fill, or fill by more than half; 0 if there is no such range."""
        return self.fills or next((full for full in _RANGES[1:] if full / 2 < self.top <= full), 0)

    @property
    def text(self) -> str:
        return f"{self.low:g} to {self.top:g}"


def _levels(values: Values, path: Path) -> _Levels:
    """Collect evidence on the range of a mask.

    Raises:
        DataError: If some values are NaN or infinite, or clearly below 0.
    """
    levels = np.unique(values).astype(np.float64)
    if not len(levels) or not np.isfinite(levels).all():
        raise DataError(f"{path} has values that are no numbers: save background as 0 and foreground as 1", [path.name])
    low, top = float(levels[0]), float(levels[-1])
    lossy = top > 1 and path.name.lower().endswith(_LOSSY)  # no labels survive in such files
    tolerance = (_NOISE if lossy else _ROUNDING) * max(top, 1)
    if low < -tolerance:
        raise _refused(path, f"values {low:g} to {top:g}")
    black = low if low <= _BLACK * top else 0.0
    middle = levels[(levels > black + tolerance) & (levels < top - tolerance)]
    labels = (
        top > 1 + _TWO_LEVELS
        and len(middle) > 0
        and not (lossy and _are_few(values, black + tolerance, top - tolerance))
        and _are_labels(values, black + tolerance, top - tolerance, len(middle))
    )
    some = (*levels[:4].tolist(), *levels[4:][-1:].tolist())
    small = values.dtype in (np.uint8, np.bool_)
    return _Levels(low, top, not len(middle) and low <= black + tolerance, small, some if labels else ())


def _are_few(values: Values, black: float, white: float) -> bool:
    """Whether few values lie between black and white, as around edges that were compressed with losses."""
    middle = np.count_nonzero((values > black) & (values < white))
    return bool(middle < _EDGES * np.count_nonzero(values >= white))


def _are_labels(values: Values, black: float, white: float, number: int) -> bool:
    """Whether values are labels, rather than soft edges or probabilities.

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
    steps_found = np.concatenate(steps)
    return not len(steps_found) or float(np.median(steps_found)) >= _STEP * white


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


def _refused(path: Path, found: str, remedy: str = "") -> DataError:
    remedy = remedy or "Save background as 0 and foreground as 255, one mask per label"
    return DataError(f"{path} has {found}: not those of a mask, 0 to 1 or 0 to 255. {remedy}", [path.name])


class MaskReader:
    """Reads masks that belong together, such as those of a folder.

    A pixel above half of the range is foreground. The range is 1, 255, 65535, or the only value beside 0 of all masks.
    Most masks show their range. Where a mask does not, such as a probability map of low values, the other masks decide
    it. The order of the masks does not matter.

    Args:
        paths: All masks that belong together.
        read: Reads the values of a mask.
    """

    def __init__(self, paths: Iterable[Path], read: Callable[[Path], Values] = read_values) -> None:
        self._paths, self._read = tuple(paths), read
        self._others: tuple[_Levels, ...] | None = None

    def read(self, path: Path) -> NDArray[np.bool_]:
        """Read a mask for training.

        Returns:
            (h, w), True in the foreground.

        Raises:
            DataError: As :meth:`binarise`, or if the mask is empty only because all its values are low.
        """
        values = self._read(path)
        foreground = self.binarise(values, path)
        if self.faded(values, foreground):
            top = float(values.max())
            raise _refused(path, f"values up to {top:g}, none above half of the range of the masks beside it")
        return foreground

    def binarise(self, values: Values, path: Path) -> NDArray[np.bool_]:
        """Return the foreground.

        Args:
            values: Values of a mask.
            path: Its file, for the message.

        Raises:
            DataError: If the values are labels, or their range is not clear; names the file and the remedy.
        """
        if values.dtype == np.bool_:
            return values.astype(np.bool_)
        above: NDArray[np.bool_] = values > self._range(_levels(values, path), path) / 2
        return above

    @staticmethod
    def faded(values: Values, foreground: NDArray[np.bool_]) -> bool:
        """Whether a mask is empty only because none of its values lies above half of the range."""
        return bool(not foreground.any() and values.max() > _ROUNDING)

    def _beside(self) -> tuple[_Levels, ...]:
        """Return the evidence of all masks that are not empty. Unreadable masks fail later, when they are read."""
        with _evidence:
            if self._others is None:
                evidence = []
                for path in self._paths:
                    try:
                        evidence.append(_levels(self._read(path), path))
                    except DataError:
                        continue
                self._others = tuple(levels for levels in evidence if not levels.empty)
            return self._others

    def _range(self, own: _Levels, path: Path) -> float:
        """Return the top of the range of a mask."""
        if own.labels:
            some = ", ".join(f"{level:g}" for level in own.labels)
            raise _refused(
                path,
                f"values {some}",
                "Make one mask per label; training also takes the grey values of each region, by `values` in the "
                "data's yaml",
            )
        if own.empty or (own.fills == 1 and not own.two):
            return 1
        if own.fills > 1 or (own.small and own.reach > 1):
            return own.reach
        beside = self._beside()
        ranges = {levels.reach for levels in beside} - {0}
        if own.top < 1 or own.fills == 1:  # 0 and 1, or fractions
            return self._of_one(own, path, beside)
        fits = [full for full in ranges if full >= own.top]
        if fits:
            return min(fits) if own.small or len(fits) == 1 else max(fits)
        same = all(levels.two and abs(levels.top - own.top) <= _ROUNDING * own.top for levels in beside)
        if not ranges and own.two and same:
            return own.top
        if not ranges and own.small and not own.two:  # soft masks, all of them low
            return 255
        if ranges:
            raise self._unlike(own, path, max(ranges))
        raise _refused(path, f"values {own.text}")

    def _of_one(self, own: _Levels, path: Path, beside: tuple[_Levels, ...]) -> float:
        """Return 1, unless values up to 1 may also be the lowest values of a larger range."""
        larger = [levels.reach for levels in beside if levels.reach > 1 and not (own.two and levels.two)]
        if larger and own.top > 1 / 2:
            raise self._unlike(own, path, max(larger))
        return 1

    @staticmethod
    def _unlike(own: _Levels, path: Path, full: float) -> DataError:
        return DataError(
            f"{path} has values {own.text}; other masks beside it have values up to {full:g}. Save all of them with "
            "the same values, 0 and 255",
            [path.name],
        )


def binarise(values: Values, path: Path) -> NDArray[np.bool_]:
    """Return the foreground of a single mask; see :meth:`MaskReader.binarise`.

    Raises:
        DataError: As :meth:`MaskReader.binarise`.
    """
    return MaskReader([path], lambda _: values).binarise(values, path)


def whole_labels(values: Values) -> Values:
    """Round labels to whole numbers if all of them are within 1e-3 of one, as after resampling or a float export."""
    whole = np.round(values)
    return whole if values.dtype.kind == "f" and bool((np.abs(values - whole) <= _ROUNDING).all()) else values
