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
    """Axial slices of brain volumes; which data set it is, is configuration.

    Volumes are decoded once, normalised over the brain, and kept on the model's grid in a memory-mapped cache.
    Evaluation takes every slice that shows brain, and pools those of a case: scores are of volumes.

    Args:
        root: Folder that holds the cases, at any level below it.
        source: Where the data comes from.
        layout: How cases lie on disk, and the modalities.
        labels: The label scheme: by region the values that belong to it, from the outermost region in.
        regions: The regions that are learned, in order; None for all.
        train_slices: Train on all slices, those with brain, or those with a tumour.
        empty_weight: How often a slice without tumour is drawn for each draw of one with.
        context: Number of neighbouring slices on each side of a slice that a model is shown with it, as further
            channels (2.5-D). The first and the last slice stand for what would lie beyond them.
        context_distance: Distance of these slices in mm; None for the next ones. Set it where the distance of slices
            differs between cases.
        ranges: By modality, the stored values that become -1 and 1, such as the Hounsfield units of CT. None z-scores
            all modalities over the brain.
        ignore: The label of voxels whose label is not known: no training loss and no score looks at them.
        depth: Number of neighbouring slices that a 3-D network learns together, and sees at once of a volume that it
            segments, such as 32; 0 for networks of slices.
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
            raise ValueError(f"empty_weight is {empty_weight}; it has to be at least 0.")
        self.info = brain_info(source, layout, labels, regions, context, context_distance, ranges, depth, square_pixels)
        self.slice_input, self.ignore = self.info.slice_input or SliceInput(), ignore
        self.allowed = {value for values in labels.values() for value in values}
        if ignore in self.allowed:
            raise ValueError(f"ignore is {ignore}, which labels name as one of a region: give it a value of its own.")
        self.allowed |= set() if ignore is None else {ignore}
        if not all(0 < value < 256 for value in self.allowed):
            raise ValueError(f"labels are {dict(labels)}; they have to lie between 1 and 255: 0 is background.")
        self.labels = [sorted(set(labels[name])) for name in self.info.regions]
        self.layout = layout
        self.train_slices, self.empty_weight = train_slices, empty_weight

    def prepare_data(self) -> None:
        """Decode all cases once, in one process per machine; then write the splits where a file for them is named."""
        self._decode(self._used())
        self.write_splits()

    def find_warnings(self) -> list[Problem]:
        """Name masks without an image, and cases with two channels alike or headers that contradict themselves."""
        folders = self._decode(self._used())
        return self._alone() + self._copies(folders) + self._notes(folders)

    def _alone(self) -> list[Problem]:
        alone = self.layout.masks_alone(self.root)
        if not alone:
            return []
        text = f"{count(len(alone), 'mask')} without an image: add images or remove masks."
        return [Problem("mask without image", text, [str(path.relative_to(self.root)) for path in alone])]

    def _used(self) -> list[Case]:
        used = {case for cases in self.split_ids.values() for case in cases}
        return [case for case in self.cases.values() if case.id in used]

    def _copies(self, folders: Mapping[str, Path]) -> list[Problem]:
        found: dict[str, list[str]] = defaultdict(list)
        for case, folder in folders.items():
            for a, b in open_case(folder).copies:
                found[f"{self.info.channels[a]} and {self.info.channels[b]}"].append(case)
        return [
            Problem(
                "same channels",
                f"{pair} are the same in {len(cases)} of {len(folders)} cases. Most likely one was missing and the "
                "other put in its place (FLAIR in Kaggle's lgg): there it is not what its name says.",
                sorted(cases),
                serious=False,
            )
            for pair, cases in found.items()
        ]

    @staticmethod
    def _notes(folders: Mapping[str, Path]) -> list[Problem]:
        notes = {case: found for case, folder in folders.items() if (found := open_case(folder).notes)}
        if not notes:
            return []
        first = next(iter(notes.values()))[0]
        text = f"Headers of {len(notes)} of {len(folders)} cases do not say in one way where they lie. {first}."
        return [Problem("geometry", text, sorted(notes), serious=False)]

    def native_cases(self, split: Split, most: int | None = None) -> Iterator[Native]:
        """Yield the cases of a split as their files have them, with axes nearest to LPS; see the base class."""
        names = self.split_ids[split]
        for name in (names[index] for index in spread(len(names), most)):
            case = self.cases[name]
            raw = self.layout.read(case, self.allowed)
            masks = np.stack([np.isin(raw.labels, values) for values in self.labels])[None].astype(np.uint8)
            unsure = None if self.ignore is None else raw.labels == self.ignore
            grid = raw.grid or Grid(np.array(raw.spacing[::-1]), np.zeros(3), np.eye(3), "")
            yield Native(name, raw.channels, masks, unsure, grid, None if case.brain is None else ~raw.brain)

    def mask_patterns(self) -> set[tuple[bool, ...]]:
        """Return which regions a voxel may lie in together: its label says so; see the base class."""
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
            wanted = {"all": np.ones_like(case.brain), "brain": case.brain, "tumour": case.tumour}
            found = np.flatnonzero(wanted[self.train_slices if split == "train" else "brain"]).tolist()
            slices[name] = without_gaps(found) if self.depth else found
        if not any(slices.values()):
            raise DataError(
                f"{self.info.title}: no slice of the {split} cases has a tumour. Set train_slices to brain."
            )
        store = SliceStore(folders, self.labels, slices, self.image_size, self.slice_input, self.ignore)
        if split == "train" and self.empty_weight != 1:
            store.weights = [1.0 if store.label(index) else self.empty_weight for index in range(len(store))]
        return store

    def _decode(self, cases: Sequence[Case]) -> dict[str, Path]:
        """Decode cases that are not in the cache yet, and name every failure."""

        def one(case: Case) -> Path | DataError:
            try:
                return decode(
                    cache_folder(), self.info.name, case, self.layout, self.image_size, self.allowed,
                    self.slice_input, self.ignore,
                )  # fmt: skip
            except DataError as error:
                return error
            except Exception as error:  # a damaged header can bring about anything
                return DataError(f"{case.id} cannot be read ({error!r}): download it again")

        before = set(cache_folder().glob(f"{self.info.name}-*"))
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # a case takes up to 0.5 GB
            results = pool.map(one, cases)
            done = list(track(results, f"Decoding {self.info.name}", len(cases), disable=len(cases) < 50))
        failures = [result for result in done if isinstance(result, DataError)]
        for failure in failures[3:]:
            _log.error("%s", failure)
        if failures:
            unusable = [case.id for case, result in zip(cases, done, strict=True) if isinstance(result, DataError)]
            reasons = "\n  ".join(map(str, failures[:3]))
            more = f"\n  and {len(failures) - 3} more" if len(failures) > 3 else ""
            raise DataError(f"{len(failures)} of {len(cases)} cases cannot be used:\n  {reasons}{more}", unusable)
        folders = {case.id: path for case, path in zip(cases, done, strict=True) if isinstance(path, Path)}
        new = [path for path in folders.values() if path not in before]
        if new:
            megabytes = sum(file.stat().st_size for path in new for file in path.iterdir()) / 1e6
            _log.info("%s: decoded %d cases into %s, %.0f MB.", self.info.title, len(new), cache_folder(), megabytes)
            for doubt in self._notes({case: folder for case, folder in folders.items() if folder in new}):
                _log.warning("%s: %s In: %s.", self.info.title, doubt.text, first_names(doubt.names))
            copies = "\n  ".join(f"{one.text} {first_names(one.names)}" for one in self._copies(folders))
            if copies:
                _log.warning(
                    "%s: %s\n  Leave such cases out by a file of splits, or a modality by --data.layout.modalities.",
                    self.info.title,
                    copies,
                )
        return folders
