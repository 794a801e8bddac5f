"""Scoring a folder of masks against a folder of true ones, whatever wrote them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.data.files import PICTURES, UNREADABLE, VOLUMES, binarise, first_names, mask_key
from diffmedseg.data.mri.volumes import check_same_grid, read_volume
from diffmedseg.data.store import DataError
from diffmedseg.metrics.cases import CaseScore, overlap_scores
from diffmedseg.metrics.functional import confusion_counts
from diffmedseg.metrics.surface import SurfaceScores, surface_scores


@dataclass(frozen=True)
class Mask:
    """A mask.

    Attributes:
        values: (H, W) or (D, H, W), bool.
        spacing: Distance of neighbours along each axis in mm; None where the file does not say.
    """

    values: NDArray[np.bool_]
    spacing: tuple[float, ...] | None


def pair_masks(predictions: Path, truths: Path, common: bool = False) -> dict[str, tuple[Path, Path]]:
    """Pair masks of two folders by name, at any depth.

    Args:
        predictions: Folder; files that have no true mask are left out.
        truths: Folder.
        common: Leave out true masks without a prediction, too.

    Raises:
        DataError: If there are none, two of a name, or a true mask without a prediction.
    """
    found, true = _index(predictions), _index(truths)
    missing = true.keys() - found.keys()
    if missing and not common:
        raise DataError(
            f"{len(missing)} of {len(true)} masks in {truths} have no prediction in {predictions}: "
            f"{first_names(missing)}. A mean over the others would not be that of the set; --common takes it."
        )
    pairs = {key: (found[key], true[key]) for key in sorted(true) if key in found}
    if not pairs:
        raise DataError(
            f"No mask in {predictions} ({first_names(list(found)) or 'nothing'}) has the name of one in {truths} "
            f"({first_names(list(true)) or 'nothing'})."
        )
    return pairs


def _index(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.")
    by_key: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.name.lower().endswith((*VOLUMES, *PICTURES)):
            by_key[mask_key(path)].append(path)
    twice = [" and ".join(map(str, paths)) for paths in by_key.values() if len(paths) > 1]
    if twice:
        raise DataError(f"{len(twice)} masks have the same name: {first_names(twice)}. Score one folder at a time.")
    return {key: paths[0] for key, paths in by_key.items()}


def read_mask(path: Path) -> Mask:
    """Read a mask: foreground is above half of its range, which is [0, 1], [0, 255] or [0, 65535].

    Raises:
        DataError: If it is unreadable, or its values say neither foreground nor background (labels, for instance).
    """
    if path.name.lower().endswith(VOLUMES):
        import SimpleITK as sitk

        volume = read_volume(path)
        column, row, depth = volume.GetSpacing()
        return Mask(binarise(sitk.GetArrayFromImage(volume), path), (depth, row, column))
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{path} holds {getattr(image, 'n_frames', 1)} pictures: split it")
            grey = image if image.mode in {"1", "I", "F"} or image.mode.startswith("I;16") else image.convert("L")
            return Mask(binarise(np.asarray(grey), path), None)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def score_folders(
    predictions: Path, truths: Path, common: bool = False, spacing: Sequence[float] | None = None
) -> list[CaseScore]:
    """Score a folder of masks.

    Args:
        predictions: Folder of masks.
        truths: Folder of true masks.
        common: Leave out true masks without a prediction.
        spacing: Distance of neighbours in mm for files that do not say, of rows and columns; None leaves the distances
            between surfaces out where it is not known.

    Raises:
        DataError: If masks cannot be paired or read, or their sizes or grids differ.
    """
    rows, unlike = [], []
    for key, (predicted_path, true_path) in pair_masks(predictions, truths, common).items():
        predicted, true = read_mask(predicted_path), read_mask(true_path)
        if predicted.values.shape != true.values.shape:
            unlike.append(f"{predicted_path} is {_size(predicted)}, {true_path} {_size(true)}")
            continue
        if predicted.spacing and true.spacing:
            check_same_grid(read_volume(predicted_path), read_volume(true_path), predicted_path, true_path)
        a, b = torch.from_numpy(predicted.values), torch.from_numpy(true.values)
        steps = true.spacing or spacing
        surface = surface_scores(a, b, steps) if steps else SurfaceScores(float("nan"), float("nan"))
        counts = [int(n.sum()) for n in confusion_counts(a, b)]
        slices = len(a) if a.ndim == 3 else 1
        rows.append(
            CaseScore(
                key,
                "mask",
                **overlap_scores(*counts),
                hd95=surface.hd95,
                nsd=surface.nsd,
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


def _size(mask: Mask) -> str:
    return " x ".join(map(str, mask.values.shape))
