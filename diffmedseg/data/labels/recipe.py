"""Where image-level labels come from."""

from abc import ABC, abstractmethod

from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.data.labels.whitening import BorderWhitening
from diffmedseg.data.store import ImageStore


class LabelRecipe(Configurable, ABC):
    """Turns the training images of a data set into images with a label, healthy or diseased.

    Attributes:
        supervision: What the labels take, to be told wherever results are.
        whitening: How the colours of images are rewritten; None where they are not.
    """

    supervision: str
    whitening: BorderWhitening | None = None

    @abstractmethod
    def __call__(self, store: ImageStore) -> ImageStore:
        """Label a split.

        Raises:
            DataError: If the split does not have what this takes.
        """


class RelabelledStore(ImageStore):
    """Items of another store, each perhaps cut, filled in or weighted anew.

    Args:
        store: The other store.
        indices: Which of its items these are.
        ids: Their names.
    """

    def __init__(self, store: ImageStore, indices: list[int], ids: list[str]) -> None:
        self.store, self.indices, self.ids = store, indices, ids
        self.cases = [store.cases[index] for index in indices]

    def image(self, index: int) -> Tensor:
        """Return the image; see the base class."""
        return self.store.image(self.indices[index])

    def masks(self, index: int) -> Tensor:
        """Return the masks, to see what labels are worth; training is not given them."""
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

    def label(self, index: int) -> int | None:
        """Return the label; see the base class."""
        return self.store.label(self.indices[index])

    def healthy(self, index: int) -> Tensor | None:
        """Return the healthy counterpart; see the base class."""
        return None
