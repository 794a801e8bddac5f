"""Base classes of all layouts of pictures: the files of each picture, and readers of masks. Needs no torch."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.configurable import Configurable
from diffmedseg.data.info import NORMALISATION
from diffmedseg.errors import DataError
from diffmedseg.reading.opening import image_size
from diffmedseg.wording import count, first_names

if TYPE_CHECKING:
    from diffmedseg.reading.pictures import Picture
    from diffmedseg.reading.windows import CropWindow

#: Added to a stored mask at unsure pixels: background becomes 2, foreground 3.
UNSURE = 2
#: Value of all pixels in the stored mask of a rater who did not outline the picture.
MISSING = 255

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureCase:
    """The files of one picture.

    Attributes:
        id: Name of the picture.
        patient: The patient. All pictures of a patient are in the same split.
        image: File of the picture.
        masks: For each rater, a file for each region; None for a rater who did not outline the picture.
        field_of_view: File with the mask of the field of view; None without one.
        unsure: File with the mask of the unsure pixels; None without one.
    """

    id: str
    patient: str
    image: Path
    masks: tuple[tuple[Path, ...] | None, ...]
    field_of_view: Path | None = None
    unsure: Path | None = None


@dataclass(frozen=True)
class Found:
    """The pictures and masks in a folder.

    Attributes:
        cases: Pictures with masks, in the order of their names.
        without_mask: Names of pictures without a mask.
        without_picture: Paths, relative to the folder, of masks without a picture.
    """

    cases: list[PictureCase]
    without_mask: list[str]
    without_picture: list[str]

    def warn(self, root: Path) -> None:
        """Warn of pictures without a mask and masks without a picture."""
        for names, kind, partner in (
            (self.without_mask, "picture", "mask"),
            (self.without_picture, "mask", "picture"),
        ):
            if names:
                number = count(len(names), kind)
                _log.warning("%s without a %s in %s: left out: %s.", number, partner, root, first_names(names))


class CaseMasks(ABC):
    """Base class of readers of masks."""

    @abstractmethod
    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Read the masks of a rater who outlined the picture.

        Returns:
            A mask (h, w), uint8 in {0, 1}, for each region.

        Raises:
            DataError: If a file is unreadable, or is no mask; the message names the file.
        """

    def read(self, case: PictureCase) -> NDArray[np.uint8]:
        """Read the masks of a picture.

        Returns:
            (R, K, h, w), uint8 in {0, 1}. All pixels are 255 for a rater who did not outline the picture.

        Raises:
            DataError: See :meth:`read_rater`; also if the masks have different sizes.
        """
        masks = [None if files is None else self.read_rater(case, rater) for rater, files in enumerate(case.masks)]
        outlined = [rater for rater in masks if rater is not None]
        shapes = {mask.shape for rater in outlined for mask in rater}
        if len(shapes) > 1:
            sizes = first_names(list(map(str, shapes)))
            raise DataError(f"The masks of {case.image} have different sizes, {sizes}. Save them in one size")
        empty = np.full((len(outlined[0]), *shapes.pop()), MISSING, dtype=np.uint8)
        return np.stack([empty if rater is None else np.stack(rater) for rater in masks])

    def unsure(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the unsure pixels, (h, w); None if all pixels are sure.

        Raises:
            DataError: If the file is unreadable, or is no mask.
        """
        return None

    def read_coded(self, case: PictureCase) -> NDArray[np.uint8]:
        """Read the masks of a picture as the cache stores them: see :meth:`read`; ``UNSURE`` is added at unsure pixels.

        Raises:
            DataError: See :meth:`read`; also if the mask of unsure pixels has another size than the masks.
        """
        masks, unsure = self.read(case), self.unsure(case)
        if unsure is None:
            return masks
        if unsure.shape != masks.shape[-2:]:
            sizes = "{1} x {0}".format(*unsure.shape), "{3} x {2}".format(*masks.shape)
            raise DataError(
                f"{case.unsure} has {sizes[0]} pixels; the masks of {case.image} have {sizes[1]}. Save it in that size"
            )
        return np.where((masks != MISSING) & unsure, masks + UNSURE, masks).astype(np.uint8)

    def field_of_view(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the field of view, (h, w); None if the data set has none.

        Raises:
            DataError: If the file is unreadable, or is no mask.
        """
        return None


class PictureLayout(Configurable, ABC):
    """Base class of layouts: which files belong to a picture, and how they are read.

    Attributes:
        normalisation: How pixel values are scaled to the model's [-1, 1].
    """

    normalisation: str = NORMALISATION

    @property
    @abstractmethod
    def regions(self) -> tuple[str, ...]:
        """Names of the regions, from the outermost inwards."""

    @property
    def settings(self) -> object:
        """Settings besides the files that change the masks; the ``repr`` is part of the cache's key."""
        return None

    @abstractmethod
    def raters(self, root: Path) -> int:
        """Return the largest number of raters of a picture."""

    @abstractmethod
    def search(self, root: Path) -> Found:
        """Find pictures and masks.

        Raises:
            DataError: If there is none, or files do not fit together; the message names the files.
        """

    @abstractmethod
    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""

    def find(self, root: Path) -> list[PictureCase]:
        """Find the pictures with masks, in the order of their names. Warn of pictures and masks without a partner.

        Raises:
            DataError: See :meth:`search`.
        """
        pictures = self.search(root)
        pictures.warn(root)
        return pictures.cases

    def image_size(self, path: Path) -> tuple[int, int]:
        """Return height and width of a picture, upright.

        Raises:
            DataError: If its header cannot be read; the message names the file.
        """
        return image_size(path)

    def read_image(
        self,
        path: Path,
        grid: tuple[int, int],
        value_range: tuple[float, float] | None = None,
        window: "CropWindow | None" = None,
    ) -> "Picture":
        """Read a picture as three channels; see :func:`~diffmedseg.reading.pictures.read_picture`.

        Raises:
            DataError: If it cannot be read; the message names the file.
        """
        from diffmedseg.reading.pictures import read_picture

        return read_picture(path, 3, grid, value_range, window)
