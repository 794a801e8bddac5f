"""Masks as outlines that each rater drew into a copy of the picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.pictures.cases import CaseMasks, PictureCase
from diffmedseg.data.pictures.layout import FileNames
from diffmedseg.reading.drawn import read_nested_outlines


class DrawnOutlines(FileNames):
    """Find pictures and, for each rater, a copy with two outlines, one within the other, as in RIGA.

    Args:
        image: See :class:`~diffmedseg.data.FileNames`.
        copies: Path of each rater's copy, as the paths of masks in :class:`~diffmedseg.data.FileNames`.
        outer: Name of the region within the outer outline.
        inner: Name of the region within the inner outline.
        name: See :class:`~diffmedseg.data.FileNames`.
    """

    def __init__(self, image: str, copies: Sequence[str], outer: str, inner: str, name: str = "{id}") -> None:
        masks: Mapping[str, Sequence[str]] = {outer: copies, inner: copies}
        super().__init__(image, masks, name=name)

    @property
    def settings(self) -> object:
        """Settings besides the files that change the masks; see the base class."""
        return "drawn outlines"

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return DrawnMasks()


class DrawnMasks(CaseMasks):
    """Read the masks of a picture from the copies with outlines."""

    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Find both outlines in a rater's copy; see the base class."""
        copy, _ = case.masks[rater] or ()
        return list(read_nested_outlines(copy, case.image))
