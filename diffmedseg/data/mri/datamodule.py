"""Brain MRI: slices of volumes, split by patient."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

from diffmedseg.data.base import Split, cache_folder
from diffmedseg.data.facts import brain_info
from diffmedseg.data.folds import FoldsDataModule
from diffmedseg.data.mri.layout import Case, Layout
from diffmedseg.data.mri.store import SliceStore, decode, open_case
from diffmedseg.data.native import Native
from diffmedseg.data.problem import Problem
from diffmedseg.data.source import Source
from diffmedseg.data.store import spread
from diffmedseg.errors import DataError
from diffmedseg.reading.grid import Grid
from diffmedseg.reading.slice_input import SliceInput, without_gaps
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)


class BrainMRIDataModule(FoldsDataModule[Case]):
    """Axial slices of brain volumes. The configuration selects the data set.

    Volumes are decoded once, normalised over the brain, and kept on the model's grid in a memory-mapped cache.
    Evaluation uses every slice that shows brain, and pools the slices of a case: scores are computed by volume.

    Args:
        root: Folder with the cases, at any level below it.
        source: Origin of the data.
        layout: Files of the cases, and the modalities.
        labels: The label scheme: the values of each region, from the outermost region inwards.
        regions: The regions to learn, in order; None for all.
        train_slices: Train on all slices, on slices with brain, or on slices with a tumour.
        empty_weight: How often a slice without a tumour is drawn for each draw of a slice with a tumour.
        context: Number of neighbouring slices on each side that a model is shown with a slice, as further channels
            (2.5-D). At the ends of a volume the first and the last slice are repeated.
        context_distance: Distance of these slices in mm; None for the next slices. Set it if the distance of slices
            differs between cases.
        ranges: For each modality the stored values that become -1 and 1, such as Hounsfield units of CT. None z-scores
            all modalities over the brain.
        ignore: The label of voxels with an unknown label. No training loss and no score counts them.
        depth: Number of neighbouring slices in the stacks of a 3-D network, in training and in segmenting, such as 32;
            0 for networks of slices.
        square_pixels: Whether slices get a margin of background so that a pixel of the model's grid is square in mm.
            Otherwise each slice is stretched to fill the grid.
        kwargs: The arguments of :class:`~diffmedseg.data.folds.FoldsDataModule`, by name.
    """

    def __init__(
        self,
        root: str | Path,
        source: Source,
        layout: Layout,
        labels: Mapping[str, Sequence[int]],
        regions: Sequence[str] | None = None,
        train_slices: Literal["all", "brain", "tumour"] = "brain",
        empty_weight: float = 1.0,
        context: int = 0,
        context_distance: float | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        ignore: int | None = None,
        depth: int = 0,
        square_pixels: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, source, **kwargs)
        if empty_weight < 0:
            raise ValueError(f"empty_weight is {empty_weight}; expected at least 0.")
        self.info = brain_info(source, layout, labels, regions, context, context_distance, ranges, depth, square_pixels)
        self.slice_input, self.ignore = self.info.slice_input or SliceInput(), ignore
        self.allowed = {value for values in labels.values() for value in values}
        if ignore in self.allowed:
            raise ValueError(
                f"ignore is {ignore}, but labels give this value to a region. Give ignore a value of its own."
            )
        self.allowed |= set() if ignore is None else {ignore}
        if not all(0 < value < 256 for value in self.allowed):
            raise ValueError(f"labels are {dict(labels)}; expected values from 1 to 255, because 0 is background.")
        self.labels = [sorted(set(labels[name])) for name in self.info.regions]
        self.layout = layout
        self.train_slices, self.empty_weight = train_slices, empty_weight

    def prepare_data(self) -> None:
        """Decode all cases once, in one process per machine. Then write the splits, if a file for them is named."""
        self._decode(self._cases_of_splits())
        self.write_splits()

    def find_warnings(self) -> list[Problem]:
        """Find masks without an image, cases with two equal channels, and contradictory headers; see the base class."""
        folders = self._decode(self._cases_of_splits())
        return self._masks_without_image() + self._copies(folders) + self._notes(folders)

    def _masks_without_image(self) -> list[Problem]:
        masks = self.layout.masks_alone(self.root)
        if not masks:
            return []
        text = f"{count(len(masks), 'mask')} without an image: add images or remove masks."
        return [Problem("mask without image", text, [str(path.relative_to(self.root)) for path in masks])]

    def _cases_of_splits(self) -> list[Case]:
        ids = {case for cases in self.split_ids.values() for case in cases}
        return [case for case in self.cases.values() if case.id in ids]

    def _copies(self, folders: Mapping[str, Path]) -> list[Problem]:
        by_pair: dict[str, list[str]] = defaultdict(list)
        for case, folder in folders.items():
            for a, b in open_case(folder).copies:
                by_pair[f"{self.info.channels[a]} and {self.info.channels[b]}"].append(case)
        return [
            Problem(
                "same channels",
                f"{pair} are the same in {len(cases)} of {len(folders)} cases. Most likely one of them was missing and "
                "the other replaced it (FLAIR in Kaggle's lgg). In these cases the name of the channel is wrong.",
                sorted(cases),
                serious=False,
            )
            for pair, cases in by_pair.items()
        ]

    @staticmethod
    def _notes(folders: Mapping[str, Path]) -> list[Problem]:
        notes = {case: texts for case, folder in folders.items() if (texts := open_case(folder).notes)}
        if not notes:
            return []
        first = next(iter(notes.values()))[0]
        text = f"Headers of {len(notes)} of {len(folders)} cases give several positions. {first}."
        return [Problem("geometry", text, sorted(notes), serious=False)]

    def native_cases(self, split: Split, most: int | None = None) -> Iterator[Native]:
        """Yield the cases of a split at native size, with the axes nearest to LPS; see the base class."""
        names = self.split_ids[split]
        for name in (names[index] for index in spread(len(names), most)):
            case = self.cases[name]
            raw = self.layout.read(case, self.allowed)
            masks = np.stack([np.isin(raw.labels, values) for values in self.labels])[None].astype(np.uint8)
            unsure = None if self.ignore is None else raw.labels == self.ignore
            grid = raw.grid or Grid(np.array(raw.spacing[::-1]), np.zeros(3), np.eye(3), "")
            yield Native(name, raw.channels, masks, unsure, grid, None if case.brain is None else ~raw.brain)

    def mask_patterns(self) -> set[tuple[bool, ...]]:
        """Return the sets of regions that can share a voxel, from the labels; see the base class."""
        return {tuple(value in values for values in self.labels) for value in self.allowed} - {
            (False,) * len(self.labels)
        }

    def find_cases(self) -> Sequence[Case]:
        """Find the cases; see the base class."""
        return self.layout.find(self.root)

    def load(self, split: Split) -> SliceStore:
        """Read one split.

        Raises:
            DataError: If files are missing, damaged or do not fit together.
        """
        folders = self._decode([self.cases[name] for name in self.split_ids[split]])
        slices: dict[str, list[int]] = {}
        for name, folder in folders.items():
            case = open_case(folder)
            selections = {"all": np.ones_like(case.brain), "brain": case.brain, "tumour": case.tumour}
            numbers = np.flatnonzero(selections[self.train_slices if split == "train" else "brain"]).tolist()
            slices[name] = without_gaps(numbers) if self.depth else numbers
        if not any(slices.values()):
            raise DataError(
                f"{self.info.title}: no slice of the {split} cases has a tumour. Set train_slices to brain."
            )
        store = SliceStore(folders, self.labels, slices, self.image_size, self.slice_input, self.ignore)
        if split == "train" and self.empty_weight != 1:
            store.weights = [1.0 if store.label(index) else self.empty_weight for index in range(len(store))]
        return store

    def _decode(self, cases: Sequence[Case]) -> dict[str, Path]:
        """Decode the cases that are not in the cache yet. The error names every failure."""

        def decode_one(case: Case) -> Path | DataError:
            try:
                return decode(
                    cache_folder(), self.info.name, case, self.layout, self.image_size, self.allowed,
                    self.slice_input, self.ignore,
                )  # fmt: skip
            except DataError as error:
                return error
            except Exception as error:  # a damaged header can raise anything
                return DataError(f"{case.id} cannot be read ({error!r}): download it again")

        cached = set(cache_folder().glob(f"{self.info.name}-*"))
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # a case takes up to 0.5 GB
            results = pool.map(decode_one, cases)
            outcomes = list(track(results, f"Decoding {self.info.name}", len(cases), disable=len(cases) < 50))
        failures = [result for result in outcomes if isinstance(result, DataError)]
        for failure in failures[3:]:
            _log.error("%s", failure)
        if failures:
            unusable = [case.id for case, result in zip(cases, outcomes, strict=True) if isinstance(result, DataError)]
            reasons = "\n  ".join(map(str, failures[:3]))
            more = f"\n  and {len(failures) - 3} more" if len(failures) > 3 else ""
            raise DataError(f"{len(failures)} of {len(cases)} cases cannot be used:\n  {reasons}{more}", unusable)
        folders = {case.id: path for case, path in zip(cases, outcomes, strict=True) if isinstance(path, Path)}
        new = [path for path in folders.values() if path not in cached]
        if new:
            megabytes = sum(file.stat().st_size for path in new for file in path.iterdir()) / 1e6
            _log.info("%s: decoded %d cases into %s, %.0f MB.", self.info.title, len(new), cache_folder(), megabytes)
            for problem in self._notes({case: folder for case, folder in folders.items() if folder in new}):
                _log.warning("%s: %s In: %s.", self.info.title, problem.text, first_names(problem.names))
            copies = "\n  ".join(f"{problem.text} {first_names(problem.names)}" for problem in self._copies(folders))
            if copies:
                _log.warning(
                    "%s: %s\n  Leave such cases out by a file of splits, or a modality by --data.layout.modalities.",
                    self.info.title,
                    copies,
                )
        return folders
