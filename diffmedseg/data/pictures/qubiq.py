"""The tasks of QUBIQ: single slices as NIfTI or PNG files, with masks of up to seven raters."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffmedseg.data.pictures.cases import CaseMasks, PictureCase
from diffmedseg.data.pictures.masks import FileMasks
from diffmedseg.data.pictures.rater_files import RaterFiles
from diffmedseg.reading.mask_levels import Values
from diffmedseg.reading.masks import read_values
from diffmedseg.reading.names import PICTURES
from diffmedseg.reading.opening import image_size
from diffmedseg.reading.slices import PERCENTILES, SLICES, is_slice, read_slice, slice_size, to_grey_levels

if TYPE_CHECKING:
    from diffmedseg.reading.pictures import Picture
    from diffmedseg.reading.windows import CropWindow


class _Facts(NamedTuple):
    tasks: int
    raters: int
    modalities: int


#: From https://qubiq.grand-challenge.org/participation/
_IMAGE_SETS = {
    "brain-growth": _Facts(1, 7, 1),
    "brain-tumor": _Facts(3, 3, 4),
    "kidney": _Facts(1, 3, 1),
    "prostate": _Facts(2, 6, 1),
}


class QUBIQSlices(RaterFiles):
    """Find ``<image set>/<Training or Validation>/<case>/`` with ``image``, ``task01_seg01``, ``task01_seg02``...

    Cases may differ in their number of raters.

    Args:
        image_set: ``brain-growth``, ``brain-tumor``, ``kidney`` or ``prostate``.
        task: Number of the task of the image set, from 1.
        modality: Number of the modality of the slices, from 1.
    """

    normalisation = (
        f"slices: the range, else their percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g}, to [0, 255]; "
        "then x / 127.5 - 1"
    )
    suffixes = (*SLICES, *PICTURES)

    def __init__(self, image_set: str = "brain-growth", task: int = 1, modality: int = 1) -> None:
        if image_set not in _IMAGE_SETS:
            raise ValueError(
                f"image_set is {image_set!r}; expected {', '.join(_IMAGE_SETS)}. The pancreas sets are volumes and are "
                "not read."
            )
        facts = _IMAGE_SETS[image_set]
        for name, value, most in (("task", task, facts.tasks), ("modality", modality, facts.modalities)):
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}; expected 1 to {most} for {image_set}.")
        case = rf"(?:.*/)?(?P<id>{image_set}/(?P<part>Training|Validation)/(?P<case>case[^/]+))/"
        super().__init__(
            image=case + "image",
            masks=rf"{case}task{task:02d}_seg(?P<rater>\d+)",
            region=image_set.replace("-", "_") + (f"_{task}" if facts.tasks > 1 else ""),
            most=facts.raters,
            name="{part}_{case}",
        )
        self.modality = modality if facts.modalities > 1 else None

    @property
    def settings(self) -> object:
        """Settings besides the files that change the masks; see the base class."""
        return "slices", self.modality

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return FileMasks(cases, read=_read_mask)

    def image_size(self, path: Path) -> tuple[int, int]:
        """Return height and width of a slice or a picture; see the base class."""
        return slice_size(path) if is_slice(path) else image_size(path)

    def read_image(
        self,
        path: Path,
        grid: tuple[int, int],
        value_range: tuple[float, float] | None = None,
        window: "CropWindow | None" = None,
    ) -> "Picture":
        """Read a slice or a picture; see the base class."""
        if not is_slice(path):
            return super().read_image(path, grid, value_range, window)
        from PIL import Image
        from torch import from_numpy

        from diffmedseg.reading.pictures import Picture, shrink_image

        values = read_slice(path, self.modality)
        image = Image.fromarray(to_grey_levels(values, value_range))
        size = (image.height, image.width)
        return Picture(from_numpy(shrink_image(image, grid, window)), size, 1, ())


def _read_mask(path: Path) -> Values:
    return read_slice(path) if is_slice(path) else read_values(path)
