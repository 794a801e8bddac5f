"""The base of callbacks on the segmentation of a step, and the check of their order."""

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import cast

from lightning import Callback, LightningModule, Trainer

from diffmedseg.models.segmenting import Segmenter


class Stage(IntEnum):
    """The kind of a callback: it fuses samples, refines the mask, or only reads the segmentation."""

    FUSE = 1
    REFINE = 2
    LOOK = 3


class SegmentationCallback(Callback):
    """A callback that replaces the segmentation, or reads the final segmentation."""

    stage: Stage

    @property
    def rules(self) -> dict[str, object]:
        """The rules that replace the model's own ``fusion`` or ``refinement``."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a wrong order: otherwise scores would not belong to the final segmentation."""
        check_order(trainer.callbacks)  # type: ignore[attr-defined]  # set by Lightning, not declared
        if self.stage is not Stage.LOOK and cast(Segmenter, pl_module).calibration is not None:
            raise ValueError(
                f"{type(self).__name__} changes the probabilities that the model's calibration was fitted to. Test "
                f"without {type(self).__name__}."
            )


def check_order(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks in a wrong order.

    Raises:
        ValueError: The message names two callbacks to swap.
    """
    ours = [callback for callback in callbacks if isinstance(callback, SegmentationCallback)]
    for first, second in pairwise(ours):
        if first.stage > second.stage:
            names = type(second).__name__, type(first).__name__
            raise ValueError(f"Callbacks are in a wrong order. Put {names[0]} before {names[1]}.")
