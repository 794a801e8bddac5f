"""Score a folder of masks of any method against a folder of reference masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.metrics.cases import distance_scores, overlap_scores
from diffmedseg.metrics.functional import confusion_counts
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.metrics.surface import surface_scores
from diffmedseg.reading.grid import Frame
from diffmedseg.reading.label_maps import pick_labels, region_labels
from diffmedseg.reading.masks import MaskReader, read_values, whole_labels
from diffmedseg.reading.names import (
    PICTURES,
    PREDICTIONS,
    VOLUMES,
    comparable,
    composed,
    files_below,
    mask_key,
    refuse_clashes,
)
from diffmedseg.reading.volumes import check_same_grid, read_volume
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Mask:
    """A mask.

    Attributes:
        values: (H, W) or (D, H, W), bool.
        volume: The volume of the mask, with its position; None for a picture.
        faded: Whether the mask is empty only because no value is above half of the range.
    """

    values: NDArray[np.bool_]
    volume: "sitk.Image | None"
    faded: bool = False

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Distance of neighbours along each axis in mm; None if the file does not state it."""
        return None if self.volume is None else self.volume.GetSpacing()[::-1]


@dataclass(frozen=True)
class LabelReader:
    """Reads one region of label maps.

    Attributes:
        wanted: The values of the region.
        known: The values of all regions.
    """

    wanted: tuple[int, ...]
    known: tuple[int, ...]

    def binarise(self, values: NDArray[np.generic], path: Path) -> NDArray[np.bool_]:
        """Return the mask of the region.

        Raises:
            DataError: If the map has other values.
        """
        try:
            return pick_labels(whole_labels(values), self.wanted, self.known)
        except DataError as error:
            raise DataError(f"{path}: {error}", [path.name]) from error

    @staticmethod
    def faded(values: NDArray[np.generic], foreground: NDArray[np.bool_]) -> bool:
        """Return False: label maps have no range."""
        return False


@dataclass(frozen=True)
class Pairs:
    """Masks of two folders, or one region of their label maps.

    Attributes:
        both: Files of prediction and reference, by name.
        missing: Names of reference masks without a prediction.
        extra: Names of predictions without a reference mask; they are left out.
        region: Name of the region.
        labels: Reads the region of label maps; None if the files are masks.
    """

    both: dict[str, tuple[Path, Path]]
    missing: list[str]
    extra: list[str]
    region: str = "mask"
    labels: LabelReader | None = None

    def regions(self, labels: str | None) -> "list[Pairs]":
        """Return the pairs of each region of label maps; for masks, return these pairs.

        Args:
            labels: See :func:`~diffmedseg.reading.label_maps.region_labels`; None if the files are masks.

        Raises:
            DataError: If that is no scheme of labels.
        """
        if labels is None:
            return [self]
        regions = region_labels(labels)
        known = tuple(sorted({value for values in regions.values() for value in values}))
        return [replace(self, region=name, labels=LabelReader(wanted, known)) for name, wanted in regions.items()]


@dataclass(frozen=True)
class Scored:
    """Scores of pairs of masks.

    Attributes:
        rows: Scores of each case.
        faded: Files of masks that are scored as empty although some values are above 0.
    """

    rows: list[CaseScore]
    faded: list[Path]


def pair_masks(predictions: Path, truths: Path, common: bool = False, kind: str = "mask") -> Pairs:
    """Pair masks of two folders by name. Names that repeat or identify no image are extended by their folders.

    Args:
        predictions: Folder of predictions; files without a reference mask are left out.
        truths: Folder of reference masks.
        common: Leave out reference masks without a prediction, too.
        kind: Files of ``diffmedseg predict`` to use: ``mask`` or ``labels``.

    Raises:
        DataError: If there are no masks, two masks of the same name, or a reference mask without a prediction.
    """
    files = _mask_files(predictions, kind), _mask_files(truths, kind)
    keys = [[comparable(mask_key(path)) for path in paths] for paths in files]
    # A name such as mask.png identifies no image.
    repeats = any(len(set(names)) < len(names) for names in keys)
    nested = repeats or any(mask_key(Path(f"x_{key}")) == "x" for key in keys[1])
    predicted, true = (_index(paths, root, nested) for paths, root in zip(files, (predictions, truths), strict=True))
    missing = sorted(name for key, (name, _) in true.items() if key not in predicted)
    if missing and not common:
        raise DataError(
            f"{len(missing)} of {len(true)} masks in {truths} have no prediction in {predictions}: "
            f"{first_names(missing)}. The mean over the other masks is not the mean of the set. Add predictions, or "
            "use --common."
        )
    both = {name: (predicted[key][1], path) for key, (name, path) in sorted(true.items()) if key in predicted}
    if not both:
        names, expected = (
            first_names([name for name, _ in index.values()]) or "nothing" for index in (predicted, true)
        )
        raise DataError(f"No mask in {predictions} ({names}) has the name of a mask in {truths} ({expected}).")
    return Pairs(both, missing, sorted(name for key, (name, _) in predicted.items() if key not in true))


def _mask_files(folder: Path, kind: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    files = files_below(folder)
    predicted = {path.parent for path in files if path.name == PREDICTIONS}
    masks = [path for path in files if path.name.lower().endswith((*VOLUMES, *PICTURES))]
    wanted = tuple(f"_{kind}{suffix}" for suffix in (*VOLUMES, *PICTURES))  # predict writes other maps, too
    return [path for path in masks if path.name.lower().endswith(wanted) or not predicted & {*path.parents}]


def _index(files: Sequence[Path], root: Path, nested: bool) -> dict[str, tuple[str, Path]]:
    """Return the name and file of each mask, by the comparable form of the name."""
    named_paths = []
    for path in files:
        folder = path.parent.relative_to(root).as_posix()
        name = f"{folder}/{mask_key(path)}" if nested and folder != "." else mask_key(path)
        named_paths.append((composed(name), path))
    refuse_clashes(named_paths, "masks", "Score one folder at a time.")
    return {comparable(name): (name, path) for name, path in named_paths}


def read_mask(path: Path, beside: MaskReader | LabelReader | None = None) -> Mask:
    """Read a mask. Foreground is above half of its range.

    Args:
        path: A picture or a volume.
        beside: Reader of all masks of the folder; None for a single mask.

    Raises:
        DataError: If the mask is unreadable, has colours or transparency, or has other values than a mask (such as
            labels).
    """
    values, volume = _read(path)
    reader = beside or MaskReader([path], read_grey)
    foreground = reader.binarise(values, path)
    return Mask(foreground, volume, reader.faded(values, foreground))


def _read(path: Path) -> "tuple[NDArray[np.generic], sitk.Image | None]":
    if path.name.lower().endswith(VOLUMES):
        import SimpleITK as sitk

        volume = read_volume(path)
        return sitk.GetArrayFromImage(volume), volume
    return read_values(path), None


def read_grey(path: Path) -> NDArray[np.generic]:
    """Read the grey values of a picture or volume, as stored; see :func:`read_mask`."""
    return _read(path)[0]


def readers_of(pairs: Pairs) -> tuple[MaskReader | LabelReader, MaskReader | LabelReader]:
    """Return the reader of the predictions and the reader of the reference masks."""
    if pairs.labels is not None:
        return pairs.labels, pairs.labels
    predictions, truths = zip(*pairs.both.values(), strict=True)
    return MaskReader(predictions, read_grey), MaskReader(truths, read_grey)


def score_pairs(pairs: Pairs, spacing: Sequence[float] | None = None) -> Scored:
    """Score masks that were paired.

    Args:
        pairs: See :func:`pair_masks`.
        spacing: Distance of rows and of columns in mm, for files that do not state it; None measures surface distances
            in pixels.

    Raises:
        DataError: If masks cannot be read, or their sizes or grids differ.
    """
    if spacing is not None and min(spacing) <= 0:
        raise DataError(f"The spacing is {tuple(spacing)}; it has to be above 0.")
    rows, unlike, both = [], [], pairs.both
    any_foreground: list[bool] = [False, False]
    faded: tuple[list[Path], list[Path]] = [], []
    readers = readers_of(pairs)
    for key, paths in both.items():
        predicted_path, true_path = paths
        predicted, true = (read_mask(path, reader) for path, reader in zip(paths, readers, strict=True))
        for side, mask in enumerate((predicted, true)):
            any_foreground[side] |= bool(mask.values.any())
            faded[side].extend([paths[side]] if mask.faded else [])
        if predicted.values.shape != true.values.shape:
            unlike.append(f"{predicted_path} is {_size(predicted)}, {true_path} {_size(true)}")
            continue
        if predicted.volume is not None and true.volume is not None:
            check_same_grid(Frame.of(predicted.volume), Frame.of(true.volume), predicted_path, true_path)
        a, b = torch.from_numpy(predicted.values), torch.from_numpy(true.values)
        surface = surface_scores(a, b, true.spacing or spacing)
        counts = [int(n.sum()) for n in confusion_counts(a, b)]
        slices = len(a) if a.ndim == 3 else 1
        rows.append(
            CaseScore(
                key,
                pairs.region,
                **overlap_scores(*counts),
                **distance_scores(surface),
                num_slices=slices,
                num_samples=1,
                num_raters=1,
            )
        )
    if unlike:
        raise DataError(
            f"{len(unlike)} masks differ in size: {first_names(unlike)}. Resize predictions to the original size."
        )
    for has_foreground, paths_faded in zip(any_foreground, faded, strict=True):
        if paths_faded and not has_foreground:
            raise DataError(
                f"{first_names(list(map(str, paths_faded)))}: no value is above half of the range, in these masks and "
                "in all masks beside them. Save background as 0 and foreground as 255, one mask per label"
            )
    return Scored(rows, [*faded[0], *faded[1]])


def score_folders(
    predictions: Path, truths: Path, common: bool = False, spacing: Sequence[float] | None = None
) -> list[CaseScore]:
    """Score a folder of masks; see :func:`pair_masks` and :func:`score_pairs`."""
    return score_pairs(pair_masks(predictions, truths, common), spacing).rows


def _size(mask: Mask) -> str:
    return " x ".join(map(str, mask.values.shape))
