"""Images of a data set with pseudo masks in place of its own: what a student learns from."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.labels.recipe import RelabelledStore
from diffmedseg.data.labels.supervision import SUPERVISION, read_supervision
from diffmedseg.data.problem import Problem
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.reading.masks import binarise, read_values
from diffmedseg.wording import count, first_names

#: Table of a folder of pseudo masks: a row for each image.
TABLE = "pseudo.csv"


@dataclass(frozen=True)
class PseudoMask:
    """A row of the table.

    Attributes:
        id: Name of the image in its data set.
        case: Its case.
        split: ``train`` or ``val``.
        file: Name of its files in ``images``, ``masks`` and ``unsure``, without suffix.
        kept: ``yes`` where it has a mask, else ``no``.
        source: ``pseudo``, ``label`` for the empty mask of a healthy image, or ``true`` for a true mask.
        reason: Why it was not kept; empty otherwise.
        area: Share of the image that the mask fills.
        unsure: Share of the image that is unsure.
    """

    id: str
    case: str
    split: str
    file: str
    kept: str
    source: str
    reason: str
    area: str
    unsure: str


def read_table(path: Path) -> list[PseudoMask]:
    """Read a table, or the part of one that was cut off: its last line is then left out.

    Raises:
        DataError: If it is missing or damaged; names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        return [PseudoMask(**row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}): make the pseudo masks again.") from error


class PseudoStore(RelabelledStore):
    """Images of another store with pseudo masks.

    Args:
        store: The other store.
        folder: Folder of the pseudo masks.
        rows: The images that are kept, in the order of ``store``.
        indices: Their numbers in ``store``.
    """

    def __init__(self, store: ImageStore, folder: Path, rows: list[PseudoMask], indices: list[int]) -> None:
        super().__init__(store, indices, [row.id for row in rows])
        self._folder, self._files = folder, [row.file for row in rows]
        self.weights = None if store.weights is None else [store.weights[index] for index in indices]

    def masks(self, index: int) -> Tensor:
        """Return the pseudo mask, (1, 1, H, W), uint8 in {0, 1}."""
        return self._read("masks", index)[None]

    def reference(self, index: int) -> Tensor:
        """Return the pseudo mask on the model's grid: the true mask is never shown."""
        return self.masks(index)

    def unsure(self, index: int) -> Tensor:
        """Return (1, H, W), uint8 in {0, 1}; see the base class."""
        return self._read("unsure", index)

    def _read(self, kind: str, index: int) -> Tensor:
        path = self._folder / kind / f"{self._files[index]}.png"
        mask = torch.from_numpy(binarise(read_values(path), path).astype(np.uint8))[None]
        size = self.image(index).shape[-2:]
        return mask if mask.shape[-2:] == size else F.interpolate(mask[None], size, mode="nearest-exact")[0]


class PseudoMaskDataModule(SegmentationDataModule):
    """The images of a data set, trained and validated on pseudo masks, and tested on its true masks.

    Args:
        folder: What ``diffmedseg pseudo`` wrote.
        truth: The data set that the images are of. Its masks are read for the test alone.
        kwargs: The arguments of :class:`~diffmedseg.data.SegmentationDataModule`, by name; ``image_size`` is also that
            of ``truth``.
    """

    def __init__(self, folder: str | Path, truth: SegmentationDataModule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.truth = expand_home(folder), truth
        truth.image_size = self.image_size
        self.info = replace(truth.info, regions=truth.info.regions[:1], nested=False)

    @cached_property
    def rows(self) -> list[PseudoMask]:
        """The images that have a pseudo mask."""
        return [row for row in read_table(self.folder / TABLE) if row.kept == "yes"]

    def prepare_data(self) -> None:
        """Read the images once, in one process per machine."""
        self.truth.prepare_data()

    def load(self, split: Split) -> ImageStore:
        """Read one split.

        Raises:
            DataError: If the pseudo masks are damaged, or of images that the data set does not have in this split.
        """
        store = self.truth.load(split)
        if split == "test":
            return store
        number = {name: index for index, name in enumerate(store.ids)}
        rows = [row for row in self.rows if row.split == split]
        if missing := [row.id for row in rows if row.id not in number]:
            raise DataError(
                f"{self.folder / TABLE} has {count(len(missing), 'image')} that the {split} split of {self.info.title} "
                f"does not have: {first_names(missing)}. Give the settings of the data with which it was made.",
                missing,
            )
        if not rows:
            raise DataError(f"No pseudo mask of the {split} split is in {self.folder / TABLE}: none was kept.")
        rows.sort(key=lambda row: number[row.id])
        return PseudoStore(store, self.folder, rows, [number[row.id] for row in rows])

    def split_cases(self, split: Split) -> set[str]:
        """Return the cases of a split; see the base class."""
        return self.truth.split_cases(split) if split == "test" else {r.case for r in self.rows if r.split == split}

    def patient(self, case: str) -> str:
        """Return the patient that a case is of."""
        return self.truth.patient(case)

    def find_warnings(self) -> list[Problem]:
        """Return findings about the images that may be faults; see the base class."""
        return self.truth.find_warnings()

    def configure_targets(self, needs: Sequence[str], regions: Sequence[str]) -> str | None:
        """Select the training targets; see the base class. Returns the supervision that the folder states."""
        found = super().configure_targets(needs, regions)
        if found != "masks":
            return found
        stated = read_supervision(self.folder)
        if stated is None:
            raise DataError(f"{self.folder / SUPERVISION} is missing: make the pseudo masks again, in a new folder.")
        return stated
