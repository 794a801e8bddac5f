"""Pictures in any layout, split by patient."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from diffmedseg.data.augmentation import Augmentation
from diffmedseg.data.base import Split, cache_folder
from diffmedseg.data.cache import ShrunkImages, shrink_images
from diffmedseg.data.facts import picture_info
from diffmedseg.data.files import Item, image_size
from diffmedseg.data.folds import FoldsDataModule
from diffmedseg.data.labels.recipe import LabelRecipe
from diffmedseg.data.pictures.layout import FileNames, PictureCase
from diffmedseg.data.pictures.store import PictureStore
from diffmedseg.data.pictures.windows import read_windows
from diffmedseg.data.problem import Problem
from diffmedseg.data.source import Source
from diffmedseg.segmentation import CropWindow


class PictureDataModule(FoldsDataModule[PictureCase]):
    """Pictures with the masks of one rater or several; which data set it is, is configuration.

    Args:
        root: Folder that holds the files.
        source: Where the data comes from.
        layout: Which files belong together.
        nested: Whether each region lies within the one before it.
        tubular: Whether regions are thin and long, as vessels are, so that their centrelines are scored, too.
        grey: Whether pictures are taken as grey, one channel instead of three.
        folds: Patients are dealt to so many folds.
        fold: The fold that is tested, from 0.
        val_fraction: Fraction of the other patients on which checkpoints are chosen. Where it rounds to none, these are
            chosen on the training patients.
        split_seed: Seed of the folds, apart from ``seed``.
        splits: File of the splits: read where it exists, else written; one for each fold. None draws them each time,
            always alike.
        published: Published splits by name: for each of their sets the regular expression of its pictures' ids.
        split_by: ``folds``, or the name of a published split.
        image_size: Height and width of the model's grid, or one number for a square; the aspect is not kept.
        batch_size: Pictures per training step and process.
        eval_batch_size: Pictures per evaluation step and process.
        steps_per_epoch: Batches in a training epoch: validation and checkpoints follow each.
        num_workers: Processes that load data; 0 loads in the main process.
        augment: Augmentation of training batches; None for the standard one, False for none.
        seed: Seed of order, augmentation and the choice of rater.
        label_recipe: Where image-level labels come from, for models that learn from them.
        patch: Height and width of the patches that models which learn from masks are trained on, in pixels of the grid;
            they then see as much at once of the images that they segment. None for whole images.
        windows: CSV file with the window of each picture that models are shown in place of the whole, such as one
            around the optic disc; see :func:`~diffmedseg.data.pictures.windows.read_windows`. Scores stay those of
            whole pictures, outside of whose windows nothing is found. None for whole pictures.
    """

    def __init__(
        self,
        root: str | Path,
        source: Source,
        layout: FileNames,
        nested: bool = False,
        tubular: bool = False,
        grey: bool = False,
        folds: int = 5,
        fold: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        splits: str | Path | None = None,
        published: Mapping[str, Mapping[str, str]] | None = None,
        split_by: str = "folds",
        image_size: int | tuple[int, int] = 64,
        batch_size: int = 16,
        eval_batch_size: int = 8,
        steps_per_epoch: int = 100,
        num_workers: int = 0,
        augment: Augmentation | Literal[False] | None = None,
        seed: int = 0,
        label_recipe: LabelRecipe | None = None,
        patch: int | None = None,
        windows: str | Path | None = None,
    ) -> None:
        super().__init__(
            root, source, folds, fold, val_fraction, split_seed, splits, published, split_by, image_size, batch_size,
            eval_batch_size, steps_per_epoch, num_workers, augment, seed, label_recipe, patch,
        )  # fmt: skip
        self.layout = layout
        self.info = picture_info(source, layout, root, nested=nested, tubular=tubular, grey=grey, windows=windows)
        self._windows_file = None if windows is None else Path(windows).expanduser()

    @cached_property
    def windows(self) -> Mapping[str, CropWindow]:
        """The window of each picture, by id; empty where models are shown whole pictures.

        Raises:
            DataError: As :func:`~diffmedseg.data.pictures.windows.read_windows`.
        """
        if self._windows_file is None:
            return {}
        return read_windows(self._windows_file, {name: image_size(case.image) for name, case in self.cases.items()})

    def prepare_data(self) -> None:
        """Shrink all pictures once, in one process per machine; then write the splits where a file is named."""
        self._shrink()
        self.write_splits()

    def find_cases(self) -> Sequence[PictureCase]:
        """Find the pictures; see the base class."""
        return self.layout.find(self.root)

    def doubts(self) -> list[Problem]:
        """Name pictures without masks, which are left out, and masks without a picture; see the base class."""
        found = self.layout.search(self.root)
        problems = []
        if found.without_mask:
            text = f"{len(found.without_mask)} pictures have no mask, and are left out."
            problems.append(Problem("picture without mask", text, found.without_mask, serious=False))
        if found.without_picture:
            text = f"{len(found.without_picture)} masks have no picture: add the pictures, or remove these masks."
            problems.append(Problem("mask without picture", text, found.without_picture))
        return problems

    def load(self, split: Split) -> PictureStore:
        """Read one split; the first time, this shrinks all pictures.

        Raises:
            DataError: If files are missing, damaged or do not fit together.
        """
        rows = {name: row for row, name in enumerate(self.cases)}
        wanted = [rows[name] for name in self.split_ids[split]]
        cases = [self.cases[name] for name in self.split_ids[split]]
        return PictureStore(cases, self.layout, self._shrink(), wanted, len(self.info.channels), self.windows)

    def _shrink(self) -> ShrunkImages:
        items = [
            Item(name, case.image, tuple(path for rater in case.masks for path in rater or ()), self.windows.get(name))
            for name, case in self.cases.items()
        ]
        shape, settings = (len(next(iter(self.cases.values())).masks), len(self.info.regions)), self.layout.values
        return shrink_images(
            cache_folder(), self.info.name, items, self.image_size, shape,
            lambda item: self.layout.read_masks(self.cases[item.id]), settings,
        )  # fmt: skip
