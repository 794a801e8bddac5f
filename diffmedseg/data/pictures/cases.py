"""The base of all layouts of pictures: the files of each picture, and a reader of its masks; without torch."""

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

#: Is added in a stored mask where nobody is sure of it: 2 over background, 3 over foreground.
UNSURE = 2
#: Stands in a stored mask where a rater did not outline the picture.
MISSING = 255

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureCase:
    """The files of one picture.

    Attributes:
        id: Its name.
        patient: The patient; pictures of one patient are never split.
        image: Its file.
        masks: Files by rater, and by region within; None for a rater who did not outline it.
        field_of_view: File of what is seen of the subject, where there is one.
        unsure: File of the pixels whose masks nobody is sure of, where there is one.
    """

    id: str
    patient: str
    image: Path
    masks: tuple[tuple[Path, ...] | None, ...]
    field_of_view: Path | None = None
    unsure: Path | None = None


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    Attributes:
        cases: The pictures that have masks, in the order of their names.
        without_mask: Names of the pictures that have none.
        without_picture: Paths below the folder of the masks whose picture is not there.
    """

    cases: list[PictureCase]
    without_mask: list[str]
    without_picture: list[str]

    def warn(self, root: Path) -> None:
        """Name in a warning what has no partner below a folder."""
        for names, what in ((self.without_mask, "picture"), (self.without_picture, "mask")):
            other = "mask" if what == "picture" else "picture"
            if names:
                number = count(len(names), what)
                _log.warning("%s without a %s in %s: left out: %s.", number, other, root, first_names(names))


class CaseMasks(ABC):
    """Reads the masks of pictures."""

    @abstractmethod
    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Read the masks of a rater who outlined the picture.

        Returns:
            A mask (h, w), uint8 in {0, 1}, for each region.

        Raises:
            DataError: If a file is unreadable, or its content is not that of a mask; names the file.
        """

    def read(self, case: PictureCase) -> NDArray[np.uint8]:
        """Read the masks of a picture.

        Returns:
            (R, K, h, w), uint8 in {0, 1}; 255 all over for a rater who did not outline it.

        Raises:
            DataError: As :meth:`read_rater`, or if sizes differ.
        """
        masks = [None if files is None else self.read_rater(case, rater) for rater, files in enumerate(case.masks)]
        outlined = [rater for rater in masks if rater is not None]
        shapes = {mask.shape for rater in outlined for mask in rater}
        if len(shapes) > 1:
            raise DataError(f"The masks of {case.image} have different sizes, {first_names(list(map(str, shapes)))}")
        empty = np.full((len(outlined[0]), *shapes.pop()), MISSING, dtype=np.uint8)
        return np.stack([empty if rater is None else np.stack(rater) for rater in masks])

    def unsure(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the pixels whose masks nobody is sure of, (h, w); None where all are sure.

        Raises:
            DataError: If the file is unreadable, or its values are not those of a mask.
        """
        return None

    def read_coded(self, case: PictureCase) -> NDArray[np.uint8]:
        """Read the masks of a picture as they are stored: as :meth:`read`, with ``UNSURE`` added where it holds.

        Raises:
            DataError: As :meth:`read`, or if the unsure pixels have another size than the masks.
        """
        masks, unsure = self.read(case), self.unsure(case)
        if unsure is None:
            return masks
        if unsure.shape != masks.shape[-2:]:
            sizes = "{1} x {0}".format(*unsure.shape), "{3} x {2}".format(*masks.shape)
            raise DataError(
                f"{case.unsure} has {sizes[0]} pixels; the masks of {case.image} have {sizes[1]}: save it anew"
            )
        return np.where((masks != MISSING) & unsure, masks + UNSURE, masks).astype(np.uint8)

    def field_of_view(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read what is seen of the subject, (h, w); None where the data set does not say.

        Raises:
            DataError: If the file is unreadable, or its values are not those of a mask.
        """
        return None


class PictureLayout(Configurable, ABC):
    """Which files belong to a picture, and how they are read.

    Attributes:
        normalisation: How values come to the model's [-1, 1].
    """

    normalisation: str = NORMALISATION

    @property
    @abstractmethod
    def regions(self) -> tuple[str, ...]:
        """Names of the regions, from the outermost in."""

    @property
    def settings(self) -> object:
        """What the masks depend on beside their files; its ``repr`` is part of the cache's key."""
        return None

    @abstractmethod
    def raters(self, root: Path) -> int:
        """Return the most raters that a picture has."""

    @abstractmethod
    def search(self, root: Path) -> Found:
        """Find pictures and masks.

        Raises:
            DataError: If there is none, or files do not fit together; names the files.
        """

    @abstractmethod
    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return what reads the masks of these pictures."""

    def find(self, root: Path) -> list[PictureCase]:
        """Find the pictures that have masks, in the order of their names; name what has no partner in a warning.

        Raises:
            DataError: As :meth:`search`.
        """
        found = self.search(root)
        found.warn(root)
        return found.cases

    def image_size(self, path: Path) -> tuple[int, int]:
        """Return height and width of a picture, upright.

        Raises:
            DataError: If its header cannot be read; names the file.
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
            DataError: If it cannot be read; names the file.
        """
        from diffmedseg.reading.pictures import read_picture

        return read_picture(path, 3, grid, value_range, window)
