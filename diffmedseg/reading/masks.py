"""Reading masks."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.opening import open_image

_MOST_LABELS = 31  # whole numbers up to this are labels rather than grey values: ours


def read_binary_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask of two levels, black and white; damage by JPEG in between is tolerated.

    Returns:
        Shape (h, w), uint8 in {0, 1}: 1 where the grey value is above 127.

    Raises:
        DataError: If the file is unreadable, or dark all over but not black, as where the levels are 0 and 1.
    """
    with open_image(path) as image:
        grey = np.asarray(image.convert("L"))
    if 0 < grey.max() <= 127:
        raise DataError(f"{path} has grey values up to {grey.max()}; a mask has 0 outside and 255 inside: rescale it")
    return (grey > 127).astype(np.uint8)


def value_range(values: NDArray[np.generic]) -> int:
    """Return the top of the range that the values of a mask fill: 1, 255 or 65535; 0 where they fit none."""
    if values.dtype == np.bool_:
        return 1
    low, top = float(values.min()), float(values.max())
    return next((full for full in (1, 255, 65535) if low >= 0 and top <= full), 0)


def binarise(values: NDArray[np.generic], path: Path, full: int | None = None) -> NDArray[np.bool_]:
    """Take what is above half of the range for foreground.

    Args:
        values: Values of a mask.
        path: Its file, for the message.
        full: Top of the range; None guesses it from the values: then a mask that stays below half is refused.

    Raises:
        DataError: If the values say neither foreground nor background, as labels do.
    """
    own = value_range(values)
    numbers = values.astype(np.float64)
    top, levels = float(numbers.max()), np.unique(numbers[numbers > 0])
    guessed, full = full is None, own if full is None else full
    labels = 1 < top <= _MOST_LABELS and len(levels) <= _MOST_LABELS and bool((levels % 1 == 0).all())
    if not own or own > full or labels or (guessed and 0 < top <= full / 2):
        raise DataError(
            f"{path} has values {numbers.min():g} to {top:g}: not those of a mask, 0 to 1 or 0 to 255. Make one mask "
            "per label"
        )
    above: NDArray[np.bool_] = numbers > full / 2
    return above
