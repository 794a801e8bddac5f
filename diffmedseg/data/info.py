"""The facts of a data set."""

import re
from dataclasses import dataclass

from diffmedseg.moved import RenamedAttribute
from diffmedseg.reading.slice_input import SliceInput

#: Licences that let everybody redistribute images if they name the source.
_OPEN = r"(CC0|CC BY \d|Apache-2\.0)"

#: How pictures are scaled to [-1, 1].
NORMALISATION = "from [0, 255]: x / 127.5 - 1"


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of a data set. The command line links them into the model, so nothing is typed twice.

    Attributes:
        name: Name on the command line and in the zoo.
        title: Name in prose.
        channels: Names of the image's channels, in order.
        regions: Names of the mask's regions, in order; nested regions from the outermost to the innermost.
        nested: Whether each region lies within the previous region.
        raters: Largest number of raters of a case.
        licence: Licence of images and masks.
        citation: Publication to cite.
        url: Page that describes the data set.
        download: Files to download, their address, and the folders that they unpack to. Shown if no data is found.
        normalisation: How values are scaled to the model's [-1, 1].
        tubular: Whether regions are thin and long, such as vessels; their centrelines are then scored, too.
        cropped: Whether models see windows of the pictures instead of whole pictures.
        value_range: Values of black and white in pictures of more than 8 bits; None if unknown.
        slice_input: How slices of volumes become images. None for pictures, and for slices that are z-scored and shown
            without their neighbours.
        trained: Whether the project trained on real cases of the data set. If not, only the layout is tested.
    """

    name: str
    title: str
    channels: tuple[str, ...]
    regions: tuple[str, ...]
    nested: bool
    raters: int
    licence: str
    citation: str
    url: str
    download: str
    normalisation: str = NORMALISATION
    tubular: bool = False
    cropped: bool = False
    value_range: tuple[float, float] | None = None
    slice_input: SliceInput | None = None
    trained: bool = False

    @property
    def image_channels(self) -> tuple[str, ...]:
        """Names of all channels that a model sees, including the channels of neighbouring slices."""
        return self.channels if self.slice_input is None else self.slice_input.image_channels(self.channels)

    @property
    def redistributable(self) -> bool:
        """Whether the licence allows copies of the images: only CC0, CC BY and Apache-2.0 do."""
        return is_open(self.licence)

    may_be_shown = RenamedAttribute("redistributable")


def is_open(licence: str) -> bool:
    """Return whether a licence lets everybody redistribute copies: only CC0, CC BY and Apache-2.0 do."""
    return re.match(_OPEN, licence) is not None
