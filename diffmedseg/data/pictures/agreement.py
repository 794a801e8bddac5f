"""Masks of several experts that are published as one map of how many of them agree."""

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
    """Finds pictures, and for each region a map of agreement: 0 where no expert outlined it, 255 where all did.

    Rater 1 is what at least one expert outlined, rater 2 what at least two did, and so on. These masks nest. They are
    not the outlines of single experts, which a map does not tell.

    Args:
        image: As of :class:`~diffmedseg.data.FileNames`.
        masks: By region, from the outermost in, the path of its map, as the paths of
            :class:`~diffmedseg.data.FileNames`.
        experts: How many experts a map counts.
        name: As of :class:`~diffmedseg.data.FileNames`.
    """

    def __init__(self, image: str, masks: Mapping[str, str], experts: int = 4, name: str = "{id}") -> None:
        if experts < 2:
            raise ValueError(f"experts is {experts}; a map of agreement counts at least 2.")
        super().__init__(image, {region: [path] * experts for region, path in masks.items()}, name=name)
        self.experts = experts

    @property
    def settings(self) -> object:
        """What the masks depend on beside their files; see the base class."""
        return "agreement", self.experts

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return what reads the masks of these pictures."""
        return AgreementMasks(self.experts)


class AgreementMasks(CaseMasks):
    """Reads what at least so many experts outlined.

    Args:
        experts: How many experts a map counts.
    """

    def __init__(self, experts: int) -> None:
        levels = [number * 255 / experts for number in range(experts + 1)]
        # 127.5 may be stored as 127 or 128.
        self._agreeing = {whole(level): n for n, level in enumerate(levels) for whole in (floor, ceil)}

    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Read where more than ``rater`` experts agree, for each region; see the base class."""
        found = []
        for path in case.masks[rater] or ():
            values = read_values(path)
            unknown = sorted(set(np.unique(values).tolist()) - set(self._agreeing))
            if unknown:
                some = first_names([str(value) for value in unknown], 5)
                raise DataError(
                    f"{path} has values {some}; expected those of a map of agreement, "
                    f"{', '.join(map(str, sorted(self._agreeing)))}: it was resized or changed, so download it again",
                    [path.name],
                )
            enough = [value for value, number in self._agreeing.items() if number > rater]
            found.append(np.isin(values, enough).astype(np.uint8))
        return found
