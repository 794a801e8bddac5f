"""Callbacks that take the segmentation from a step's outputs, in the order in which they have to stand."""

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import cast

from lightning import Callback, LightningModule, Trainer

from diffmedseg.models.segmenting import Segmenter


class Stage(IntEnum):
    """What a callback does with the segmentation."""

    FUSE = 1
    REFINE = 2
    LOOK = 3


class SegmentationCallback(Callback):
    """A callback that replaces the segmentation, or looks at it after those that do."""

    stage: Stage

    @property
    def rules(self) -> dict[str, object]:
        """What takes the place of the model's own ``fusion`` or ``refinement``."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a wrong order: a score would be of another segmentation than the one that is left."""
        check_order(trainer.callbacks)  # type: ignore[attr-defined]  # set by Lightning, not declared
        if self.stage is not Stage.LOOK and cast(Segmenter, pl_module).calibration is not None:
            raise ValueError(
                f"{type(self).__name__} would change what the model's calibration was fitted to: test without it."
            )


def check_order(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks in a wrong order.

    Raises:
        ValueError: Naming two that have to change places.
    """
    ours = [callback for callback in callbacks if isinstance(callback, SegmentationCallback)]
    for first, second in pairwise(ours):
        if first.stage > second.stage:
            names = type(second).__name__, type(first).__name__
            raise ValueError(f"Callbacks are in a wrong order: {names[0]} has to come before {names[1]}.")
