"""Pictures in any layout, split by patient."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Literal

from diffmedseg.data.augmentation import Augmentation
from diffmedseg.data.base import SegmentationDataModule, Split, cache_folder
from diffmedseg.data.cache import ShrunkImages, shrink_images
from diffmedseg.data.files import Item, first_names
from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.pictures.layout import FileNames, PictureCase
from diffmedseg.data.pictures.store import PictureStore
from diffmedseg.data.source import Source
from diffmedseg.data.splits import draw_splits, read_splits, write_splits
from diffmedseg.data.store import DataError

_log = logging.getLogger(__name__)


class PictureDataModule(SegmentationDataModule):
    """Pictures with the masks of one rater or several; which data set it is, is configuration.

    Args:
        root: Folder that holds the files.
        source: Where the data comes from.
        layout: Which files belong together.
        nested: Whether each region lies within the one before it.
        grey: Whether pictures are taken as grey, one channel instead of three.
        folds: Patients are dealt to so many folds.
        fold: The fold that is tested, from 0.
        val_fraction: Fraction of the other patients on which checkpoints are chosen. Where it rounds to none, these are
            chosen on the training patients.
        split_seed: Seed of the folds, apart from ``seed``.
        splits: File of the splits: read where it exists, else written; one for each fold. None draws them each time,
            always alike.
        image_size: Height and width of the model's grid, or one number for a square; the aspect is not kept.
        batch_size: Pictures per training step and process.
        eval_batch_size: Pictures per evaluation step and process.
        steps_per_epoch: Batches in a training epoch: validation and checkpoints follow each.
        num_workers: Processes that load data; 0 loads in the main process.
        augment: Augmentation of training batches; None for the standard one, False for none.
        seed: Seed of order, augmentation and the choice of rater.
    """

    def __init__(
        self,
        root: str | Path,
        source: Source,
        layout: FileNames,
        nested: bool = False,
        grey: bool = False,
        folds: int = 5,
        fold: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        splits: str | Path | None = None,
        image_size: int | tuple[int, int] = 64,
        batch_size: int = 16,
        eval_batch_size: int = 8,
        steps_per_epoch: int = 100,
        num_workers: int = 0,
        augment: Augmentation | Literal[False] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, eval_batch_size, steps_per_epoch, num_workers, augment, seed)
        if not 0 <= fold < folds or folds < 2 or not 0 <= val_fraction < 1:
            raise ValueError(
                f"fold is {fold} of {folds} folds and val_fraction {val_fraction}; fold has to be at least 0 and below "
                "folds, these at least 2, and val_fraction in [0, 1)."
            )
        self.root, self.layout = Path(root).expanduser(), layout
        self.folds, self.fold, self.val_fraction, self.split_seed = folds, fold, val_fraction, split_seed
        self.splits = None if splits is None else Path(splits).expanduser()
        self._drawn = {"folds": folds, "fold": fold, "val_fraction": val_fraction, "split_seed": split_seed}
        self.info = DatasetInfo(
            name=source.name,
            title=source.title,
            channels=("grey",) if grey else ("red", "green", "blue"),
            regions=layout.regions,
            nested=nested,
            raters=max(layout.raters(self.root), 1),
            licence=source.licence,
            citation=source.citation,
            url=source.url,
            download=source.download,
        )

    def prepare_data(self) -> None:
        """Shrink all pictures once, in one process per machine; then write the splits where a file is named."""
        self._shrink()
        if self.splits is not None and not self.splits.is_file():
            write_splits(self.splits, self._splits, self._drawn)
            del self._splits  # every process reads the same file

    def load(self, split: Split) -> PictureStore:
        """Read one split; the first time, this shrinks all pictures.

        Raises:
            DataError: If files are missing, damaged or do not fit together.
        """
        rows = {case.id: row for row, case in enumerate(self._cases)}
        wanted = [rows[name] for name in self._splits[split]]
        cases = [self._cases[row] for row in wanted]
        return PictureStore(cases, self.layout, self._shrink(), wanted, len(self.info.channels))

    def _shrink(self) -> ShrunkImages:
        cases = {case.id: case for case in self._cases}
        items = [
            Item(case.id, case.image, tuple(path for rater in case.masks if rater is not None for path in rater))
            for case in self._cases
        ]
        shape, settings = (len(self._cases[0].masks), len(self.info.regions)), self.layout.values
        return shrink_images(
            cache_folder(), self.info.name, items, self.image_size, shape,
            lambda item: self.layout.read_masks(cases[item.id]), settings,
        )  # fmt: skip

    @cached_property
    def _cases(self) -> list[PictureCase]:
        try:
            return self.layout.find(self.root)
        except DataError as error:
            raise DataError(
                f"{self.info.title}: {error}\n{self.info.download}\nThen name the folder they are in: make train "
                f"DATA={self.info.name} DATA_DIR=<folder>, or root= in Python."
            ) from error

    @cached_property
    def _splits(self) -> dict[str, list[str]]:
        if self.splits is not None and self.splits.is_file():
            splits = read_splits(self.splits, self._cases, self._drawn)
        else:
            splits = draw_splits(self._cases, self.folds, self.fold, self.val_fraction, self.split_seed)
        if set(splits["val"]) & set(splits["train"]):
            _log.warning(
                "%s: the checkpoint is chosen on the %d pictures that are trained on: too few to hold some out.",
                self.info.title, len(splits["train"]),
            )  # fmt: skip
        for name, ids in splits.items():
            _log.info("%s: %s is %d pictures: %s.", self.info.title, name, len(ids), first_names(ids))
        return splits
