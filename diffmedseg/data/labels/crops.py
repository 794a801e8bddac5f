"""Crops with labels, for data sets in which every image shows disease."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.labels.recipe import LabelRecipe, RelabelledStore
from diffmedseg.data.labels.whitening import BorderWhitening
from diffmedseg.data.store import ImageStore, is_tissue, to_signed, to_unit
from diffmedseg.errors import DataError
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.postprocessing.otsu import otsu_level
from diffmedseg.segmentation import majority

Window = tuple[int, int]  # top, left


class CropStore(RelabelledStore):
    """Square crops.

    Args:
        store: Whole images.
        crops: Index of the image, window and label of each crop.
        size: Height and width.
        whitening: Rewrites the colours of whole images before they are cut; None leaves them.
    """

    def __init__(
        self,
        store: ImageStore,
        crops: Sequence[tuple[int, Window, int]],
        size: int,
        whitening: BorderWhitening | None = None,
    ) -> None:
        names = [f"{store.ids[index]} at {top}, {left}" for index, (top, left), _ in crops]
        super().__init__(store, [index for index, _, _ in crops], names)
        self._windows, self._labels, self._size = [c[1] for c in crops], [c[2] for c in crops], size
        self._whitening = whitening

    def _crop(self, image: Tensor, index: int) -> Tensor:
        top, left = self._windows[index]
        return image[..., top : top + self._size, left : left + self._size]

    def image(self, index: int) -> Tensor:
        """Return the crop of the image."""
        whole = super().image(index)
        return self._crop(whole if self._whitening is None else self._whitening(to_signed(whole)), index)

    def masks(self, index: int) -> Tensor:
        """Return the crop of the masks."""
        return self._crop(super().masks(index), index)

    def reference(self, index: int) -> Tensor:
        """Return the crop of the masks on the model's grid: crops are not evaluated."""
        return self.masks(index)

    def label(self, index: int) -> int:
        """Return the crop's label."""
        return self._labels[index]


class Crops(LabelRecipe):
    """Takes healthy and diseased crops of one size from each image.

    Args:
        share: Height and width of a crop, as a share of the image's shorter side, rounded up to a multiple of 8 pixels.
        per_image: Maximum number of crops of each label from an image.
        seed: Seed of the choice of crops.
        whitening: Changes the colours of whole images before cropping; None keeps them. The model needs the same.
    """

    def __init__(
        self, share: float = 0.25, per_image: int = 2, seed: int = 0, whitening: BorderWhitening | None = None
    ) -> None:
        if not 0 < share <= 1 or per_image < 1:
            raise ValueError(
                f"share is {share}; it has to be in (0, 1]. per_image is {per_image}; it has to be at least 1."
            )
        self.share, self.per_image, self.seed, self.whitening = share, per_image, seed, whitening

    @abstractmethod
    def places(self, store: ImageStore, index: int, window: int) -> tuple[Tensor, Tensor]:
        """Return which windows of an image are healthy, and which are diseased.

        Returns:
            Two boolean maps (rows, columns) over the windows that start every quarter of ``window`` pixels.
        """

    def __call__(self, store: ImageStore) -> ImageStore:
        """Take crops; see the base class."""
        side = min(store.image(0).shape[-2:])
        window = min(-(-round(self.share * side) // 8), side // 8) * 8
        crops: list[tuple[int, Window, int]] = []
        for index in range(len(store)):
            generator = keyed_generator(self.seed, "crops", store.ids[index])
            for label, allowed in enumerate(self.places(store, index, window)):
                starts = allowed.nonzero()
                corners = starts[torch.randperm(len(starts), generator=generator)[: self.per_image]] * (window // 4)
                crops += [(index, (int(top), int(left)), label) for top, left in corners]
        counts = [sum(label == wanted for _, _, label in crops) for wanted in (0, 1)]
        if not all(counts):
            raise DataError(
                f"{type(self).__name__} found {counts[0]} healthy and {counts[1]} diseased crops of {window} pixels in "
                f"{len(store)} images; both are needed. Try another --data.label_recipe.share."
            )
        labelled = CropStore(store, crops, window, self.whitening)
        labelled.weights = [1 / counts[label] for _, _, label in crops]
        return labelled


def _window_mean(values: Tensor, window: int) -> Tensor:
    """Average a map (H, W) over every window."""
    return F.avg_pool2d(values[None, None].float(), window, window // 4)[0, 0]


class MaskExcludedCrops(Crops):
    """Crops by mask: healthy crops lie away from the mask and show mostly tissue; diseased crops overlap the mask.

    Args:
        share: Height and width of a crop, as a share of the image's shorter side, rounded up to a multiple of 8 pixels.
        per_image: Maximum number of crops of each label from an image.
        seed: Seed of the choice of crops.
        whitening: Changes the colours of whole images before cropping; None keeps them. The model needs the same.
        margin: Minimum distance of healthy crops from the mask, in pixels.
        least: Minimum share of a diseased crop that the mask covers.
    """

    supervision = "masks (mask-assisted): they say which crops are healthy"

    def __init__(
        self,
        share: float = 0.25,
        per_image: int = 2,
        seed: int = 0,
        margin: int = 3,
        least: float = 0.1,
        whitening: BorderWhitening | None = None,
    ) -> None:
        super().__init__(share, per_image, seed, whitening)
        self.margin, self.least = margin, least

    def places(self, store: ImageStore, index: int, window: int) -> tuple[Tensor, Tensor]:
        """Choose by the mask; see the base class."""
        mask = majority(store.masks(index)).amax(0)
        wide = F.max_pool2d(mask[None, None].float(), 2 * self.margin + 1, 1, self.margin)[0, 0]
        on_tissue = _window_mean(is_tissue(store.image(index)), window) >= 0.5  # air around a head is not tissue
        return on_tissue & (_window_mean(wide, window) == 0), _window_mean(mask, window) >= self.least


class BorderCrops(Crops):
    """Crops without masks: healthy crops touch the image's border and look empty; diseased crops lie in the middle.

    Photographers hold a lesion in the middle. A crop looks empty if few pixels are darker than the Otsu level of the
    whole image, and if its brightness is even.

    Args:
        share: Height and width of a crop, as a share of the image's shorter side, rounded up to a multiple of 8 pixels.
        per_image: Maximum number of crops of each label from an image.
        seed: Seed of the choice of crops.
        whitening: Changes the colours of whole images before cropping; None keeps them. The model needs the same.
        most_dark: Maximum share of dark pixels in a healthy crop.
        most_uneven: Maximum standard deviation of brightness in a healthy crop, of the range [0, 1].
    """

    supervision = "none but that lesions are held in the middle (weak)"

    def __init__(
        self,
        share: float = 0.25,
        per_image: int = 2,
        seed: int = 0,
        most_dark: float = 0.001,
        most_uneven: float = 0.05,
        whitening: BorderWhitening | None = None,
    ) -> None:
        super().__init__(share, per_image, seed, whitening)
        self.most_dark, self.most_uneven = most_dark, most_uneven

    def places(self, store: ImageStore, index: int, window: int) -> tuple[Tensor, Tensor]:
        """Choose by brightness and place; see the base class."""
        grey = to_unit(store.image(index)).mean(0)
        dark = _window_mean(grey < otsu_level(grey[None])[0], window)
        variance = _window_mean(grey.square(), window) - _window_mean(grey, window).square()
        rows, columns = dark.shape
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        border = (row == 0) | (row == rows - 1) | (column == 0) | (column == columns - 1)
        middle = ((row / max(rows - 1, 1) - 0.5).abs() <= 0.25) & ((column / max(columns - 1, 1) - 0.5).abs() <= 0.25)
        return border & (dark <= self.most_dark) & (variance <= self.most_uneven**2), middle
