"""Skin lesions in dermoscopic images: the segmentation tasks of the ISIC challenges of 2016, 2017 and 2018."""

import logging
import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule, Split, cache_folder
from diffmedseg.data.facts import ISIC_2016, ISIC_2017, ISIC_2018
from diffmedseg.data.files import Item, find_folders, index_files, pair
from diffmedseg.data.native import Native
from diffmedseg.data.problem import Problem
from diffmedseg.data.shrinking import ShrunkImages, shrink_images
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.reading.masks import MaskReader
from diffmedseg.reading.opening import image_size
from diffmedseg.reading.pictures import read_picture
from diffmedseg.wording import count, first_names

Part = Literal["training", "validation", "test"]

# The folders also hold superpixels, tables and licences. Names differ in case between years and mirrors.
_IMAGE = re.compile(r"(ISIC_\d{7})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_MASK = re.compile(r"(ISIC_\d{7})_segmentation\.png", re.IGNORECASE)

_log = logging.getLogger(__name__)


class ISICStore(ImageStore):
    """Some of the images of an official folder; each is a case of its own.

    Args:
        items: Files of the images.
        shrunk: All images of the folder, on the model's grid.
        rows: Row of each item in ``shrunk``.
        reader: Reads the masks of the folder.
    """

    def __init__(self, items: Sequence[Item], shrunk: ShrunkImages, rows: Sequence[int], reader: MaskReader) -> None:
        self.ids = self.cases = [item.id for item in items]
        self._items, self._shrunk, self._rows, self._reader = items, shrunk, rows, reader

    def image(self, index: int) -> Tensor:
        """Return (3, H, W), uint8 in [0, 255]."""
        return torch.from_numpy(np.array(self._shrunk.images[self._rows[index]]))

    def masks(self, index: int) -> Tensor:
        """Return (1, 1, H, W), uint8 in {0, 1}."""
        return torch.from_numpy(np.array(self._shrunk.masks[self._rows[index]]))

    def reference(self, index: int) -> Tensor:
        """Return (1, 1, h, w), uint8 in {0, 1}, decoded from the official file."""
        return torch.from_numpy(_read_masks(self._items[index], self._reader))

    def native(self, index: int) -> Native:
        """Return the image upright; see the base class."""
        item = self._items[index]
        picture = read_picture(item.image, 3, image_size(item.image))
        return Native(item.id, picture.image.numpy(), self.reference(index).numpy())

    def size_of(self, index: int) -> tuple[int, int]:
        """Return the upright size in the file's header."""
        return image_size(self._items[index].image)

    def label(self, index: int) -> int:
        """Return 1 if the mask is not empty. Every ISIC image has a lesion."""
        return int(self.masks(index).any())


class ISICDataModule(SegmentationDataModule):
    """Images and lesion masks in the official folders, side by side in ``root``.

    ``val`` is a tenth of the official training set, drawn by ``split_seed``; it chooses settings and is never reported.
    ``train`` is the rest. ``test`` is the official test set. The years share images, so never train on one year and
    report on another.

    Args:
        root: Folder that holds the official folders.
        reported: The official set that becomes ``test``. ``auto`` takes the first set with masks: the test set, the
            validation set, or (with a warning) a second tenth of the training set. ``tenth`` scores ``val`` like a
            test, to compare settings and not to report results.
        split_seed: Seed of the tenth. It is independent of ``seed``, so that runs with several seeds share splits.
        kwargs: The arguments of :class:`~diffmedseg.data.SegmentationDataModule`, by name.
    """

    def __init__(
        self,
        root: str | Path,
        reported: Literal["test", "validation", "tenth", "auto"] = "auto",
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.split_seed = split_seed
        allowed = ["auto", "tenth", *(self.folders().keys() - {"training"})]
        if reported not in allowed:
            raise ValueError(f"reported is {reported!r}; expected one of {first_names(allowed)} for {self.info.title}.")
        self.root, self.reported = expand_home(root), reported
        self._shrunk: dict[Part, ShrunkImages] = {}

    @staticmethod
    @abstractmethod
    def folders() -> dict[Part, tuple[str, str]]:
        """Return the official folder names of images and masks, by part."""

    def prepare_data(self) -> None:
        """Shrink all images once, in one process per machine."""
        for split in ("train", "val", "test"):
            self.load(split)

    def load(self, split: Split) -> ImageStore:
        """Read one split. The first call shrinks the images of its official folder.

        Raises:
            DataError: If files are missing, unpaired or unreadable.
        """
        part, rows = self._splits[split]
        items, shape = self._parts[part], (self.info.raters, len(self.info.regions))
        reader = MaskReader(item.masks[0] for item in items)
        if part not in self._shrunk:
            self._shrunk[part] = shrink_images(
                cache_folder(), f"{self.info.name}-{part}", items, self.image_size, shape,
                lambda item: _read_masks(item, reader),
            )  # fmt: skip
        return ISICStore(self.files(split), self._shrunk[part], rows, reader)

    def files(self, split: Split) -> list[Item]:
        """Return the files of each image of a split, in the order of its store."""
        part, rows = self._splits[split]
        return [self._parts[part][row] for row in rows]

    def split_cases(self, split: Split) -> set[str]:
        """Return the cases of a split, without reading images."""
        part, rows = self._splits[split]
        return {self._parts[part][row].id for row in rows}

    def find_warnings(self) -> list[Problem]:
        """Return possible faults found while reading the images; see the base class."""
        return [problem for shrunk in self._shrunk.values() for problem in shrunk.problems]

    @cached_property
    def _parts(self) -> dict[Part, list[Item]]:
        """The images of the official training set and, where one has masks, of the reported set."""
        parts: dict[Part, list[Item]] = {"training": self._read("training")}
        if not parts["training"]:
            raise self._missing("training")
        if self.reported == "tenth":
            return parts
        candidates: list[Part] = ["test", "validation"] if self.reported == "auto" else [self.reported]
        for part in candidates:
            if part in self.folders() and (items := self._read(part)):
                return parts | {part: self._refuse_training_images(parts["training"], part, items)}
        if self.reported != "auto":
            raise self._missing(self.reported)
        return parts

    @cached_property
    def _splits(self) -> dict[Split, tuple[Part, list[int]]]:
        """The official set of each split, and the indices of its images."""
        training, *other_parts = self._parts
        total = len(self._parts[training])
        order = torch.randperm(total, generator=keyed_generator(self.split_seed, "split")).tolist()
        tenth = max(1, round(total / 10))
        train = order[tenth:]
        splits: dict[Split, tuple[Part, list[int]]] = {"val": (training, sorted(order[:tenth]))}
        if self.reported == "tenth":
            splits["test"] = splits["val"]
        elif other_parts:
            splits["test"] = (other_parts[0], list(range(len(self._parts[other_parts[0]]))))
        else:
            splits["test"] = (training, sorted(train[:tenth]))
            train = train[tenth:]
            _log.warning(
                "%s: %s has neither a test set nor a validation set with masks. The test split is a tenth of the "
                "training set. Its scores cannot be compared with published results.",
                self.info.title,
                self.root,
            )
        if not train:
            raise DataError(
                f"{self.root / self.folders()[training][0]} has {total} images: too few to split into training, "
                "validation and test. Put the whole training set there."
            )
        splits["train"] = (training, sorted(train))
        for split, (part, rows) in sorted(splits.items()):
            folder, available = self.folders()[part][0], len(self._parts[part])
            _log.info("%s: %s is %d of the %d images of %s.", self.info.title, split, len(rows), available, folder)
        return splits

    def _read(self, part: Part) -> list[Item]:
        """Pair the images and masks of an official set; return an empty list if there are no masks."""
        images, masks = self.folders()[part]
        image_folders, mask_folders = find_folders(self.root, images), find_folders(self.root, masks)
        if image_folders and not mask_folders:
            _log.warning("%s: %s is left out, since %s is missing.", self.info.title, self.root / images, masks)
        if not mask_folders:
            return []
        return pair(
            index_files(image_folders, _IMAGE), index_files(mask_folders, _MASK), self.root / images, self.root / masks
        )

    def _missing(self, part: Part) -> DataError:
        images, masks = self.folders()[part]
        names = [path.name for path in self.root.iterdir()] if self.root.is_dir() else None
        content = "there is no such folder" if names is None else f"it holds {first_names(names, 6) or 'nothing'}"
        return DataError(
            f"No {part} set of {self.info.title} in {self.root}: {content}; expected {images} with ISIC_<7 digits>.jpg "
            f"and {masks} with ISIC_<7 digits>_segmentation.png.\n{self.info.download}\nThen name their folder: "
            "--data.root FOLDER, or root= in Python."
        )

    def _refuse_training_images(self, training: list[Item], part: Part, items: list[Item]) -> list[Item]:
        """Return ``items``; refuse items that are also in the training set."""
        shared = {item.id for item in training} & {item.id for item in items}
        if shared:
            images, reported = (self.root / self.folders()[p][0] for p in ("training", part))
            raise DataError(
                f"{count(len(shared), 'image')} in {images} and in {reported}: {first_names(shared)}. Results on "
                "training images mean nothing. Unpack the official archives again, each in its own folder.",
                shared,
            )
        return items


def _read_masks(item: Item, reader: MaskReader) -> NDArray[np.uint8]:
    """Read the one mask of an image, (1, 1, h, w) in {0, 1}."""
    return reader.read(item.masks[0]).astype(np.uint8)[None, None]


class ISIC2016DataModule(ISICDataModule):
    """ISIC 2016, Part 1: 900 training and 379 test images."""

    info = ISIC_2016

    @staticmethod
    def folders() -> dict[Part, tuple[str, str]]:
        """Return the official names of the folders of images and of masks, by part."""
        return {
            "training": ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"),
            "test": ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
        }


class ISIC2017DataModule(ISICDataModule):
    """ISIC 2017, Part 1: 2,000 training, 150 validation and 600 test images."""

    info = ISIC_2017

    @staticmethod
    def folders() -> dict[Part, tuple[str, str]]:
        """Return the official names of the folders of images and of masks, by part."""
        return {
            "training": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
            "validation": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
            "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
        }


class ISIC2018DataModule(ISICDataModule):
    """ISIC 2018, Task 1: 2,594 training, 100 validation and 1,000 test images."""

    info = ISIC_2018

    @staticmethod
    def folders() -> dict[Part, tuple[str, str]]:
        """Return the official names of the folders of images and of masks, by part."""
        return {
            "training": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
            "validation": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"),
            "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"),
        }
