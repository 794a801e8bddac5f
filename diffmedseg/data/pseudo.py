"""A data set with pseudo masks in place of its own masks, to train a student model."""

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
from diffmedseg.segmentation import majority
from diffmedseg.wording import count, first_names

#: Table of a folder of pseudo masks: a row for each image.
TABLE = "pseudo.csv"
#: Source of a true mask in the table.
TRUE = "true"


@dataclass(frozen=True)
class PseudoMask:
    """A row of the table.

    Attributes:
        id: Name of the image in its data set.
        case: Case of the image.
        split: ``train`` or ``val``.
        file: Name of its files in ``images``, ``masks`` and ``unsure``, without suffix.
        kept: ``yes`` if the mask was kept, else ``no``.
        source: ``pseudo``, ``label`` for the empty mask of a healthy image, or ``true`` for a true mask.
        reason: Why the mask was not kept; empty if it was kept.
        area: Share of the image that the mask covers, in [0, 1].
        unsure: Share of the image whose mask is uncertain, in [0, 1].
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
    """Read a table. An unfinished last line, as an interrupted run leaves it, is ignored.

    Raises:
        DataError: If the table is missing or damaged; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        return [PseudoMask(**row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}). Make the pseudo masks again.") from error


class PseudoStore(RelabelledStore):
    """Images of another store with pseudo masks.

    Args:
        store: The other store.
        folder: Folder of the pseudo masks.
        rows: Rows of the kept images, in the order of ``store``.
        indices: Index of each kept image in ``store``.
    """

    def __init__(self, store: ImageStore, folder: Path, rows: list[PseudoMask], indices: list[int]) -> None:
        super().__init__(store, indices, [row.id for row in rows])
        self._folder, self._rows = folder, rows
        self.weights = None if store.weights is None else [store.weights[index] for index in indices]

    def masks(self, index: int) -> Tensor:
        """Return the pseudo mask, (1, 1, H, W), uint8 in {0, 1}; of an image that kept its true mask, the true mask.

        A true mask is read from the data set, since the mask in the folder may have fewer pixels.
        """
        if self._rows[index].source == TRUE:
            return majority(super().masks(index))[None, :1]
        return self._read("masks", index)[None]

    def reference(self, index: int) -> Tensor:
        """Return the mask of :meth:`masks`, on the model's grid."""
        return self.masks(index)

    def unsure(self, index: int) -> Tensor:
        """Return (1, H, W), uint8 in {0, 1}; see the base class."""
        return self._read("unsure", index)

    def _read(self, kind: str, index: int) -> Tensor:
        path = self._folder / kind / f"{self._rows[index].file}.png"
        mask = torch.from_numpy(binarise(read_values(path), path).astype(np.uint8))[None]
        size = self.image(index).shape[-2:]
        return mask if mask.shape[-2:] == size else F.interpolate(mask[None], size, mode="nearest-exact")[0]


class PseudoMaskDataModule(SegmentationDataModule):
    """A data set with pseudo masks for training and validation, and its true masks for the test.

    Args:
        folder: Output folder of ``diffmedseg pseudo``.
        truth: The data set of the images. Its masks are read only for the test.
        true_only: Whether the training split holds only the images that kept their true masks, to fine-tune on them.
        kwargs: The arguments of :class:`~diffmedseg.data.SegmentationDataModule`, by name. ``truth`` gets the same
            ``image_size``.
    """

    def __init__(
        self, folder: str | Path, truth: SegmentationDataModule, true_only: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.truth, self.true_only = expand_home(folder), truth, true_only
        truth.image_size = self.image_size
        self.info = replace(truth.info, regions=truth.info.regions[:1], nested=False)

    @cached_property
    def rows(self) -> list[PseudoMask]:
        """The images that have a pseudo mask or kept their true mask."""
        rows = [row for row in read_table(self.folder / TABLE) if row.kept == "yes"]
        return [row for row in rows if not self.true_only or row.split != "train" or row.source == TRUE]

    def prepare_data(self) -> None:
        """Read the images once, in one process per machine."""
        self.truth.prepare_data()

    def load(self, split: Split) -> ImageStore:
        """Read one split.

        Raises:
            DataError: If the pseudo masks are damaged, or their images are not in this split of the data set.
        """
        store = self.truth.load(split)
        if split == "test":
            return store
        number = {name: index for index, name in enumerate(store.ids)}
        rows = [row for row in self.rows if row.split == split]
        if missing := [row.id for row in rows if row.id not in number]:
            raise DataError(
                f"{self.folder / TABLE} has {count(len(missing), 'image')} that the {split} split of {self.info.title} "
                f"does not have: {first_names(missing)}. Use the data settings that made the pseudo masks.",
                missing,
            )
        if not rows and self.true_only and split == "train":
            raise DataError(
                f"{self.folder / TABLE} has no training image with a true mask, which true_only=true asks for. Make "
                "the pseudo masks again with --true_masks N, or set true_only to false."
            )
        if not rows:
            raise DataError(
                f"{self.folder / TABLE} has no pseudo mask of the {split} split: none was kept. Make the pseudo masks "
                "again with looser limits."
            )
        rows.sort(key=lambda row: number[row.id])
        return PseudoStore(store, self.folder, rows, [number[row.id] for row in rows])

    def split_cases(self, split: Split) -> set[str]:
        """Return the cases of a split; see the base class."""
        return self.truth.split_cases(split) if split == "test" else {r.case for r in self.rows if r.split == split}

    def pseudo_masks(self, split: Split) -> str | None:
        """Return what the folder states, but for the test split; see the base class."""
        return None if split == "test" else read_supervision(self.folder)

    def patient(self, case: str) -> str:
        """Return the patient that a case is of."""
        return self.truth.patient(case)

    def find_warnings(self) -> list[Problem]:
        """Return findings about the images that may be faults; see the base class."""
        return self.truth.find_warnings()

    def configure_targets(self, needs: Sequence[str], regions: Sequence[str]) -> str | None:
        """Select the training targets; see the base class. Returns the supervision that the folder states."""
        supervision = super().configure_targets(needs, regions)
        if supervision != "masks":
            return supervision
        stated = read_supervision(self.folder)
        if stated is None:
            raise DataError(f"{self.folder / SUPERVISION} is missing: make the pseudo masks again, in a new folder.")
        return stated
