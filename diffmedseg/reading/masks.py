"""Read the grey values of masks, and find the foreground."""

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffmedseg.errors import DataError
from diffmedseg.reading.levels import has_wide_colour, says_white_is_zero
from diffmedseg.reading.mask_levels import ROUNDING, MaskLevels, Values, find_levels, not_a_mask
from diffmedseg.reading.opening import PictureError, open_image
from diffmedseg.reading.png import check_rows

_COLOUR = 64  # channels may differ by so much: JPEG keeps colours less well
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
            f"{path}: it is dark, and has 16 bits per colour; only 8 of them are read. Save it as grey values, 0 and "
            "255",
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
            f"{path}: it is partly transparent. Save it as grey values, 0 and 255, without transparency",
            [path.name],
        )
    if np.ptp(colours[..., :3], axis=-1).max() <= _COLOUR:
        return np.asarray(image.convert("L"))
    indices = np.asarray(image)
    if image.mode == "P" and indices.max() <= 1 and not colours[indices == 0][..., :3].any():
        return indices  # black, and one colour
    raise DataError(f"{path}: it is coloured. Save a mask as grey values, one mask per label", [path.name])


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
        self._others: tuple[MaskLevels, ...] | None = None

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
            raise not_a_mask(path, f"values up to {top:g}, none above half of the range of the masks beside it")
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
        above: NDArray[np.bool_] = values > self._range(find_levels(values, path), path) / 2
        return above

    @staticmethod
    def faded(values: Values, foreground: NDArray[np.bool_]) -> bool:
        """Return whether a mask is empty only because none of its values lies above half of the range."""
        return bool(not foreground.any() and values.max() > ROUNDING)

    def _other_evidence(self) -> tuple[MaskLevels, ...]:
        """Return the evidence of all masks that are not empty. Unreadable masks fail later, when they are read."""
        with _evidence:
            if self._others is None:
                evidence = []
                for path in self._paths:
                    try:
                        evidence.append(find_levels(self._read(path), path))
                    except DataError:
                        continue
                self._others = tuple(levels for levels in evidence if not levels.empty)
            return self._others

    def _range(self, evidence: MaskLevels, path: Path) -> float:
        """Return the top of the range of a mask."""
        if evidence.labels:
            shown_labels = ", ".join(f"{level:g}" for level in evidence.labels)
            raise not_a_mask(
                path,
                f"values {shown_labels}",
                "Make one mask per label; training also takes the grey values of each region, by `values` in the "
                "data's yaml",
            )
        if evidence.empty or (evidence.fills == 1 and not evidence.two):
            return 1
        if evidence.fills > 1 or (evidence.small and evidence.reach > 1):
            return evidence.reach
        other_masks = self._other_evidence()
        ranges = {levels.reach for levels in other_masks} - {0}
        if evidence.top < 1 or evidence.fills == 1:  # 0 and 1, or fractions
            return self._range_up_to_one(evidence, path, other_masks)
        fits = [full for full in ranges if full >= evidence.top]
        if fits:
            return min(fits) if evidence.small or len(fits) == 1 else max(fits)
        same = all(levels.two and abs(levels.top - evidence.top) <= ROUNDING * evidence.top for levels in other_masks)
        if not ranges and evidence.two and same:
            return evidence.top
        if not ranges and evidence.small and not evidence.two:  # soft masks, all of them low
            return 255
        if ranges:
            raise self._unlike_error(evidence, path, max(ranges))
        raise not_a_mask(path, f"values {evidence.text}")

    def _range_up_to_one(self, evidence: MaskLevels, path: Path, other_masks: tuple[MaskLevels, ...]) -> float:
        """Return 1, unless values up to 1 may also be the lowest values of a larger range."""
        larger_ranges = [
            levels.reach for levels in other_masks if levels.reach > 1 and not (evidence.two and levels.two)
        ]
        if larger_ranges and evidence.top > 1 / 2:
            raise self._unlike_error(evidence, path, max(larger_ranges))
        return 1

    @staticmethod
    def _unlike_error(evidence: MaskLevels, path: Path, full: float) -> DataError:
        return DataError(
            f"{path} has values {evidence.text}; other masks beside it have values up to {full:g}. Save all of "
            "them with the same values, 0 and 255",
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
    return whole if values.dtype.kind == "f" and bool((np.abs(values - whole) <= ROUNDING).all()) else values
