"""Raw data sets of nnU-Net v2 as they are."""

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
    """A raw data set of nnU-Net v2: channels, regions, kind of files and splits are those of its own files.

    Volumes are read as :class:`~diffmedseg.data.BrainMRIDataModule` reads them, slice by slice, and pictures as
    :class:`~diffmedseg.data.PictureDataModule` does. Channels called ``CT`` or ``noNorm`` are clipped to percentiles of
    the foreground, measured on the cases that are not tested. All other channels of volumes are z-scored.

    ``test`` is imagesTs where there are labelsTs, else the ``val`` of a fold of splits_final.json, else a drawn fold.
    Where ``test`` is imagesTs, ``train`` and ``val`` are those of the fold; else ``val`` is drawn from its ``train``.

    Args:
        root: Folder of the data set, ``Dataset<number>_<name>``, with dataset.json, imagesTr and labelsTr.
        source: Where the data comes from, where dataset.json does not say so.
        modalities: The channels that are read, in order; None for all.
        regions: The regions that are learned, in order; None for all.
        case: Regular expression of a case's name; its group ``patient`` is the patient, whose cases are never split.
        splits_final: File of the folds; None for splits_final.json in ``root``, where it is there.
        ranges: By channel, the values of volumes that become -1 and 1; of channels that are not named, as above.
        range: What becomes black and white in grey pictures of more than 8 bits.
        train_slices: Train on all slices of volumes, those with brain, or those with a label.
        empty_weight: How often a slice without a label is drawn for each draw of one with.
        context: Number of neighbouring slices on each side that are shown with a slice (2.5-D).
        context_distance: Distance of these slices in mm; None for the next ones.
        depth: Number of neighbouring slices that a 3-D network learns together, and sees at once; 0 for networks of
            slices.
        square_pixels: Whether slices get a margin of background so that a pixel of the model's grid is square in mm.
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
            return  # whoever reads cases says so
        self._layout = nnunet_layout(description, case, modalities)
        shared = {**kwargs, "splits": None, "regions": regions}
        source = source_of(description, source)
        if isinstance(self._layout, NnUNetPictures):
            for name, value in (("context", context), ("depth", depth), ("square_pixels", square_pixels)):
                if value:
                    raise ValueError(
                        f"{name} is {value}, which is for volumes, and {description.root} holds 2-D pictures: leave it "
                        "out."
                    )
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
        """Return the ranges of channels: those given, and for the rest of the fixed ones those of the foreground."""
        unknown = [name for name in description.fixed if name in layout.modalities and name not in ranges]
        if not unknown:
            return dict(ranges)
        tested = set(self.split_ids["test"])
        cases = [one for one in self.cases.values() if isinstance(one, Case) and one.id not in tested]
        found = foreground_ranges(
            cache_folder(), self.info.name, layout, cases, unknown, description.allowed, description.ignore
        )
        return {**found, **ranges}

    @cached_property
    def _tests(self) -> set[str]:
        """Ids of the cases of imagesTs that have a label map."""
        return {one.id for one in find_files(read_description(self.root)).cases if one.part == TEST}

    def find_cases(self) -> Sequence[AnyCase]:
        """Find the cases; see the base class."""
        read_description(self.root)
        return self._layout.find(self.root)

    def deal(self, cases: Sequence[AnyCase]) -> dict[str, list[str]]:
        """Deal the cases as the data set's own files do; see the class."""
        if self._named_splits or self.splits_final.is_file():
            return splits_of_fold(self.splits_final, cases, self._tests, self.fold, self.val_fraction, self.split_seed)
        if not self._tests:
            return super().deal(cases)
        others = [case for case in cases if case.id not in self._tests]
        return {**hold_out(others, self.val_fraction, self.split_seed), "test": sorted(self._tests)}

    def prepare_data(self) -> None:
        """Decode all cases once, in one process per machine; then write the splits where a file is named."""
        self._ready().prepare_data()
        self.write_splits()

    def load(self, split: Split) -> ImageStore:
        """Read one split.

        Raises:
            DataError: If files are missing, damaged or do not fit together; names the file.
        """
        return self._ready().load(split)

    def native_cases(self, split: Split, most: int | None = None) -> Iterator[Native]:
        """Yield the cases of a split as their files have them; see the base class."""
        return self._ready().native_cases(split, most)

    def mask_patterns(self) -> set[tuple[bool, ...]] | None:
        """Return which regions a pixel may lie in together; see the base class."""
        return self._ready().mask_patterns()

    def find_warnings(self) -> list[Problem]:
        """Look for what may be wrong with the files; see the base class."""
        return self._ready().find_warnings()

    def _ready(self) -> BrainMRIDataModule | PictureDataModule:
        """Return what reads the cases, of the splits of this data set."""
        splits = self.split_ids
        if self._reader is None:
            raise DataError(f"{self.root} got its dataset.json after this data module was made: make it again.")
        self._reader.split_ids = splits
        return self._reader
