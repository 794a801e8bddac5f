"""Conversion of the slices of a volume to the images of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffmedseg.reading.windows import CropWindow, square_window


@dataclass(frozen=True)
class SliceInput:
    """Conversion of the slices of a volume to the images of a model: the same in training and in prediction.

    Attributes:
        context: Number of neighbouring slices on each side of a slice that the model sees with the slice (2.5-D).
        distance: Distance of these slices in mm; None for the next slices, at any distance.
        ranges: By channel, the stored values that become -1 and 1, such as Hounsfield units. Other channels are
            z-scored over the brain.
        depth: Number of slices that a network of volumes sees at once; 0 for networks of slices.
        square_pixels: Whether slices get a margin of background so that a pixel of the model's grid is square in mm.
            Otherwise each slice fills the grid, whatever its shape.
    """

    context: int = 0
    distance: float | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    depth: int = 0
    square_pixels: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.context < 0:
            raise ValueError(f"context is {self.context}; expected the number of slices on each side, at least 0.")
        if self.distance is not None and not self.distance > 0:
            raise ValueError(f"context_distance is {self.distance}; expected mm above 0, or null for the next slices.")
        if self.depth < 0:
            raise ValueError(
                f"depth is {self.depth}; expected the number of slices seen at once, or 0 for single ones."
            )
        if self.depth and self.context:
            raise ValueError(
                f"A network of volumes sees {self.depth} slices at once: set context to 0, not {self.context}."
            )
        for channel, (low, high) in self.ranges.items():
            if not low < high:
                raise ValueError(f"The range of {channel} is {low:g}, {high:g}; the first has to be below the second.")
        pairs = {str(name): (float(low), float(high)) for name, (low, high) in self.ranges.items()}
        object.__setattr__(self, "ranges", pairs)  # files of settings give lists

    @property
    def is_plain(self) -> bool:
        """Whether slices are shown one by one and fill the grid, and every channel is z-scored."""
        return not self.context and not self.ranges and not self.depth and not self.square_pixels

    def ranges_of(self, channels: Sequence[str]) -> dict[int, tuple[float, float]]:
        """Return the ranges by the number of their channel."""
        return {number: self.ranges[name] for number, name in enumerate(channels) if name in self.ranges}

    def image_channels(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of all channels of an image: first of the slice itself, then of its neighbours."""
        return tuple(f"{name}{offset:+d}" if offset else name for offset in self._offsets() for name in channels)

    def window(self, size: tuple[int, int], spacing: tuple[float, float], grid: tuple[int, int]) -> CropWindow | None:
        """Return the window of a slice that fills the model's grid; None for the slice itself.

        Args:
            size: Height and width of the slice.
            spacing: Distance of its rows and columns, in mm.
            grid: Height and width of the grid.
        """
        return square_window(size, spacing, grid) if self.square_pixels else None

    def neighbours(self, index: int, depth: int, spacing: float) -> list[int]:
        """Return the numbers of the slices that are shown with a slice, in the order of :meth:`image_channels`.

        Args:
            index: Number of the slice, which comes first.
            depth: Number of slices of the volume. The first and the last slice also replace slices beyond them.
            spacing: Distance of neighbouring slices of the volume, in mm.
        """
        step = 1.0 if self.distance is None else self.distance / spacing
        return [min(max(index + round(offset * step), 0), depth - 1) for offset in self._offsets()]

    def _offsets(self) -> list[int]:
        return [0, *(sign * far for far in range(1, self.context + 1) for sign in (-1, 1))]


def without_gaps(numbers: Sequence[int]) -> list[int]:
    """Return all numbers from the first to the last: a network of volumes sees neighbours where they are."""
    return list(range(numbers[0], numbers[-1] + 1)) if numbers else []
