"""Data module of raw data sets of nnU-Net v2."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from diffmedseg.data.base import Split, cache_folder
from diffmedseg.data.folds import FoldsDataModule
from diffmedseg.data.mri.datamodule import BrainMRIDataModule
from diffmedseg.data.mri.layout import Case
from diffmedseg.data.native import Native
from diffmedseg.data.nnunet.description import SPLITS_FINAL, Description, find_description, read_description
from diffmedseg.data.nnunet.facts import ANY_CASE, nnunet_info, nnunet_layout, source_of
from diffmedseg.data.nnunet.files import TEST, find_files
from diffmedseg.data.nnunet.intensities import foreground_ranges
from diffmedseg.data.nnunet.layouts import NnUNetPictures, NnUNetVolumes
from diffmedseg.data.nnunet.splits import splits_of_fold
from diffmedseg.data.pictures.cases import PictureCase
from diffmedseg.data.pictures.datamodule import PictureDataModule
from diffmedseg.data.problem import Problem
from diffmedseg.data.source import Source
from diffmedseg.data.splits import hold_out
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home

AnyCase = Case | PictureCase


class NnUNetDataModule(FoldsDataModule[AnyCase]):
    """A raw data set of nnU-Net v2. Its files define channels, regions, kind of files and splits.

    Volumes are read slice by slice, as by :class:`~diffmedseg.data.BrainMRIDataModule`. Pictures are read as by
    :class:`~diffmedseg.data.PictureDataModule`. Channels called ``CT`` or ``noNorm`` are clipped to percentiles of the
    foreground, measured on the cases that are not tested. All other channels of volumes are z-scored.

    ``test`` is imagesTs if there are labelsTs. Otherwise it is the ``val`` of a fold of splits_final.json; without that
    file it is a drawn fold. If ``test`` is imagesTs, ``train`` and ``val`` are the lists of the fold. Otherwise ``val``
    is drawn from the fold's ``train``.

    Args:
        root: Folder of the data set, ``Dataset<number>_<name>``, with dataset.json, imagesTr and labelsTr.
        source: Origin of the data, if dataset.json does not state it.
        modalities: The channels to read, in order; None for all.
        regions: The regions to learn, in order; None for all.
        case: Regular expression of the name of a case. Group ``patient`` is the patient. All cases of a patient are in
            the same split.
        splits_final: File of the folds. None for splits_final.json in ``root``, if there is one.
        ranges: Values that become -1 and 1, by channel of volumes. Other channels are normalised as above.
        range: Values that become black and white in grey pictures of more than 8 bits.
        train_slices: Train on all slices of volumes, on slices with brain, or on slices with a label.
        empty_weight: How often a slice without a label is drawn for each draw of a slice with a label.
        context: Number of neighbouring slices on each side that are shown with a slice (2.5-D).
        context_distance: Distance of these slices in mm; None for the next slices.
        depth: Number of neighbouring slices in the stacks of a 3-D network; 0 for networks of slices.
        square_pixels: Whether slices get a margin of background so that a pixel of the model's grid is square in mm.
            Otherwise each slice is stretched to fill the grid.
        kwargs: The arguments of :class:`~diffmedseg.data.folds.FoldsDataModule`, by name.
    """

    def __init__(
        self,
        root: str | Path,
        source: Source,
        modalities: Sequence[str] | None = None,
        regions: Sequence[str] | None = None,
        case: str = ANY_CASE,
        splits_final: str | Path | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        range: tuple[float, float] | None = None,
        train_slices: Literal["all", "brain", "tumour"] = "brain",
        empty_weight: float = 1.0,
        context: int = 0,
        context_distance: float | None = None,
        depth: int = 0,
        square_pixels: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, source, **kwargs)
        self.splits_final = self.root / SPLITS_FINAL if splits_final is None else expand_home(splits_final)
        self._named_splits = splits_final is not None
        self.info = nnunet_info(
            root,
            source,
            modalities,
            regions,
            case,
            context,
            context_distance,
            ranges,
            range,
            depth,
            square_pixels,
        )
        self._reader: BrainMRIDataModule | PictureDataModule | None = None
        description = find_description(self.root)
        if description is None:
            return  # reading cases raises the error
        self._layout = nnunet_layout(description, case, modalities)
        shared = {**kwargs, "splits": None, "regions": regions}
        source = source_of(description, source)
        if isinstance(self._layout, NnUNetPictures):
            for name, value in (("context", context), ("depth", depth), ("square_pixels", square_pixels)):
                if value:
                    raise ValueError(f"{name} is {value}, but {description.root} holds 2-D pictures. Leave {name} out.")
            self._reader = PictureDataModule(
                root, source, self._layout, nested=description.nested, grey=len(description.channels) == 1, range=range,
                **shared,
            )  # fmt: skip
        else:
            self._reader = BrainMRIDataModule(
                root, source, self._layout, description.labels, train_slices=train_slices, empty_weight=empty_weight,
                context=context, context_distance=context_distance, ignore=description.ignore, depth=depth,
                square_pixels=square_pixels,
                ranges=self._measure(description, self._layout, ranges or {}), **shared,
            )  # fmt: skip
        self.info = self._reader.info

    def _measure(
        self, description: Description, layout: NnUNetVolumes, ranges: Mapping[str, tuple[float, float]]
    ) -> dict[str, tuple[float, float]]:
        """Return the ranges of channels: the given ranges, and measured ranges of the other fixed channels."""
        missing = [name for name in description.fixed if name in layout.modalities and name not in ranges]
        if not missing:
            return dict(ranges)
        tested = set(self.split_ids["test"])
        cases = [case for case in self.cases.values() if isinstance(case, Case) and case.id not in tested]
        measured = foreground_ranges(
            cache_folder(), self.info.name, layout, cases, missing, description.allowed, description.ignore
        )
        return {**measured, **ranges}

    @cached_property
    def _tests(self) -> set[str]:
        """Ids of the cases in imagesTs with a label map."""
        return {case.id for case in find_files(read_description(self.root)).cases if case.part == TEST}

    def find_cases(self) -> Sequence[AnyCase]:
        """Find the cases; see the base class."""
        read_description(self.root)
        return self._layout.find(self.root)

    def deal(self, cases: Sequence[AnyCase]) -> dict[str, list[str]]:
        """Split the cases by the data set's own files; see the class."""
        if self._named_splits or self.splits_final.is_file():
            return splits_of_fold(self.splits_final, cases, self._tests, self.fold, self.val_fraction, self.split_seed)
        if not self._tests:
            return super().deal(cases)
        training_cases = [case for case in cases if case.id not in self._tests]
        return {**hold_out(training_cases, self.val_fraction, self.split_seed), "test": sorted(self._tests)}

    def prepare_data(self) -> None:
        """Decode all cases once, in one process per machine. Then write the splits, if a file for them is named."""
        self._ready().prepare_data()
        self.write_splits()

    def load(self, split: Split) -> ImageStore:
        """Read one split.

        Raises:
            DataError: If files are missing, damaged or do not fit together; the message names the file.
        """
        return self._ready().load(split)

    def native_cases(self, split: Split, most: int | None = None) -> Iterator[Native]:
        """Yield the cases of a split at native size; see the base class."""
        return self._ready().native_cases(split, most)

    def mask_patterns(self) -> set[tuple[bool, ...]] | None:
        """Return the sets of regions that can share a pixel; see the base class."""
        return self._ready().mask_patterns()

    def find_warnings(self) -> list[Problem]:
        """Find possible faults of the files; see the base class."""
        return self._ready().find_warnings()

    def _ready(self) -> BrainMRIDataModule | PictureDataModule:
        """Return the data module that reads the cases, with the splits of this data set."""
        splits = self.split_ids
        if self._reader is None:
            raise DataError(
                f"{self.root} got its dataset.json after this data module was made. Make the data module again."
            )
        self._reader.split_ids = splits
        return self._reader
