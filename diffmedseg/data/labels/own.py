"""Labels and healthy counterparts that a data set has."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from diffmedseg.data.labels.balance import covariates, overlap_weights, propensity
from diffmedseg.data.labels.recipe import LabelRecipe, RelabelledStore
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError


class OwnLabels(LabelRecipe):
    """The data set's own labels: slices with a tumour or without, pictures with a lesion or without.

    Both labels are drawn equally often. With ``balance``, items are also weighted so that the position of a slice and
    the area of the brain tell little about the label. Otherwise the network learns that the vertex is healthy.

    Args:
        balance: Whether to weight items by position and area.
    """

    supervision = "image-level labels"

    def __init__(self, balance: bool = True) -> None:
        self.balance = balance

    def __call__(self, store: ImageStore) -> ImageStore:
        """Label a split; see the base class."""
        stored_labels = [store.label(index) for index in range(len(store))]
        labels = np.array([-1 if label is None else label for label in stored_labels])
        if not {0, 1} <= set(labels.tolist()):
            has = "no image has a label" if (labels < 0).all() else f"all are {('healthy', 'diseased')[labels.max()]}"
            raise DataError(
                f"Of {len(store)} training images {has}: OwnLabels needs healthy and diseased images. Volumes have "
                "healthy slices with --data.train_slices brain."
            )
        features = covariates(store) if self.balance else {}
        probability = propensity([features[name] for name in ("position", "area") if name in features], labels)
        labelled = RelabelledStore(store, list(range(len(store))), list(store.ids))
        labelled.weights = overlap_weights(probability, labels)
        return labelled


class PairStore(RelabelledStore):
    """Diseased images with their healthy counterparts, followed by the counterparts as images of their own.

    Args:
        store: Images.
        diseased: Indices of the diseased images.
        counterpart: Returns the counterpart of the image with a given index.
    """

    def __init__(self, store: ImageStore, diseased: list[int], counterpart: Callable[[int], Tensor]) -> None:
        ids = [store.ids[index] for index in diseased]
        super().__init__(store, diseased * 2, ids + [f"{name}, healthy" for name in ids])
        self._labels, self._counterpart = [1] * len(diseased) + [0] * len(diseased), counterpart

    def image(self, index: int) -> Tensor:
        """Return the image, or a counterpart."""
        return super().image(index) if self._labels[index] else self.healthy(index)

    def masks(self, index: int) -> Tensor:
        """Return the masks; the masks of counterparts are empty."""
        return super().masks(index) * self._labels[index]

    def reference(self, index: int) -> Tensor:
        """Return the masks at native size; the masks of counterparts are empty."""
        return super().reference(index) * self._labels[index]

    def label(self, index: int) -> int:
        """Return 1 for the images, 0 for their counterparts."""
        return self._labels[index]

    def healthy(self, index: int) -> Tensor:
        """Return the healthy counterpart; a counterpart is its own counterpart."""
        return self._counterpart(self.indices[index])


class OwnPairs(LabelRecipe):
    """The data set's own healthy counterparts. Only synthetic images have them."""

    supervision = "pairs of an image with and without its lesion"

    def __call__(self, store: ImageStore) -> ImageStore:
        """Label a split; see the base class."""
        diseased = [index for index in range(len(store)) if store.label(index)]
        if not diseased or store.healthy(diseased[0]) is None:
            raise DataError("OwnPairs needs healthy counterparts. Only synthetic images have them.")

        def counterpart(index: int) -> Tensor:
            healthy = store.healthy(index)
            assert healthy is not None, f"{store.ids[index]} alone has no counterpart"
            return healthy

        return PairStore(store, diseased, counterpart)
