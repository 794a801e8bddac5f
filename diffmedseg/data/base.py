"""The base of all data modules."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from diffmedseg.configurable import Configurable, to_config
from diffmedseg.data.augmentation import Augmentation
from diffmedseg.data.batch import Batch
from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.labels.applying import label_split
from diffmedseg.data.labels.deciding import MaskRule
from diffmedseg.data.labels.own import OwnLabels
from diffmedseg.data.labels.recipe import LabelRecipe
from diffmedseg.data.native import Native
from diffmedseg.data.problem import Problem
from diffmedseg.data.sampler import CaseSampler, StackSampler, TrainingSampler
from diffmedseg.data.store import ImageStore, Item, spread, to_unit
from diffmedseg.data.views import CaseView, EvaluationView, TrainingView, collate
from diffmedseg.errors import DataError
from diffmedseg.files import cache_folder as cache_folder
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.moved import RenamedAttribute
from diffmedseg.wording import count

Split = Literal["train", "val", "test"]

_log = logging.getLogger(__name__)


class SegmentationDataModule(Configurable, LightningDataModule, ABC):
    """Feeds the splits of one data set. A subclass only reads a split.

    Images reach the model as float32 in [-1, 1]. Augmentation and normalisation run on the device, on whole batches.

    Args:
        image_size: Height and width of the model's grid, or one number for a square.
        batch_size: Images, or volumes for networks of volumes, per training step and process.
        eval_batch_size: Images per evaluation step and process. Networks of volumes take one case.
        steps_per_epoch: Batches in a training epoch. Validation and checkpoints follow each epoch.
        num_workers: Processes that load data; 0 loads in the main process.
        augment: Augmentation of training batches; None for the standard augmentation, False for none.
        seed: Seed of order, augmentation and the choice of rater.
        patch: Height and width of training patches, in pixels of the grid, for models that learn from masks. Such a
            model segments images in windows of the same size. None trains on whole images; images that are smaller
            than a patch are not cut.
        label_recipe: Source of image-level labels, for models that learn from labels and not from masks; None for the
            labels of the data set.
        mask_rule: Rule that turns a map of evidence into a mask, for models that learn from no mask; see
            ``diffmedseg pseudo``. None thresholds the map at Otsu's level.
    """

    info: DatasetInfo

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        batch_size: int = 16,
        eval_batch_size: int = 8,
        steps_per_epoch: int = 100,
        num_workers: int = 0,
        augment: Augmentation | Literal[False] | None = None,
        seed: int = 0,
        label_recipe: LabelRecipe | None = None,
        patch: int | None = None,
        mask_rule: MaskRule | None = None,
    ) -> None:
        super().__init__()
        config = to_config(self)  # every checkpoint stores it, to rebuild the data module
        self.save_hyperparameters({"_class_path": config["class_path"]} | config["init_args"], logger=False)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size: tuple[int, int] = (height, width)
        if min(self.image_size) < 8 or batch_size < 1 or eval_batch_size < 1 or steps_per_epoch < 1:
            raise ValueError(
                f"image_size is {image_size}; it has to be at least 8. batch_size is {batch_size}, eval_batch_size "
                f"{eval_batch_size} and steps_per_epoch {steps_per_epoch}; they have to be at least 1."
            )
        self.batch_size, self.eval_batch_size, self.steps_per_epoch = batch_size, eval_batch_size, steps_per_epoch
        self.num_workers, self.seed, self.label_recipe = num_workers, seed, label_recipe
        if patch is not None and patch < 8:
            raise ValueError(f"patch is {patch}; it has to be at least 8.")
        self.patch, self.mask_rule = patch, mask_rule or MaskRule()
        self.augment: nn.Module | None = Augmentation() if augment is None else augment or None
        self.stores: dict[Split, ImageStore] = {}
        self._labelled: ImageStore | None = None
        self._regions: list[int] | None = None
        self._all_raters = False

    @abstractmethod
    def load(self, split: Split) -> ImageStore:
        """Read one split.

        Raises:
            DataError: If files are missing, unpaired or unreadable; the message names them and the remedy.
        """

    def split_cases(self, split: Split) -> set[str]:
        """Return the cases of a split. Subclasses that know the cases without reading images override this method."""
        return set(self.load(split).cases)

    def pseudo_masks(self, split: Split) -> str | None:
        """Return the supervision of a split's masks, in words, if they are pseudo masks; None for true masks."""
        return None

    def patient(self, case: str) -> str:
        """Return the patient of a case, by name: the case itself if the data set does not name patients."""
        return case

    def find_warnings(self) -> list[Problem]:
        """Return findings that :meth:`load` accepts but that may be faults of the files; for ``data check``."""
        return []

    doubts = RenamedAttribute("find_warnings")

    def native_cases(self, split: Split, most: int | None = None) -> Iterator[Native]:
        """Yield the cases of a split at native resolution, to measure them or to write them in another format.

        Args:
            split: The split.
            most: Maximum number of cases, spread over the split; None yields all.

        Raises:
            DataError: If a case cannot be read, or the data set has no files.
        """
        store = self.dataset(split)
        for index in spread(len(store), most):
            yield store.native(index)

    def mask_patterns(self) -> set[tuple[bool, ...]] | None:
        """Return the possible combinations of regions at a pixel, K flags each; None if they are not known."""
        return None

    def setup(self, stage: str) -> None:
        """Read the splits that a stage needs: ``fit``, ``validate``, ``test`` or ``predict``."""
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in needed.get(stage, ("test",)):
            self.dataset(split)

    def dataset(self, split: Split) -> ImageStore:
        """Return one split as a data set with a length, items by index, and ``plot(i)``.

        Raises:
            DataError: If files are missing, unpaired or unreadable.
            ValueError: If there is no such split.
        """
        if split not in get_args(Split):
            raise ValueError(f"There is no split {split!r}: expected one of {', '.join(get_args(Split))}.")
        if split not in self.stores:
            self.stores[split] = self.load(split)
        return self.stores[split]

    def configure_targets(self, needs: Sequence[str], regions: Sequence[str]) -> str | None:
        """Select the training targets and mask regions that a model needs.

        Args:
            needs: Keys that training items need, of ``mask``, ``raters``, ``label`` and ``healthy``; empty if the model
                is only tested.
            regions: The regions of ``info.regions`` that the model finds. A model with one region fits data with one
                region, whatever their names.

        Returns:
            The supervision of the training items; None if ``needs`` is empty.

        Raises:
            DataError: If the training images lack these labels or healthy counterparts, or the data lacks these
                regions; the message names the remedy.
        """
        available = self.info.regions
        if not set(regions) <= set(available) and not len(regions) == len(available) == 1:
            raise DataError(
                f"The model finds {', '.join(regions)}; {self.info.title} has {', '.join(available)}. Choose a model "
                "and data with the same regions."
            )
        self._regions = [available.index(region) if region in available else 0 for region in regions]
        self._labelled, self._all_raters = None, "raters" in needs
        if not needs:
            return None
        if "mask" in needs:
            return "masks"
        if self.info.slice_input is not None and self.info.slice_input.context:
            raise DataError("A model that learns from labels compares single slices: set data.context to 0.")
        recipe = self.label_recipe or OwnLabels()
        try:
            self._labelled = store = label_split(recipe, self.stores["train"], pairs="healthy" in needs)
        except DataError as error:
            raise DataError(f"{self.info.title}: {error}") from error
        diseased = sum(store.label(index) == 1 for index in range(len(store)))
        counts = len(store) - diseased, diseased
        _log.info("%s: learned from %s; %d healthy and %d diseased.", self.info.title, recipe.supervision, *counts)
        return recipe.supervision

    serve = RenamedAttribute("configure_targets")

    @property
    def depth(self) -> int:
        """Number of slices that are learned together, as a volume; 0 where images are learned one by one."""
        return 0 if self.info.slice_input is None else self.info.slice_input.depth

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[Item]:
        """Return the training items; an epoch has ``steps_per_epoch`` batches."""
        rank, world_size = self._ranks()
        store, draws_per_batch = self._labelled or self.stores["train"], self.batch_size * world_size
        trainer = self.trainer

        def draws_before() -> int:
            steps = trainer.global_step * trainer.accumulate_grad_batches if trainer else 0
            return steps * draws_per_batch

        draws = self.steps_per_epoch * draws_per_batch
        sampler = TrainingSampler(len(store), draws, self.seed, rank, world_size, draws_before, store.weights)
        return DataLoader(
            TrainingView(store, self.seed, self._regions, self._labelled is None, self.patch, self._all_raters),
            batch_size=self.batch_size * max(self.depth, 1),
            sampler=StackSampler(sampler, store.cases, self.depth, self.seed) if self.depth else sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )

    def _evaluation_dataloader(self, split: Split, native: bool) -> DataLoader[Item]:
        store, (rank, world_size) = self.stores[split], self._ranks()
        if len(set(store.cases)) < world_size:
            raise ValueError(
                f"{count(len(set(store.cases)), 'case')} of the {split} split cannot be shared by {world_size} "
                "processes: use fewer devices."
            )
        view = self.evaluation_view(split, native)
        dealt = CaseView(view) if self.depth else view
        return DataLoader[Any](
            dealt,
            batch_size=None if self.depth else self.eval_batch_size,  # a whole case is a batch by itself
            sampler=CaseSampler(dealt.cases, rank, world_size),
            num_workers=self.num_workers,
            collate_fn=collate,
        )

    def evaluation_view(self, split: Split, native: bool) -> EvaluationView:
        """Return the items of a split that is set up, as evaluation takes them; see :class:`EvaluationView`."""
        return EvaluationView(self.stores[split], native, self._regions)

    def val_dataloader(self) -> DataLoader[Item]:
        """Return the validation items, on the model's grid. Settings and checkpoints are chosen on them."""
        return self._evaluation_dataloader("val", native=False)  # native masks can be large

    def calibration_dataloader(self) -> DataLoader[Item]:
        """Return the validation items with their native masks, to fit a calibration."""
        return self._evaluation_dataloader("val", native=True)

    def test_dataloader(self) -> DataLoader[Item]:
        """Return the test items with their native masks."""
        return self._evaluation_dataloader("test", native=True)

    predict_dataloader: Callable[..., DataLoader[Item]] = test_dataloader

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to the device. Native masks may be large and stay on the CPU."""
        on_grid: Item = dict(batch)
        native = {name: on_grid.pop(name) for name in ("reference", "field_of_view") if name in on_grid}
        moved: Item = super().transfer_batch_to_device(on_grid, device, dataloader_idx)
        return cast(Batch, moved | native)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (training only) and normalise on the device.

        Colour augmentation runs on [0, 1]. Image and mask get the same geometric transform. The seed and the draw key
        the parameters.
        """
        names: tuple[Literal["image", "healthy"], ...] = ("image", "healthy")
        images = [name for name in names if name in batch]
        image = torch.cat([to_unit(batch[name]) for name in images], 1)
        masks = {name: batch[name].float() for name in ("mask", "raters", "unsure") if name in batch}
        if self.augment is not None and "draw" in batch:
            generators = [keyed_generator(self.seed, "augmentation", draw) for draw in batch["draw"]]
            flat = torch.cat([image[:, :0], *(mask.flatten(1, -3) for mask in masks.values())], 1)
            image, flat = self.augment(image, flat, generators)
            parts = torch.split(flat, [math.prod(mask.shape[1:-2]) for mask in masks.values()], 1)
            masks = {name: part.reshape(masks[name].shape) for name, part in zip(masks, parts, strict=True)}
        changed = dict(zip(images, torch.chunk(image * 2 - 1, len(images), 1), strict=True))
        return cast(Batch, dict(batch) | changed | masks)
