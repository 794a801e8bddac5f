"""The facts of a data set, in one place."""

import re
from dataclasses import dataclass

from diffmedseg.reading.slice_input import SliceInput

#: Licences that let everybody hand on copies of images, with no more asked than to name their source.
_OPEN = r"(CC0|CC BY \d|Apache-2\.0)"

#: How pictures come to [-1, 1].
NORMALISATION = "from [0, 255]: x / 127.5 - 1"


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set holds; the command line links it into the model, so nothing is typed twice.

    Attributes:
        name: Name on the command line and in the zoo.
        title: Name in prose.
        channels: Names of the image's channels, in order.
        regions: Names of the mask's regions, in order; where they nest, from the outermost in.
        nested: Whether each region lies within the one before it.
        raters: The most raters a case has.
        licence: Licence of images and masks.
        citation: What to cite.
        url: Where the data set is described.
        download: What to download, from where, and which folders it gives: shown where no data is found.
        normalisation: How values come to the model's [-1, 1].
        tubular: Whether regions are thin and long, as vessels are, so that their centrelines are scored, too.
        cropped: Whether models are shown windows of the pictures instead of the whole.
        value_range: What becomes black and white in pictures of more than 8 bits; None where nobody said so.
        slice_input: How slices of volumes become images; None where each is z-scored and shown alone, and for pictures.
        trained: Whether the project trained on its real cases; of others only the layout is tested.
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
        """Names of all channels that a model is shown, those of neighbouring slices included."""
        return self.channels if self.slice_input is None else self.slice_input.image_channels(self.channels)

    @property
    def may_be_shown(self) -> bool:
        """Whether copies of its images may be given away: the licence is CC0, CC BY or Apache-2.0, and no other."""
        return is_open(self.licence)


def is_open(licence: str) -> bool:
    """Whether a licence lets everybody hand on copies: CC0, CC BY or Apache-2.0, and no other."""
    return re.match(_OPEN, licence) is not None
