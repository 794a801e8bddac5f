"""Scoring a folder of masks against a folder of true ones, whatever wrote them."""

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
        volume: What it was read from, which says where it lies; None of a picture.
        faded: Whether it is empty only because none of its values lies above half of the range.
    """

    values: NDArray[np.bool_]
    volume: "sitk.Image | None"
    faded: bool = False

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Distance of neighbours along each axis in mm; None where the file does not say."""
        return None if self.volume is None else self.volume.GetSpacing()[::-1]


@dataclass(frozen=True)
class LabelReader:
    """Reads one region out of label maps.

    Attributes:
        wanted: The values of the region.
        known: The values of all regions.
    """

    wanted: tuple[int, ...]
    known: tuple[int, ...]

    def binarise(self, values: NDArray[np.generic], path: Path) -> NDArray[np.bool_]:
        """Return where the region is.

        Raises:
            DataError: If the map has other values.
        """
        try:
            return pick_labels(whole_labels(values), self.wanted, self.known)
        except DataError as error:
            raise DataError(f"{path}: {error}", [path.name]) from error

    @staticmethod
    def faded(values: NDArray[np.generic], foreground: NDArray[np.bool_]) -> bool:
        """Labels do not fade: whole numbers say what a voxel is."""
        return False


@dataclass(frozen=True)
class Pairs:
    """Masks of two folders, or one region of their label maps.

    Attributes:
        both: By name, file of the prediction and of the truth.
        missing: Names of true masks without a prediction.
        extra: Names of predictions without a true mask, which are left out.
        region: Name of the region.
        labels: Reads the region out of label maps; None where files are masks.
    """

    both: dict[str, tuple[Path, Path]]
    missing: list[str]
    extra: list[str]
    region: str = "mask"
    labels: LabelReader | None = None

    def regions(self, labels: str | None) -> "list[Pairs]":
        """Return the pairs of each region of label maps, or these of masks.

        Args:
            labels: See :func:`~diffmedseg.reading.label_maps.region_labels`; None where files are masks.

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
        rows: By case.
        faded: Files of the masks that count as empty although not all of their values are 0.
    """

    rows: list[CaseScore]
    faded: list[Path]


def pair_masks(predictions: Path, truths: Path, common: bool = False, kind: str = "mask") -> Pairs:
    """Pair masks of two folders by name; names that say nothing or repeat are told apart by their folders.

    Args:
        predictions: Folder; files that have no true mask are left out.
        truths: Folder.
        common: Leave out true masks without a prediction, too.
        kind: Which files of ``diffmedseg predict`` are taken: ``mask`` or ``labels``.

    Raises:
        DataError: If there are none, two of a name, or a true mask without a prediction.
    """
    files = _mask_files(predictions, kind), _mask_files(truths, kind)
    keys = [[comparable(mask_key(path)) for path in one] for one in files]
    # mask.png says nothing of whose mask it is.
    nested = any(len(set(one)) < len(one) for one in keys) or any(mask_key(Path(f"x_{key}")) == "x" for key in keys[1])
    found, true = (_index(one, root, nested) for one, root in zip(files, (predictions, truths), strict=True))
    missing = sorted(name for key, (name, _) in true.items() if key not in found)
    if missing and not common:
        raise DataError(
            f"{len(missing)} of {len(true)} masks in {truths} have no prediction in {predictions}: "
            f"{first_names(missing)}. A mean over the others would not be that of the set; --common takes it."
        )
    both = {name: (found[key][1], path) for key, (name, path) in sorted(true.items()) if key in found}
    if not both:
        there, wanted = (first_names([name for name, _ in one.values()]) or "nothing" for one in (found, true))
        raise DataError(f"No mask in {predictions} ({there}) has the name of one in {truths} ({wanted}).")
    return Pairs(both, missing, sorted(name for key, (name, _) in found.items() if key not in true))


def _mask_files(folder: Path, kind: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.")
    files = files_below(folder)
    predicted = {path.parent for path in files if path.name == PREDICTIONS}
    masks = [path for path in files if path.name.lower().endswith((*VOLUMES, *PICTURES))]
    wanted = tuple(f"_{kind}{suffix}" for suffix in (*VOLUMES, *PICTURES))  # predict writes other maps, too
    return [path for path in masks if path.name.lower().endswith(wanted) or not predicted & {*path.parents}]


def _index(files: Sequence[Path], root: Path, nested: bool) -> dict[str, tuple[str, Path]]:
    """Return the name and file of each mask, by the form in which names are compared."""
    named = []
    for path in files:
        folder = path.parent.relative_to(root).as_posix()
        name = f"{folder}/{mask_key(path)}" if nested and folder != "." else mask_key(path)
        named.append((composed(name), path))
    refuse_clashes(named, "masks", "Score one folder at a time.")
    return {comparable(name): (name, path) for name, path in named}


def read_mask(path: Path, beside: MaskReader | LabelReader | None = None) -> Mask:
    """Read a mask: foreground is above half of its range.

    Args:
        path: A picture or a volume.
        beside: Reads the masks that belong together with it; None for a mask that stands alone.

    Raises:
        DataError: If it is unreadable, has colours or transparency, or its values say neither foreground nor background
            (labels, for instance).
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
    """Return what reads the predictions and what reads the true masks, each of which belong together."""
    if pairs.labels is not None:
        return pairs.labels, pairs.labels
    predictions, truths = zip(*pairs.both.values(), strict=True)
    return MaskReader(predictions, read_grey), MaskReader(truths, read_grey)


def score_pairs(pairs: Pairs, spacing: Sequence[float] | None = None) -> Scored:
    """Score masks that were paired.

    Args:
        pairs: See :func:`pair_masks`.
        spacing: Distance of neighbours in mm for files that do not say, of rows and columns; None measures distances
            between their surfaces in pixels.

    Raises:
        DataError: If masks cannot be read, or their sizes or grids differ.
    """
    if spacing is not None and min(spacing) <= 0:
        raise DataError(f"The spacing is {tuple(spacing)}; it has to be above 0.")
    rows, unlike, both = [], [], pairs.both
    solid: list[bool] = [False, False]
    faded: tuple[list[Path], list[Path]] = [], []
    readers = readers_of(pairs)
    for key, paths in both.items():
        predicted_path, true_path = paths
        predicted, true = (read_mask(path, reader) for path, reader in zip(paths, readers, strict=True))
        for side, mask in enumerate((predicted, true)):
            solid[side] |= bool(mask.values.any())
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
            f"{len(unlike)} masks differ in size: {first_names(unlike)}. Resize predictions to the original."
        )
    for some, found in zip(solid, faded, strict=True):
        if found and not some:
            raise DataError(
                f"{first_names(list(map(str, found)))}: no value is above half of the range, in these and in all masks "
                "beside them. Save background as 0 and foreground as 255, one mask per label"
            )
    return Scored(rows, [*faded[0], *faded[1]])


def score_folders(
    predictions: Path, truths: Path, common: bool = False, spacing: Sequence[float] | None = None
) -> list[CaseScore]:
    """Score a folder of masks; see :func:`pair_masks` and :func:`score_pairs`."""
    return score_pairs(pair_masks(predictions, truths, common), spacing).rows


def _size(mask: Mask) -> str:
    return " x ".join(map(str, mask.values.shape))
