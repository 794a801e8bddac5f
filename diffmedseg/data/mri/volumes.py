"""Reading volumes, by SimpleITK, and bringing their values into the model's range."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

# Values beyond five standard deviations are clipped, and these five fill [0, 1] and [-1, 0] (design.md, section 3).
_CLIP = 5.0
_AIR = 0.1  # of a bright voxel; ours
# What is dark takes up to .06 of brains of BraTS 2015 (.12 where their background is set to the mean), and .36 and more
# of what differs from a blank rim in cases of LGG: measured for each channel and all of them.
_NOISE = 0.2


def find_brain(channels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the brain, or the head where there is a skull: in training and in prediction alike.

    Where the skull was stripped that is where any channel differs from its own constant background: the commonest value
    on the faces of the volume, which need not be 0 (data that was z-scored before has a negative one). A channel with
    noise there, where no value fills half of them, has none and is left to the others.

    Where it was not there is noise around the head, though perhaps behind a blank rim. So where no channel has such a
    background, or much of what differs from it is dark in every channel, all that is dark in every channel is air. (Not
    where the background lies well within the range of a channel, as 0 in z-scored data: there dark is no air.)

    Args:
        channels: (C, D, H, W).

    Returns:
        (D, H, W).
    """
    brain, dark = np.zeros(channels.shape[1:], dtype=bool), np.ones(channels.shape[1:], dtype=bool)
    for channel in channels:
        faces = np.concatenate([channel[:, [0, -1]].ravel(), channel[:, :, [0, -1]].ravel()])
        values, counts = np.unique(faces, return_counts=True)
        if 2 * counts.max() >= len(faces):
            background, least, most = values[counts.argmax()], channel.min(), channel.max()
            brain |= channel != background
            if _AIR * (most - least) < background - least < most - least:
                dark[:] = False
        low, bright = np.percentile(channel, (1, 99))
        black = min(low, 0)  # where it may be negative
        dark &= channel <= black + _AIR * (bright - black)
    noise = np.count_nonzero(brain & dark)
    return brain if noise < _NOISE * np.count_nonzero(brain) else ~dark


def shown_part(
    channels: NDArray[np.float32], brain: NDArray[np.bool_], ranges: Mapping[int, tuple[float, float]]
) -> NDArray[np.bool_]:
    """Return what a model is shown of a volume: its brain, or all of it where every channel has a range, as CT has.

    Args:
        channels: (C, D, H, W).
        brain: (D, H, W).
        ranges: As of :func:`normalise`.
    """
    return np.ones_like(brain) if len(ranges) == len(channels) else brain


#: What :func:`normalise` does, for people.
NORMALISATION = (
    "by volume: zero mean and unit deviation over the brain, clipped to +-5, divided by 5; -1 outside of the brain"
)


#: What :func:`normalise` does with a channel that has a range, for people.
RANGE_NORMALISATION = "{channel} by its range: {low:g} becomes -1 and {high:g} becomes 1"


def normalise(
    channels: NDArray[np.float32],
    brain: NDArray[np.bool_],
    names: list[str],
    ranges: Mapping[int, tuple[float, float]] | None = None,
) -> NDArray[np.float32]:
    """Bring each channel to zero mean and unit deviation over the brain, clipped to +-5 and divided by 5.

    Args:
        channels: (C, D, H, W).
        brain: (D, H, W).
        names: What each channel is, for the message.
        ranges: By number of a channel, the values that become -1 and 1 instead, everywhere.

    Returns:
        In [-1, 1]; -1 outside of the brain, but for channels with a range.

    Raises:
        DataError: If there is no brain, or a channel is constant within it.
    """
    if not brain.any():
        raise DataError(f"{names[0]} has no brain: every voxel is background")
    result = np.full_like(channels, -1)
    for number, (channel, out, name) in enumerate(zip(channels, result, names, strict=True)):
        if ranges and number in ranges:
            low, high = ranges[number]
            np.subtract(channel, np.float32(low), out=out)
            out *= np.float32(2 / (high - low))
            out -= 1
            np.clip(out, -1, 1, out=out)
            continue
        values = channel[brain]
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        if not deviation > 1e-6 * max(abs(values.min()), abs(values.max()), 1e-6):
            raise DataError(f"{name} is constant ({values[0]:g}) within the brain: download it again")
        del values
        for source, target, inside in zip(channel, out, brain, strict=True):  # slice by slice: a volume may be large
            target[inside] = ((source[inside] - mean) / deviation).clip(-_CLIP, _CLIP) / _CLIP
    return result
