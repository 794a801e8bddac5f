"""Pictures in any layout, split by patient."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.base import Split, cache_folder
from diffmedseg.data.facts import picture_info
from diffmedseg.data.files import Item
from diffmedseg.data.folds import FoldsDataModule
from diffmedseg.data.labels.supervision import read_supervision
from diffmedseg.data.pictures.cases import MISSING, CaseMasks, Found, PictureCase, PictureLayout
from diffmedseg.data.pictures.store import PictureStore
from diffmedseg.data.pictures.windows import read_windows
from diffmedseg.data.problem import Problem
from diffmedseg.data.shrinking import ShrunkImages, shrink_images
from diffmedseg.data.source import Source
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.reading.windows import CropWindow
from diffmedseg.wording import count


class PictureDataModule(FoldsDataModule[PictureCase]):
    """Pictures with masks of one or several raters. The configuration selects the data set.

    Args:
        root: Folder with the files.
        source: Origin of the data.
        layout: Which files belong together, and how they are read.
        nested: Whether each region lies within the region before it.
        tubular: Whether regions are thin and long, such as vessels. Their centrelines are then scored, too.
        grey: Read pictures as grey, with one channel instead of three.
        range: Values that become black and white in grey pictures of more than 8 bits, such as ``[0, 4095]``. The model
            stores the range and predicts with it. None means 0 to 65,535 for 16 bits, and refuses more bits.
        windows: CSV file with a window of each picture, such as a square around the optic disc. The model is shown the
            window in place of the picture; see :func:`~diffmedseg.data.pictures.windows.read_windows`. Whole pictures
            are scored; outside its window a mask is empty. None for whole pictures.
        min_nonempty: Keep only pictures with at least this number of raters with a non-empty mask. Splits are drawn
            before, so they are the same for every number.
        regions: Regions to learn and to score, in order, such as ``[cup]``; None for all.
        kwargs: The arguments of :class:`~diffmedseg.data.folds.FoldsDataModule`, by name.
    """

    def __init__(
        self,
        root: str | Path,
        source: Source,
        layout: PictureLayout,
        nested: bool = False,
        tubular: bool = False,
        grey: bool = False,
        range: tuple[float, float] | None = None,
        windows: str | Path | None = None,
        min_nonempty: int = 0,
        regions: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, source, **kwargs)
        if range is not None and not range[0] < range[1]:
            raise ValueError(f"range is {range[0]:g}, {range[1]:g}; the first value must be below the second.")
        if min_nonempty < 0:
            raise ValueError(f"min_nonempty is {min_nonempty}; expected at least 0.")
        self.layout, self.min_nonempty = layout, min_nonempty
        self.info = picture_info(source, layout, root, nested, tubular, grey, range, windows, regions)
        self._regions_read = [layout.regions.index(region) for region in self.info.regions]
        self._windows_file = None if windows is None else expand_home(windows)

    @cached_property
    def windows(self) -> Mapping[str, CropWindow]:
        """The window of each picture, by id; empty if models are shown whole pictures.

        Raises:
            DataError: See :func:`~diffmedseg.data.pictures.windows.read_windows`.
        """
        if self._windows_file is None:
            return {}
        return read_windows(
            self._windows_file, {name: self.layout.image_size(case.image) for name, case in self.cases.items()}
        )

    @cached_property
    def _reader(self) -> CaseMasks:
        return self.layout.reader(list(self.cases.values()))

    def prepare_data(self) -> None:
        """Shrink all pictures once, in one process per machine. Then write the splits, if a file for them is named."""
        _ = self._shrunk
        self.write_splits()

    def find_cases(self) -> Sequence[PictureCase]:
        """Find the pictures; see the base class."""
        self._found.warn(self.root)
        return self._found.cases

    def find_warnings(self) -> list[Problem]:
        """Find pictures without masks, which are left out, and masks without a picture; see the base class."""
        pictures, problems = self._found, []
        if pictures.without_mask:
            text = f"{count(len(pictures.without_mask), 'picture')} without a mask: left out."
            problems.append(Problem("picture without mask", text, pictures.without_mask, serious=False))
        if pictures.without_picture:
            text = f"{count(len(pictures.without_picture), 'mask')} without a picture: add pictures or remove masks."
            problems.append(Problem("mask without picture", text, pictures.without_picture))
        return problems + self._shrunk.problems

    def configure_targets(self, needs: Sequence[str], regions: Sequence[str]) -> str | None:
        """Select the training targets; see the base class. A folder of pseudo masks states its own supervision."""
        supervision = super().configure_targets(needs, regions)
        return read_supervision(self.root) or supervision if supervision == "masks" else supervision

    def pseudo_masks(self, split: Split) -> str | None:
        """Return what a folder of pseudo masks states; see the base class."""
        return read_supervision(self.root)

    def load(self, split: Split) -> PictureStore:
        """Read one split; the first time, this shrinks all pictures.

        Raises:
            DataError: If files are missing, damaged or do not fit together, or no picture has ``min_nonempty`` masks.
        """
        rows = {name: row for row, name in enumerate(self.cases)}
        names = self.split_ids[split]
        if self.min_nonempty:
            enough = self._nonempty_raters() >= self.min_nonempty
            names = [name for name in names if enough[rows[name]]]
            if not names:
                raise DataError(
                    f"{self.info.title}: no picture of the {split} split has {self.min_nonempty} masks that are not "
                    "empty. Set min_nonempty to a lower number."
                )
        split_rows, cases = [rows[name] for name in names], [self.cases[name] for name in names]
        return PictureStore(
            cases, self.layout, self._reader, self._shrunk, split_rows, self._regions_read, len(self.info.channels),
            self.windows, self.info.value_range,
        )  # fmt: skip

    @cached_property
    def _found(self) -> Found:
        return self.layout.search(self.root)

    def _nonempty_raters(self) -> NDArray[np.int64]:
        """Count the raters of each picture with foreground in a selected region, (N,), at native size."""
        outlined = np.asarray(self._shrunk.masks[:, :, 0, 0, 0]) != MISSING
        number: NDArray[np.int64] = (self._shrunk.filled[..., self._regions_read].any(-1) & outlined).sum(1)
        return number

    @cached_property
    def _shrunk(self) -> ShrunkImages:
        items = [Item(name, case.image, _mask_files(case), self.windows.get(name)) for name, case in self.cases.items()]
        # The cache holds all regions, so that every selection of regions shares it.
        shape = len(next(iter(self.cases.values())).masks), len(self.layout.regions)
        return shrink_images(
            cache_folder(), self.info.name, items, self.image_size, shape,
            lambda item: self._reader.read_coded(self.cases[item.id]), self.layout.settings, self.info.value_range,
            self.layout.read_image,
        )  # fmt: skip


def _mask_files(case: PictureCase) -> tuple[Path, ...]:
    """Return all files that the stored masks of a picture depend on."""
    unsure = () if case.unsure is None else (case.unsure,)
    return (*(path for rater in case.masks for path in rater or ()), *unsure)
