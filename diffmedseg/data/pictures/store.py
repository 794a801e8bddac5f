"""Pictures on the model's grid, with the masks of all their raters."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.native import Native
from diffmedseg.data.pictures.cases import MISSING, UNSURE, CaseMasks, PictureCase, PictureLayout
from diffmedseg.data.shrinking import ShrunkImages
from diffmedseg.data.store import ImageStore
from diffmedseg.reading.pictures import to_grey
from diffmedseg.reading.windows import CropWindow


class PictureStore(ImageStore):
    """Some pictures of a data set. Each picture is a case.

    Args:
        cases: The pictures.
        layout: Reads the pictures.
        reader: Reads their masks.
        shrunk: All pictures of the data set on the model's grid.
        rows: Row in ``shrunk`` of each picture.
        regions: Numbers of the regions that masks show.
        channels: 1 for grey, 3 for colours.
        windows: The windows in ``shrunk``, by id; empty if it holds whole pictures.
        value_range: Values that become black and white in pictures of more than 8 bits.
    """

    def __init__(
        self,
        cases: Sequence[PictureCase],
        layout: PictureLayout,
        reader: CaseMasks,
        shrunk: ShrunkImages,
        rows: Sequence[int],
        regions: Sequence[int],
        channels: int,
        windows: Mapping[str, CropWindow],
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._range = value_range
        self.ids = self.cases = [case.id for case in cases]
        self._has_unsure = any(case.unsure is not None for case in cases)
        self._windows, self._layout, self._regions = windows, layout, list(regions)
        self._files, self._reader, self._shrunk, self._rows, self._channels = cases, reader, shrunk, rows, channels

    def image(self, index: int) -> Tensor:
        """Return (C, H, W), uint8 in [0, 255]."""
        image = torch.from_numpy(np.array(self._shrunk.images[self._rows[index]]))
        return to_grey(image) if self._channels == 1 else image

    def masks(self, index: int) -> Tensor:
        """Return (R, K, H, W), uint8 in {0, 1}, of the raters who outlined the picture."""
        return _present(np.array(self._shrunk.masks[self._rows[index]]))[:, self._regions] % UNSURE

    def unsure(self, index: int) -> Tensor | None:
        """Return (1, H, W), uint8 in {0, 1}; see the base class."""
        if not self._has_unsure:
            return None
        return _present(np.array(self._shrunk.masks[self._rows[index]]))[0, :1] // UNSURE

    def native(self, index: int) -> Native:
        """Return the picture upright and at native size, otherwise as models see it; see the base class."""
        case = self._files[index]
        image = self._layout.read_image(case.image, self._layout.image_size(case.image), self._range).image
        grey = to_grey(image) if self._channels == 1 else image
        return Native(case.id, grey.numpy(), self.reference(index).numpy(), self._reader.unsure(case))

    def filled(self, index: int) -> Tensor:
        """Return (R, K), bool, for the raters of :meth:`masks`; see the base class."""
        row = self._rows[index]
        outlined = np.asarray(self._shrunk.masks[row, :, 0, 0, 0]) != MISSING
        return torch.from_numpy(np.array(self._shrunk.filled[row])[outlined])[:, self._regions]

    def reference(self, index: int) -> Tensor:
        """Return (R, K, h, w), uint8 in {0, 1}, decoded from the files."""
        return _present(self._reader.read(self._files[index]))[:, self._regions]

    def field_of_view(self, index: int) -> Tensor | None:
        """Return (h, w), bool, decoded from the file; None without a field of view."""
        visible = self._reader.field_of_view(self._files[index])
        return None if visible is None else torch.from_numpy(visible)

    def window(self, index: int) -> CropWindow | None:
        """Return the window that :meth:`image` and :meth:`masks` show; None for the whole picture."""
        return self._windows.get(self.ids[index])

    def size_of(self, index: int) -> tuple[int, int]:
        """Return the upright size, from the header of the file."""
        return self._layout.image_size(self._files[index].image)

    def label(self, index: int) -> int:
        """Return 1 if any rater outlined anything, else 0."""
        return int(self.masks(index).any())


def _present(masks: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(masks[masks[:, 0, 0, 0] != MISSING])
