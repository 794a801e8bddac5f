"""Masks of several experts, published as one map of how many experts agree."""

from collections.abc import Mapping, Sequence
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.pictures.cases import CaseMasks, PictureCase
from diffmedseg.data.pictures.layout import FileNames
from diffmedseg.errors import DataError
from diffmedseg.reading.masks import read_values
from diffmedseg.wording import first_names


class AgreementMaps(FileNames):
    """Find pictures and, for each region, a map of agreement: 0 where no expert outlined the region, 255 where all did.

    Rater 1 is the area that at least one expert outlined, rater 2 the area of at least two experts, and so on. These
    masks nest. They are not the outlines of single experts, because a map does not contain those.

    Args:
        image: See :class:`~diffmedseg.data.FileNames`.
        masks: Path of the map of each region, from the outermost inwards, as for
            :class:`~diffmedseg.data.FileNames`.
        experts: Number of experts that a map counts.
        name: See :class:`~diffmedseg.data.FileNames`.
    """

    def __init__(self, image: str, masks: Mapping[str, str], experts: int = 4, name: str = "{id}") -> None:
        if experts < 2:
            raise ValueError(f"experts is {experts}; expected at least 2.")
        super().__init__(image, {region: [path] * experts for region, path in masks.items()}, name=name)
        self.experts = experts

    @property
    def settings(self) -> object:
        """Settings besides the files that change the masks; see the base class."""
        return "agreement", self.experts

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return AgreementMasks(self.experts)


class AgreementMasks(CaseMasks):
    """Read maps of agreement as nested masks.

    Args:
        experts: Number of experts that a map counts.
    """

    def __init__(self, experts: int) -> None:
        levels = [number * 255 / experts for number in range(experts + 1)]
        # 127.5 may be stored as 127 or 128.
        self._agreeing = {whole(level): n for n, level in enumerate(levels) for whole in (floor, ceil)}

    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Read the area of more than ``rater`` experts, for each region; see the base class."""
        masks = []
        for path in case.masks[rater] or ():
            values = read_values(path)
            unknown = sorted(set(np.unique(values).tolist()) - set(self._agreeing))
            if unknown:
                listed = first_names([str(value) for value in unknown], 5)
                raise DataError(
                    f"{path} has values {listed}; a map of agreement has the values "
                    f"{', '.join(map(str, sorted(self._agreeing)))}. It was resized or changed: download it again",
                    [path.name],
                )
            levels = [value for value, number in self._agreeing.items() if number > rater]
            masks.append(np.isin(values, levels).astype(np.uint8))
        return masks
