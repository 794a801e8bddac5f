"""Find the brain in volumes, and scale their values to the model's range."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

# Values beyond five standard deviations are clipped. Then -5 to 5 becomes -1 to 1.
_CLIP = 5.0
_AIR = 0.1  # of the value of a bright voxel; our choice
# Share of dark voxels, measured for each channel and for all channels: up to .06 of the brain in BraTS 2015 (.12 if the
# background is set to the mean); .36 or more of the voxels that differ from a blank rim in LGG.
_NOISE = 0.2
_PART = 2**20  # values that are summed in float64 at once

#: The channels of a volume, C of (D, H, W), float32, or whole numbers of at most 16 bits; as one array or several.
Channels = Sequence[NDArray[Any]] | NDArray[np.float32]


def find_brain(channels: Channels) -> NDArray[np.bool_]:
    """Find the brain, or the head if there is a skull. Training and prediction both use this function.

    Scans without a skull have a constant background: the commonest value on the faces of the volume. It need not be 0;
    data that was z-scored before has a negative background. The brain is where any channel differs from its own
    background. A channel without a value that fills half of the faces has noise there. It has no background, and the
    other channels decide.

    Scans with a skull have noise around the head, possibly behind a blank rim. This is assumed if no channel has a
    constant background, or if many of the voxels that differ from it are dark in every channel. Then all voxels that
    are dark in every channel are air. The exception is a background well within the range of a channel, such as 0 in
    z-scored data: there, dark voxels are no air.

    Args:
        channels: The channels.

    Returns:
        (D, H, W).
    """
    brain, dark = np.zeros(channels[0].shape, dtype=bool), np.ones(channels[0].shape, dtype=bool)
    for channel in channels:
        faces = np.concatenate([channel[:, [0, -1]].ravel(), channel[:, :, [0, -1]].ravel()])
        face_values, counts = np.unique(faces, return_counts=True)
        values = channel.astype(np.float32)  # one channel at a time: a volume may be large
        if 2 * counts.max() >= len(faces):
            background, least, most = np.float32(face_values[counts.argmax()]), values.min(), values.max()
            brain |= values != background
            if _AIR * (most - least) < background - least < most - least:
                dark[:] = False
        low, bright = np.percentile(values, (1, 99), overwrite_input=True)
        del values
        black = min(low, 0)  # values may be negative
        dark &= channel <= black + _AIR * (bright - black)
    noise = np.count_nonzero(brain & dark)
    return brain if noise < _NOISE * np.count_nonzero(brain) else ~dark


def shown_part(
    channels: Channels, brain: NDArray[np.bool_], ranges: Mapping[int, tuple[float, float]]
) -> NDArray[np.bool_]:
    """Return the voxels that a model is shown: the brain, or all voxels if every channel has a range, as in CT.

    Args:
        channels: The channels.
        brain: (D, H, W).
        ranges: Values that become -1 and 1, by number of the channel.
    """
    return np.ones_like(brain) if len(ranges) == len(channels) else brain


#: Normalisation by :class:`NormalVolume`, for people.
NORMALISATION = (
    "by volume: zero mean and unit deviation over the brain, clipped to +-5, divided by 5; -1 outside of the brain"
)


#: Normalisation of a channel with a range, for people.
RANGE_NORMALISATION = "{channel} by its range: {low:g} becomes -1 and {high:g} becomes 1"


@dataclass(frozen=True)
class _Score:
    """Zero mean and unit deviation over the brain, clipped to +-5 and divided by 5; -1 outside of the brain."""

    mean: float
    deviation: float

    def bring(self, values: NDArray[Any], brain: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
        scored = (values[brain] - np.float64(self.mean)) / self.deviation
        out[:] = -1
        out[brain] = scored.clip(-_CLIP, _CLIP) / _CLIP


@dataclass(frozen=True)
class _Range:
    """The values that become -1 and 1, everywhere."""

    low: float
    high: float

    def bring(self, values: NDArray[Any], brain: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
        np.subtract(values, np.float32(self.low), out=out)
        out *= np.float32(2 / (self.high - self.low))
        out -= 1
        np.clip(out, -1, 1, out=out)


@dataclass(frozen=True)
class NormalVolume:
    """A volume that normalises its slices one at a time, to save memory.

    Attributes:
        channels: The channels, or views of them.
        brain: (D, H, W).
        scales: Scaling of each channel to [-1, 1].
    """

    channels: Channels
    brain: NDArray[np.bool_]
    scales: Sequence[_Score | _Range]

    @classmethod
    def of(
        cls,
        channels: Channels,
        brain: NDArray[np.bool_],
        names: Sequence[str],
        ranges: Mapping[int, tuple[float, float]] | None = None,
    ) -> "NormalVolume":
        """Find the mean and the deviation of each channel over the brain.

        Args:
            channels: See the class.
            brain: See the class.
            names: Names of the channels, for messages.
            ranges: Values that become -1 and 1, by number of the channel. Other channels are z-scored.

        Raises:
            DataError: If there is no brain, or a channel is constant within it.
        """
        if not brain.any():
            raise DataError(f"{names[0]} has no brain: every voxel is background")
        ranges = ranges or {}
        scales = [
            _Range(*ranges[number]) if number in ranges else _fit_score(channel[brain], name)
            for number, (channel, name) in enumerate(zip(channels, names, strict=True))
        ]
        return cls(channels, brain, scales)

    def turned(self, turn: Callable[[NDArray[Any]], NDArray[Any]]) -> "NormalVolume":
        """Return the volume along other axes.

        Args:
            turn: Function that returns a view of an array (D, H, W).
        """
        return NormalVolume([turn(channel) for channel in self.channels], turn(self.brain), self.scales)

    def slices(self) -> Iterator[NDArray[np.float32]]:
        """Yield each slice, (C, H, W), in [-1, 1]. Outside the brain it is -1, except in channels with a range."""
        for number, brain in enumerate(self.brain):
            result = np.empty((len(self.channels), *brain.shape), np.float32)
            for scale, channel, out in zip(self.scales, self.channels, result, strict=True):
                scale.bring(channel[number], brain, out)
            yield result


def _fit_score(values: NDArray[Any], name: str) -> _Score:
    """Find mean and deviation of the values of a brain, in parts, because a volume may be large."""
    mean = float(values.mean(dtype=np.float64))
    parts = (values[first : first + _PART] for first in range(0, len(values), _PART))
    deviation = float(np.sqrt(sum(np.square(part - np.float64(mean)).sum() for part in parts) / len(values)))
    if not deviation > 1e-6 * max(abs(float(values.min())), abs(float(values.max())), 1e-6):
        raise DataError(f"{name} is constant ({values[0]:g}) within the brain: download it again")
    return _Score(mean, deviation)
