"""The base of label recipes, which give training images their image-level labels."""

from abc import ABC, abstractmethod

from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.data.labels.whitening import BorderWhitening
from diffmedseg.data.store import ImageStore


class LabelRecipe(Configurable, ABC):
    """Turns the training images of a data set into images with a label, healthy or diseased.

    Attributes:
        supervision: Supervision that the labels need; it is reported beside all results.
        whitening: Change of the colours of images; None for no change.
    """

    supervision: str
    whitening: BorderWhitening | None = None

    @abstractmethod
    def __call__(self, store: ImageStore) -> ImageStore:
        """Label a split.

        Raises:
            DataError: If the split lacks the data that the recipe needs.
        """


class RelabelledStore(ImageStore):
    """Items of another store. Subclasses crop, inpaint or weight them.

    Args:
        store: The other store.
        indices: Index of each item in the other store.
        ids: Names of the items.
    """

    def __init__(self, store: ImageStore, indices: list[int], ids: list[str]) -> None:
        self.store, self.indices, self.ids = store, indices, ids
        self.cases = [store.cases[index] for index in indices]

    def image(self, index: int) -> Tensor:
        """Return the image; see the base class."""
        return self.store.image(self.indices[index])

    def masks(self, index: int) -> Tensor:
        """Return the masks, to check labels. Training does not see them."""
        return self.store.masks(self.indices[index])

    def reference(self, index: int) -> Tensor:
        """Return the masks at native size."""
        return self.store.reference(self.indices[index])

    def spacing(self, index: int) -> tuple[float, ...] | None:
        """Return the spacing; see the base class."""
        return self.store.spacing(self.indices[index])

    def position(self, index: int) -> int:
        """Return the slice's number; see the base class."""
        return self.store.position(self.indices[index])

    def num_slices(self, index: int) -> int:
        """Return the number of slices of the case; see the base class."""
        return self.store.num_slices(self.indices[index])

    def label(self, index: int) -> int | None:
        """Return the label; see the base class."""
        return self.store.label(self.indices[index])

    def healthy(self, index: int) -> Tensor | None:
        """Return the healthy counterpart; see the base class."""
        return None
