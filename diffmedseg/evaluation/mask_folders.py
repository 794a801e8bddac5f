"""Scoring a folder of masks against a folder of true ones, whatever wrote them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.errors import DataError
from diffmedseg.metrics.cases import CaseScore, distance_scores, overlap_scores
from diffmedseg.metrics.functional import confusion_counts
from diffmedseg.metrics.surface import surface_scores
from diffmedseg.reading.masks import binarise, value_range
from diffmedseg.reading.names import PICTURES, VOLUMES, mask_key
from diffmedseg.reading.opening import UNREADABLE
from diffmedseg.reading.volumes import check_same_grid, read_volume
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk

_GREY = 64  # channels may differ by so much: JPEG keeps colours less well


@dataclass(frozen=True)
class Mask:
    """A mask.

    Attributes:
        values: (H, W) or (D, H, W), bool.
        volume: What it was read from, which says where it lies; None of a picture.
    """

    values: NDArray[np.bool_]
    volume: "sitk.Image | None"

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Distance of neighbours along each axis in mm; None where the file does not say."""
        return None if self.volume is None else self.volume.GetSpacing()[::-1]


@dataclass(frozen=True)
class Pairs:
    """Masks of two folders.

    Attributes:
        both: By name, file of the prediction and of the truth.
        missing: Names of true masks without a prediction.
        extra: Names of predictions without a true mask, which are left out.
    """

    both: dict[str, tuple[Path, Path]]
    missing: list[str]
    extra: list[str]


def pair_masks(predictions: Path, truths: Path, common: bool = False) -> Pairs:
    """Pair masks of two folders by name; names that say nothing or repeat are told apart by their folders.

    Args:
        predictions: Folder; files that have no true mask are left out.
        truths: Folder.
        common: Leave out true masks without a prediction, too.

    Raises:
        DataError: If there are none, two of a name, or a true mask without a prediction.
    """
    files = _mask_files(predictions), _mask_files(truths)
    keys = [[mask_key(path) for path in one] for one in files]
    # mask.png says nothing of whose mask it is.
    nested = any(len(set(one)) < len(one) for one in keys) or any(mask_key(Path(f"x_{key}")) == "x" for key in keys[1])
    found, true = (_index(one, root, nested) for one, root in zip(files, (predictions, truths), strict=True))
    missing = sorted(true.keys() - found.keys())
    if missing and not common:
        raise DataError(
            f"{len(missing)} of {len(true)} masks in {truths} have no prediction in {predictions}: "
            f"{first_names(missing)}. A mean over the others would not be that of the set; --common takes it."
        )
    both = {key: (found[key], true[key]) for key in sorted(true) if key in found}
    if not both:
        raise DataError(
            f"No mask in {predictions} ({first_names(list(found)) or 'nothing'}) has the name of one in {truths} "
            f"({first_names(list(true)) or 'nothing'})."
        )
    return Pairs(both, missing, sorted(found.keys() - true.keys()))


def _mask_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.name.lower().endswith((*VOLUMES, *PICTURES))]


def _index(files: Sequence[Path], root: Path, nested: bool) -> dict[str, Path]:
    by_key: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        folder = path.parent.relative_to(root).as_posix()
        by_key[f"{folder}/{mask_key(path)}" if nested and folder != "." else mask_key(path)].append(path)
    twice = [" and ".join(map(str, paths)) for paths in by_key.values() if len(paths) > 1]
    if twice:
        raise DataError(f"{len(twice)} masks have the same name: {first_names(twice)}. Score one folder at a time.")
    return {key: paths[0] for key, paths in by_key.items()}


def read_mask(path: Path, full: int | None = None) -> Mask:
    """Read a mask: foreground is above half of its range.

    Args:
        path: A picture or a volume.
        full: Top of the range, 1, 255 or 65535; None guesses it from the values.

    Raises:
        DataError: If it is unreadable, has colours or transparency, or its values say neither foreground nor background
            (labels, for instance).
    """
    values, volume = _read_values(path)
    return Mask(binarise(values, path, full), volume)


def _read_values(path: Path) -> "tuple[NDArray[np.generic], sitk.Image | None]":
    if path.name.lower().endswith(VOLUMES):
        import SimpleITK as sitk

        volume = read_volume(path)
        return sitk.GetArrayFromImage(volume), volume
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{path} holds {getattr(image, 'n_frames', 1)} pictures: split it")
            return _grey(image, path), None
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _grey(image: Image.Image, path: Path) -> NDArray[np.generic]:
    """Return the grey values of a picture, and refuse one whose mask may lie elsewhere."""
    if image.mode in {"1", "L", "I", "F"} or image.mode.startswith("I;16"):
        return np.asarray(image)
    colours = np.asarray(image.convert("RGBA")).astype(np.int16)
    if np.ptp(colours[..., 3]) > 0:
        raise DataError(f"{path} is partly transparent: say by grey values what is foreground")
    if np.ptp(colours[..., :3], axis=-1).max() <= _GREY:
        return np.asarray(image.convert("L"))
    indices = np.asarray(image)
    if image.mode == "P" and indices.max() <= 1:
        return indices
    raise DataError(f"{path} is coloured: save a mask as grey values, one mask per label")


def _range(files: Iterable[Path]) -> int:
    """Return the top of the range that the masks of a folder fill: of one alone it may not show."""
    full = 1
    for path in files:
        full = max(full, value_range(_read_values(path)[0]))
        if full > 1:
            break
    return full


def score_pairs(pairs: Pairs, spacing: Sequence[float] | None = None) -> list[CaseScore]:
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
    full = [_range(paths) for paths in zip(*both.values(), strict=True)]
    for key, (predicted_path, true_path) in both.items():
        predicted, true = (read_mask(path, top) for path, top in zip((predicted_path, true_path), full, strict=True))
        if predicted.values.shape != true.values.shape:
            unlike.append(f"{predicted_path} is {_size(predicted)}, {true_path} {_size(true)}")
            continue
        if predicted.volume is not None and true.volume is not None:
            check_same_grid(predicted.volume, true.volume, predicted_path, true_path)
        a, b = torch.from_numpy(predicted.values), torch.from_numpy(true.values)
        surface = surface_scores(a, b, true.spacing or spacing)
        counts = [int(n.sum()) for n in confusion_counts(a, b)]
        slices = len(a) if a.ndim == 3 else 1
        rows.append(
            CaseScore(
                key,
                "mask",
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
    return rows


def score_folders(
    predictions: Path, truths: Path, common: bool = False, spacing: Sequence[float] | None = None
) -> list[CaseScore]:
    """Score a folder of masks; see :func:`pair_masks` and :func:`score_pairs`."""
    return score_pairs(pair_masks(predictions, truths, common), spacing)


def _size(mask: Mask) -> str:
    return " x ".join(map(str, mask.values.shape))
