"""Read masks from one file for each rater and region."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.pictures.cases import CaseMasks, PictureCase
from diffmedseg.errors import DataError
from diffmedseg.reading.mask_levels import Values
from diffmedseg.reading.masks import MaskReader, read_values
from diffmedseg.wording import first_names


class FileMasks(CaseMasks):
    """Read masks from one file for each rater and region.

    Args:
        cases: All pictures of the data set. Their masks together show the range of values.
        values: For each region its grey values; None for values above half of the range.
        background: Grey values outside all regions.
        read: Function that reads the values of a file.
    """

    def __init__(
        self,
        cases: Sequence[PictureCase],
        values: Mapping[str, Sequence[int]] | None = None,
        background: Sequence[int] = (0,),
        read: Callable[[Path], Values] = read_values,
    ) -> None:
        self._values, self._background, self._grey = values, background, read
        regions = zip(*(rater for case in cases for rater in case.masks if rater is not None), strict=True)
        self._readers = [MaskReader(files, read) for files in regions]
        self._field_of_view = MaskReader(case.field_of_view for case in cases if case.field_of_view is not None)
        self._unsure = MaskReader(case.unsure for case in cases if case.unsure is not None)

    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Read the masks of a rater; see the base class."""
        return [self._read(path, region) for region, path in enumerate(case.masks[rater] or ())]

    def field_of_view(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the field of view, (h, w); see the base class."""
        return None if case.field_of_view is None else self._field_of_view.read(case.field_of_view)

    def unsure(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the unsure pixels, (h, w); see the base class."""
        return None if case.unsure is None else self._unsure.read(case.unsure)

    def _read(self, path: Path, region: int) -> NDArray[np.uint8]:
        if self._values is None:
            return self._readers[region].read(path).astype(np.uint8)
        grey = self._grey(path)
        allowed = {value for values in self._values.values() for value in values} | set(self._background)
        unknown = sorted(set(np.unique(grey).tolist()) - allowed)
        if unknown:
            raise DataError(
                f"{path} has values {first_names([str(value) for value in unknown], 5)}; this data set has "
                f"{', '.join(map(str, sorted(allowed)))}. The file was resized, saved as JPEG, or has other codes"
            )
        mask: NDArray[np.uint8] = np.isin(grey, list(self._values.values())[region]).astype(np.uint8)
        return mask
