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

    This class is not an Exception: after an Exception in an input, the prediction goes on with the next input.
    """


@dataclass(frozen=True)
class PictureResult:
    """A picture and its segmentation, for display.

    Attributes:
        name: The picture's name.
        picture: The picture, or its window: RGB, upright, at most :attr:`Watcher.longest` pixels wide and high.
        segmentation: The segmentation, upright. Its maps have the size of ``picture``.
        rows: The rows of ``predictions.csv``, one for each region.
        note: Note for the user; often empty.
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
        volume: The case in memory.
        segmentation: The segmentation. Its maps have the size of ``volume``.
        rows: The rows of ``predictions.csv``, one for each region.
        note: Note for the user; often empty.
    """

    name: str
    volume: "Volume"
    segmentation: "VolumeSegmentation"
    rows: "Sequence[VolumeRow]"
    note: str


class Watcher:
    """Follows a prediction. A subclass overrides the methods that it needs; any method may raise :class:`Stopped`.

    A prediction with a watcher draws no progress bar.

    Attributes:
        longest: Highest width and height of pictures for :meth:`keep_picture`, in pixels; None to keep no pictures.
    """

    longest: int | None = None
    _total, _done = 0, 0

    def report(self, share: float) -> None:
        """Receive the finished share of all inputs, in [0, 1]."""

    def keep_picture(self, result: PictureResult) -> None:
        """Receive the result of a picture, after its maps were computed; called only if ``longest`` is set."""

    def keep_volume(self, result: VolumeResult) -> None:
        """Receive the result of a volume, after its files were written."""

    def describe(self, model: Segmenter) -> dict[str, Any]:
        """Return a description of the model, with a digest of all weights.

        See :func:`~diffmedseg.prediction.run.describe_model`.
        """
        return describe_model(model)

    def draw(self, images: Tensor, keys: Sequence[str], model: Segmenter, settings: Settings) -> SampleSet:
        """Return the samples of a batch; see :func:`~diffmedseg.prediction.run.draw_samples`."""
        return draw_samples(images, keys, model, settings)

    def begin(self, total: int) -> None:
        """Set the number of inputs, and report that none of them is done."""
        self._total, self._done = total, 0
        self.within(0)

    def end_input(self) -> None:
        """Count a finished input, and report the share."""
        self._done += 1
        self.within(0)

    def within(self, share: float) -> None:
        """Report the progress, with the finished share of the current input, in [0, 1]."""
        self.report(min((self._done + share) / max(self._total, 1), 1.0))
