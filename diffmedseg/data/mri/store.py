"""Cases decoded once into memory maps, and their slices."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.cache import build_once, files_key, map_array
from diffmedseg.data.mri.layout import Case, Layout
from diffmedseg.data.mri.volumes import Channels, NormalVolume, shown_part
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.files import read_json
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.reading.windows import CropWindow

_FORMAT = 6  # raise it with any change of the files that are written
_LEVELS = 65535  # of uint16, over [-1, 1]: steps of 3e-5, or 1.5e-4 standard deviations
_OPEN_CASES = 64  # each takes two file handles


class DecodedCase:
    """A case on the model's grid, with its labels as they were given, read as needed from a folder of the cache.

    Attributes:
        image: (D, C, H, W), uint16 for [-1, 1], read-only.
        labels: (D, h, w), uint8, at native size, read-only.
        brain: (D,): whether a slice shows brain or has a label.
        tumour: (D,): whether a slice has a label.
        copies: Numbers of pairs of equal channels.
        spacing: Distance of slices, rows and columns, in mm.
        notes: Ambiguities in the position of its files, for people; often empty.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.image: NDArray[np.uint16] = map_array(folder / "image.npy")
            self.labels: NDArray[np.uint8] = map_array(folder / "labels.npy")
            facts = read_json(folder / "facts.json")
            self.brain, self.tumour = np.array(facts["brain"]), np.array(facts["labelled"])
            self.spacing: tuple[float, float, float] = tuple(facts["spacing"])
            self.copies: list[tuple[int, int]] = [(a, b) for a, b in facts["copies"]]
            self.notes: list[str] = facts["notes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"The cache {folder} is damaged ({error}). Delete this folder; it will be made again."
            ) from error


def to_slices(
    channels: Channels,
    brain: NDArray[np.bool_],
    names: Sequence[str],
    size: tuple[int, int],
    ranges: Mapping[int, tuple[float, float]] | None = None,
    window: CropWindow | None = None,
) -> Tensor:
    """Normalise a volume over its brain and shrink its slices. Training and prediction both use this function.

    Args:
        channels: The channels, as stored.
        brain: (D, H, W).
        names: Names of the channels, for messages.
        size: (H, W) of the model's grid.
        ranges: Values that become -1 and 1, by number of the channel. Other channels are z-scored.
        window: See :func:`shrink_slices`.

    Returns:
        (D, C, *size), float32 in [-1, 1].

    Raises:
        DataError: If there is no brain, or a channel is constant within it.
    """
    return shrink_slices(NormalVolume.of(channels, brain, names, ranges), size, window)


def shrink_slices(volume: NormalVolume, size: tuple[int, int], window: CropWindow | None = None) -> Tensor:
    """Shrink the slices of a volume to a grid.

    Args:
        volume: The volume.
        size: (H, W) of the grid.
        window: Window of each slice that fills the grid, with background beyond the slice. None for the slice itself,
            whose aspect is not kept.

    Returns:
        (D, C, *size), float32 in [-1, 1].
    """
    shrunk = torch.empty(len(volume.brain), len(volume.channels), *size)
    for out, normal in zip(shrunk, volume.slices(), strict=True):
        image = torch.from_numpy(normal)[None]
        image = image if window is None else window.cut(image, -1.0)
        out[:] = F.interpolate(image, size, mode="bilinear", antialias=True)[0]
    return shrunk.clamp_(-1, 1)


open_case = lru_cache(_OPEN_CASES)(DecodedCase)


def decode(
    cache: Path,
    name: str,
    case: Case,
    layout: Layout,
    size: tuple[int, int],
    allowed: set[int],
    slice_input: SliceInput | None = None,
    ignore: int | None = None,
) -> Path:
    """Decode a case into the cache, unless an earlier call with the same files and settings did.

    Args:
        cache: Folder of the cache.
        name: Name of the data set.
        case: The case.
        layout: Reads the case.
        size: (H, W) of the model's grid.
        allowed: Values of the label scheme.
        slice_input: How slices become images; None for the default.
        ignore: The value of voxels with an unknown label; it is in ``allowed``. None if all labels are known.

    Returns:
        The case's folder, for :class:`DecodedCase`.

    Raises:
        DataError: If the case cannot be read, or the cache cannot be written.
    """
    files = ((case.id, path) for path in case.files)
    slice_input = slice_input or SliceInput()
    ranges = slice_input.ranges_of(layout.modalities)
    extra: list[object] = [] if not ranges and ignore is None else [sorted(ranges.items()), ignore]
    extra += ["square pixels"] if slice_input.square_pixels else []  # other keys stay: a cache lasts over versions
    key = files_key(files, (_FORMAT, size, sorted(allowed), sorted(map(repr, vars(layout).items())), *extra))
    target = cache / f"{name}-{case.id}-{key}"

    def write(folder: Path) -> None:
        raw = layout.read(case, allowed)
        names = [f"{case.images[0].parent}: {modality}" for modality in layout.modalities]
        brain = shown_part(raw.channels, raw.brain, ranges)
        window = slice_input.window(_size_of(raw.labels), raw.spacing[1:], size)
        image = to_slices(raw.channels, brain, names, size, ranges, window)
        folder.mkdir()
        np.save(folder / "image.npy", ((image + 1) / 2 * _LEVELS).round().numpy().astype(np.uint16))
        np.save(folder / "labels.npy", raw.labels)
        labelled = ((raw.labels > 0) & (raw.labels != (ignore or 0))).any((1, 2))
        facts = {
            "spacing": raw.spacing,
            "brain": (brain.any((1, 2)) | labelled).tolist(),
            "labelled": labelled.tolist(),
            "copies": [(a, b) for a, b in combinations(range(len(names)), 2) if np.array_equal(*raw.channels[[a, b]])],
            "notes": raw.notes,
        }
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")

    # Compressed files grow when they are decoded, three to five times in BraTS.
    build_once(target, 5 * sum(path.stat().st_size for path in case.files) / 1e6, write)
    return target


class SliceStore(ImageStore):
    """Axial slices of decoded cases.

    Args:
        cases: Id and folder of each case.
        regions: The labels of each region, in order.
        slices: Numbers of the slices to use, by id of the case.
        size: (H, W) of the model's grid.
        slice_input: Which slices are shown together; None for single slices.
        ignore: The label of voxels with an unknown label. No training loss and no score counts them.
    """

    def __init__(
        self,
        cases: Mapping[str, Path],
        regions: Sequence[Sequence[int]],
        slices: Mapping[str, Sequence[int]],
        size: tuple[int, int],
        slice_input: SliceInput | None = None,
        ignore: int | None = None,
    ) -> None:
        self._folders, self._size = dict(cases), size
        self._slice_input, self._ignore = slice_input or SliceInput(), ignore
        self._items = [(case, index) for case in cases for index in slices[case]]
        self.cases = [case for case, _ in self._items]
        self.ids = [f"{case}_{index:03d}" for case, index in self._items]
        self._table = np.zeros((len(regions), 256), dtype=np.uint8)
        for row, labels in zip(self._table, regions, strict=True):
            row[list(labels)] = 1

    def _locate(self, index: int) -> tuple[DecodedCase, int]:
        case, number = self._items[index]
        return open_case(self._folders[case]), number

    def image(self, index: int) -> Tensor:
        """Return (C, H, W), float32 in [-1, 1]: the slice, then the slices that are shown with it."""
        case, number = self._locate(index)
        together = self._slice_input.neighbours(number, len(case.image), case.spacing[0])
        slices = np.concatenate([case.image[neighbour] for neighbour in together])
        return torch.from_numpy(slices.astype(np.float32)) * (2 / _LEVELS) - 1

    def masks(self, index: int) -> Tensor:
        """Return (1, K, H, W), uint8 in {0, 1}, by nearest neighbour: the value at the centre of each pixel."""
        return torch.from_numpy(self._table[:, self._small_labels(index)])[None]

    def unsure(self, index: int) -> Tensor | None:
        """Return (1, H, W), uint8 in {0, 1}: the pixels with an unknown label; None if all labels are known."""
        if self._ignore is None:
            return None
        return torch.from_numpy((self._small_labels(index) == self._ignore).astype(np.uint8))[None]

    def field_of_view(self, index: int) -> Tensor | None:
        """Return (h, w), bool: the pixels with a known label; None if all labels are known."""
        if self._ignore is None:
            return None
        case, number = self._locate(index)
        return torch.from_numpy(case.labels[number] != self._ignore)

    def _small_labels(self, index: int) -> NDArray[np.uint8]:
        """Return the labels on the model's grid."""
        case, number = self._locate(index)
        window, labels = self.window(index), case.labels[number]
        if window is not None:
            labels = window.cut(torch.from_numpy(labels.copy()), 0).numpy()
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.intp)
            for new, old in zip(self._size, labels.shape, strict=True)
        )
        small: NDArray[np.uint8] = labels[rows[:, None], columns]
        return small

    def reference(self, index: int) -> Tensor:
        """Return (1, K, h, w), uint8 in {0, 1}."""
        case, number = self._locate(index)
        return torch.from_numpy(self._table[:, case.labels[number]])[None]

    def window(self, index: int) -> CropWindow | None:
        """Return the window of the slice that fills the grid; None for the slice itself."""
        case, _ = self._locate(index)
        return self._slice_input.window(_size_of(case.labels), case.spacing[1:], self._size)

    def spacing(self, index: int) -> tuple[float, ...]:
        """Return the distance of slices, rows and columns, in mm."""
        return self._locate(index)[0].spacing

    def position(self, index: int) -> int:
        """Return the number of the slice in its case."""
        return self._items[index][1]

    def num_slices(self, index: int) -> int:
        """Return the number of slices of the slice's case, with the slices that are left out."""
        return len(self._locate(index)[0].labels)

    def label(self, index: int) -> int:
        """Return 1 if the slice has any of the regions, else 0."""
        case, number = self._locate(index)
        return int(bool(case.tumour[number]) and bool(self._table[:, case.labels[number]].any()))


def _size_of(labels: NDArray[np.uint8]) -> tuple[int, int]:
    """Return height and width of slices (D, h, w)."""
    return int(labels.shape[1]), int(labels.shape[2])
