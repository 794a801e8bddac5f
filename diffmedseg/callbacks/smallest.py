"""A test that drops small parts of masks."""

from collections.abc import Mapping
from typing import cast

from lightning import Callback, LightningModule, Trainer

from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.components import smallest_sizes


class SmallestParts(Callback):
    """Has :class:`~diffmedseg.callbacks.CaseMetrics` drop small parts of each case's mask before it is scored.

    Parts are those of the whole volume, at native resolution; see
    :func:`~diffmedseg.postprocessing.components.drop_small`. Samples and probabilities stay as they are, and so do
    panels, which show single slices.

    Args:
        smallest: By region, the voxels that a part needs, such as 50 for ``enhancing_tumour``.
    """

    def __init__(self, smallest: Mapping[str, int]) -> None:
        self.smallest = dict(smallest)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the model.

        Raises:
            DataError: If a region is not the model's, or a size is below 1.
        """
        model = cast(Segmenter, pl_module)
        smallest_sizes(self.smallest, model.regions)
        model.smallest = self.smallest

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the model as it was."""
        cast(Segmenter, pl_module).smallest = None
