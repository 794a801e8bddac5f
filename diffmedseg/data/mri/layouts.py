"""Layouts of the cases of a data set on disk."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.mri.finding import (
    chosen,
    folder_beside,
    folders_below,
    no_case,
    pair_volumes,
    patient_of,
    unique,
    with_suffix,
)
from diffmedseg.data.mri.layout import Case, Layout, RawCase, assemble
from diffmedseg.data.mri.volumes import find_brain
from diffmedseg.errors import DataError
from diffmedseg.reading.masks import MaskReader
from diffmedseg.reading.names import comparable, listing, mask_key, stem, volume_files
from diffmedseg.reading.opening import open_image
from diffmedseg.reading.volumes import read_volume, read_volumes
from diffmedseg.wording import count, first_names, plain_pattern

_log = logging.getLogger(__name__)


class CaseFolders(Layout):
    """A folder per case, with a NIfTI file per modality: the layout of BraTS.

    Args:
        case: Regular expression of the whole name of a case's folder. Group ``patient``, if there is one, is the
            patient.
        images: For each modality, the name of its file without suffix. ``{case}`` is replaced by the name of the case.
        segmentation: Name of the segmentation, in the same form.
        brain_mask: Name of the brain mask, in the same form. None finds the brain in the image.
        modalities: The modalities to read, in order; None for all of ``images``.
    """

    def __init__(
        self,
        case: str,
        images: Mapping[str, str],
        segmentation: str,
        brain_mask: str | None = None,
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.case, self.segmentation, self.brain_mask = re.compile(case), segmentation, brain_mask
        self.images = {name: images[name] for name in chosen("modalities", modalities, list(images))}
        self.modalities = tuple(self.images)

    def find(self, root: Path) -> list[Case]:
        """Find the cases; see the base class."""
        folders = unique([path for path in folders_below(root) if self.case.fullmatch(path.name)])
        if not folders:
            raise no_case(root, self.case, f"folders with names such as {plain_pattern(self.case.pattern)}")
        cases, unlabelled = [], []
        for folder in folders:
            segmentation = self._segmentation(folder)
            if segmentation is None:
                unlabelled.append(folder.name)
                continue
            images = tuple(self._file(folder, pattern, f"the {name} image") for name, pattern in self.images.items())
            brain = None if self.brain_mask is None else self._file(folder, self.brain_mask, "the brain mask")
            cases.append(Case(folder.name, patient_of(self.case, folder.name), images, (segmentation,), brain))
        if unlabelled:
            _log.warning("%d cases in %s have no segmentation: %s.", len(unlabelled), root, first_names(unlabelled))
        if not cases:
            expected = self.segmentation.format(case=unlabelled[0]) + ".nii.gz"
            raise DataError(
                f"None of the {len(unlabelled)} cases in {root} has a segmentation, such as "
                f"{unlabelled[0]}/{expected}; there is {listing(folders[0])}. Use the training set: validation sets "
                "have no segmentations."
            )
        return cases

    def _segmentation(self, folder: Path) -> Path | None:
        segmentation = with_suffix(folder, self.segmentation)
        if segmentation is not None:
            return segmentation
        # BraTS20_Training_355 of Kaggle's copy has W39_1998.09.19_Segm.nii. No other name is accepted as the
        # reference: a lone file could be somebody's prediction.
        candidates = [path for path in volume_files(folder) if stem(path).lower().endswith(("_seg", "_segm", "-seg"))]
        if len(candidates) != 1:
            return None
        name = self.segmentation.format(case=folder.name)
        _log.warning("%s has no %s; %s is used instead.", folder, name, candidates[0].name)
        return candidates[0]

    @staticmethod
    def _file(folder: Path, pattern: str, noun: str) -> Path:
        path = with_suffix(folder, pattern)
        if path is None:
            name = pattern.format(case=folder.name)
            raise DataError(
                f"{folder} has no {name}.nii.gz ({noun}); there is {listing(folder)}. Download the case again, or "
                "leave the modality out by layout.modalities."
            )
        return path

    def read(self, case: Case, allowed: set[int]) -> RawCase:
        """Read a case; see the base class."""
        return assemble([read_volume(path) for path in case.images], case, allowed)


class FourDimensional(Layout):
    """A NIfTI file per case with all its modalities, beside a folder of segmentations.

    The layout of the Medical Segmentation Decathlon, and of the user's own volumes.

    Args:
        case: Regular expression of a file's name without suffix.
        images: Folder of the images.
        segmentations: Folder of the segmentations, with the same names.
        channels: The modality of each volume along the fourth axis; one modality for three-dimensional files.
        modalities: The modalities to read, in order; None for all.
    """

    def __init__(
        self,
        case: str,
        images: str,
        segmentations: str,
        channels: Sequence[str],
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.case, self.folders, self.channels = re.compile(case), (images, segmentations), tuple(channels)
        self.modalities = tuple(chosen("modalities", modalities, channels))
        self.order = [self.channels.index(name) for name in self.modalities]

    def find(self, root: Path) -> list[Case]:
        """Find the cases; see the base class."""
        images, segmentations = self.folders
        cases = []
        for folder, paths in self._folders(root):
            masks, unpaired = self._pair(folder, paths)
            for path in paths:
                if path not in masks:
                    content = listing(folder) if folder.is_dir() else "no such folder"
                    raise DataError(
                        f"{path} has no segmentation in {folder}; there is {content}. Each image needs a segmentation "
                        f"of the same name.{_number_advice(stem(path))}"
                    )
                cases.append(Case(stem(path), patient_of(self.case, stem(path)), (path,), (masks[path],)))
            if unpaired:
                _log.warning("%s without an image in %s: %s.", count(len(unpaired), "mask"), folder, _names(unpaired))
        if not cases:
            called = "" if self.case.fullmatch("\0") else f" such as {plain_pattern(self.case.pattern)}.nii.gz"
            expected = f"volumes{called} in a folder {images}, and their masks in {segmentations} beside it"
            raise no_case(root, self.case, expected, {"images": images, "segmentations": segmentations})
        return cases

    def masks_alone(self, root: Path) -> list[Path]:
        """Return the masks without an image; see the base class."""
        return [path for folder, paths in self._folders(root) for path in self._pair(folder, paths)[1]]

    def _folders(self, root: Path) -> Iterator[tuple[Path, list[Path]]]:
        """Yield each folder of masks, with the images beside it."""
        images, segmentations = self.folders
        for folder in folders_below(root):
            if comparable(folder.name) == comparable(images):
                paths = [path for path in volume_files(folder) if self.case.fullmatch(stem(path))]
                yield folder_beside(folder, segmentations), paths

    def _pair(self, folder: Path, images: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
        masks = volume_files(folder) if folder.is_dir() else []
        pairs, unpaired = pair_volumes(images, masks)
        return pairs, [path for path in unpaired if self.case.fullmatch(mask_key(path))]

    def read(self, case: Case, allowed: set[int]) -> RawCase:
        """Read a case; see the base class."""
        volumes = read_volumes(case.images[0])
        if len(volumes) != len(self.channels):
            raise DataError(
                f"{case.images[0]} holds {len(volumes)} volumes; expected {len(self.channels)}: "
                f"{', '.join(self.channels)}"
            )
        return assemble([volumes[index] for index in self.order], case, allowed)


def _names(paths: Sequence[Path]) -> str:
    return first_names([path.name for path in paths])


def _number_advice(name: str) -> str:
    """Advise on a number at the end of a name: nnU-Net numbers modalities in this way."""
    if not re.search(r"_\d{4}$", name):
        return ""
    return (
        f" If {name[-5:]} is the number of a modality (nnU-Net): remove it if there is one modality, or join several "
        "modalities into a four-dimensional file."
    )


class SliceFolders(Layout):
    """A folder per case, with a colour picture and a mask per slice: Kaggle's lgg-mri-segmentation.

    Args:
        case: Regular expression of the whole name of a case's folder.
        channels: The modality of each colour.
        spacing: Distance of slices, rows and columns in mm; pictures do not state it.
        modalities: The modalities to read, in order; None for all.
    """

    def __init__(
        self,
        case: str,
        channels: Sequence[str],
        spacing: tuple[float, float, float],
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.case, self.channels, self.spacing = re.compile(case), tuple(channels), spacing
        self.modalities = tuple(chosen("modalities", modalities, channels))
        self.order = [self.channels.index(name) for name in self.modalities]

    def find(self, root: Path) -> list[Case]:
        """Find the cases. Slices are sorted by number, because the numbers are not padded; see the base class."""
        folders = unique([path for path in folders_below(root) if self.case.fullmatch(path.name)])
        if not folders:
            raise no_case(root, self.case, f"folders with names such as {plain_pattern(self.case.pattern)}")
        cases = []
        for folder in folders:
            pattern = re.compile(rf"{re.escape(folder.name)}_(\d+)(_mask)?\.tif", re.IGNORECASE)
            kinds: dict[str, dict[int, Path]] = {"images": {}, "masks": {}}
            for path in folder.iterdir():
                if match := pattern.fullmatch(path.name):
                    kinds["masks" if match[2] else "images"][int(match[1])] = path
            images, masks = kinds["images"], kinds["masks"]
            unpaired = [f"slice {number}" for number in images.keys() ^ masks.keys()]
            if unpaired:
                slices = first_names(unpaired)
                raise DataError(f"{folder}: {slices} without a picture or without a mask: download it again.")
            if not images:
                raise DataError(f"{folder} has no slices: download it again.")
            numbers = sorted(images)
            image_files, mask_files = (tuple(kind[number] for number in numbers) for kind in (images, masks))
            cases.append(Case(folder.name, patient_of(self.case, folder.name), image_files, mask_files))
        return cases

    def read(self, case: Case, allowed: set[int]) -> RawCase:
        """Read a case; see the base class."""
        slices: list[NDArray[np.uint8]] = []
        masks: list[NDArray[np.bool_]] = []
        reader = MaskReader(case.segmentation)
        for path, mask_path in zip(case.images, case.segmentation, strict=True):
            mask = reader.read(mask_path)
            with open_image(path) as image:
                if image.size != mask.shape[::-1] or (slices and np.asarray(image).shape != slices[0].shape):
                    raise DataError(
                        f"{path} has size {image.size}; {mask_path} or other slices differ: download it again"
                    )
                if image.mode != "RGB":
                    raise DataError(f"{path} has mode {image.mode}; expected RGB, with one colour per modality")
                slices.append(np.asarray(image))
                masks.append(mask)
        channels = np.stack(slices).transpose(3, 0, 1, 2)[self.order].astype(np.float32)
        return RawCase(channels, find_brain(channels), np.stack(masks).astype(np.uint8), self.spacing)
