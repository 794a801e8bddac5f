"""Drop small parts of masks in a test."""

from collections.abc import Mapping
from typing import cast

from lightning import Callback, LightningModule, Trainer

from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.components import smallest_sizes


class SmallestParts(Callback):
    """Makes :class:`~diffmedseg.callbacks.CaseMetrics` drop small parts of each mask before it scores the case.

    Parts are connected in the whole volume at native resolution; see
    :func:`~diffmedseg.postprocessing.components.drop_small`. Samples, probabilities and panels do not change.

    Args:
        smallest: Minimum number of voxels of a part, by region, such as 50 for ``enhancing_tumour``.
    """

    def __init__(self, smallest: Mapping[str, int]) -> None:
        self.smallest = dict(smallest)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the sizes on the model.

        Raises:
            DataError: If the model lacks a region, or a size is below 1.
        """
        model = cast(Segmenter, pl_module)
        smallest_sizes(self.smallest, model.regions)
        model.smallest = self.smallest

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the sizes from the model."""
        cast(Segmenter, pl_module).smallest = None
