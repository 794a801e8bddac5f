"""Following a prediction while it runs: progress, a way to stop it, and results in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.run import Settings, describe_model, draw_samples
from diffmedseg.segmentation import SampleSet, Segmentation

if TYPE_CHECKING:
    from diffmedseg.prediction.pictures.folder import PictureRow
    from diffmedseg.prediction.volumes.folder import VolumeRow
    from diffmedseg.prediction.volumes.reading import Volume
    from diffmedseg.prediction.volumes.segmenting import VolumeSegmentation


class Stopped(BaseException):
    """A watcher stopped the prediction.

    It is no Exception: an Exception fails one input and the rest goes on, and this ends everything.
    """


@dataclass(frozen=True)
class PictureResult:
    """A picture and its segmentation, to be looked at.

    Attributes:
        name: The picture's name.
        picture: RGB, upright, at most :attr:`Watcher.longest` pixels wide and high.
        segmentation: Upright; its maps have the size of ``picture``.
        rows: What ``predictions.csv`` says of each region.
        note: What the user should know; often empty.
    """

    name: str
    picture: Image.Image
    segmentation: Segmentation
    rows: "Sequence[PictureRow]"
    note: str


@dataclass(frozen=True)
class VolumeResult:
    """A volume and its segmentation.

    Attributes:
        name: The case's name.
        volume: The case as it was read.
        segmentation: Its maps have the size of ``volume``.
        rows: What ``predictions.csv`` says of each region.
        note: What the user should know; often empty.
    """

    name: str
    volume: "Volume"
    segmentation: "VolumeSegmentation"
    rows: "Sequence[VolumeRow]"
    note: str


class Watcher:
    """Follows a prediction; a subclass overrides what it needs. Any method may raise :class:`Stopped`.

    Progress bars are not drawn while somebody watches.

    Attributes:
        longest: Pixels of the longer side of pictures for :meth:`keep_picture`; None where nobody keeps them.
    """

    longest: int | None = None
    _total, _done = 0, 0

    def report(self, share: float) -> None:
        """Take the share of all inputs that is done, in [0, 1]."""

    def keep_picture(self, result: PictureResult) -> None:
        """Take a picture's result; called after its maps were drawn, and only where ``longest`` is set."""

    def keep_volume(self, result: VolumeResult) -> None:
        """Take a volume's result; called after its files were written."""

    def describe(self, model: Segmenter) -> dict[str, Any]:
        """Describe the model; see :func:`~diffmedseg.prediction.run.describe_model`, which digests all weights."""
        return describe_model(model)

    def draw(self, images: Tensor, keys: Sequence[str], model: Segmenter, settings: Settings) -> SampleSet:
        """Draw the samples of a batch; see :func:`~diffmedseg.prediction.run.draw_samples`."""
        return draw_samples(images, keys, model, settings)

    def begin(self, total: int) -> None:
        """Note how many inputs there are."""
        self._total, self._done = total, 0
        self.within(0)

    def end_input(self) -> None:
        """Note that one more input is done."""
        self._done += 1
        self.within(0)

    def within(self, share: float) -> None:
        """Note the share of the current input that is done, in [0, 1]."""
        self.report(min((self._done + share) / max(self._total, 1), 1.0))
