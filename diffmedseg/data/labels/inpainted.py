"""Healthy counterparts made by inpainting lesions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.labels.own import PairStore
from diffmedseg.data.labels.recipe import LabelRecipe
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.segmentation import majority


class InpaintedPairs(LabelRecipe):
    """Makes a healthy counterpart of every image: each lesion is inpainted from the tissue around it.

    Args:
        margin: Width around the mask that is inpainted, too, in pixels of the model's grid.
        seed: Seed of the texture.
    """

    supervision = "masks (mask-assisted): what they cover is filled in"

    def __init__(self, margin: int = 3, seed: int = 0) -> None:
        if margin < 0:
            raise ValueError(f"margin is {margin}; it has to be at least 0.")
        self.margin, self.seed = margin, seed

    def __call__(self, store: ImageStore) -> ImageStore:
        """Fill in; see the base class."""
        covered = [float(self._hole(store, index).float().mean()) for index in range(len(store))]
        diseased = [index for index, share in enumerate(covered) if 0 < share < 1]
        if not diseased:
            raise DataError("No training image has a lesion to fill in.")

        def counterpart(index: int) -> Tensor:
            generator = keyed_generator(self.seed, "inpainting", store.ids[index])
            return inpaint(store.image(index), self._hole(store, index), generator)

        return PairStore(store, diseased, counterpart)

    def _hole(self, store: ImageStore, index: int) -> Tensor:
        mask = majority(store.masks(index)).amax(0, keepdim=True)
        return F.max_pool2d(mask[None].float(), 2 * self.margin + 1, 1, self.margin)[0] > 0


def inpaint(image: Tensor, hole: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a hole smoothly from its border, and add noise of the same strength as around it.

    Args:
        image: (C, H, W), uint8 in [0, 255] or float in [-1, 1].
        hole: (1, H, W), bool; neither empty nor the whole image.
        generator: Generator of the noise.

    Returns:
        (C, H, W), of the image's type; equal to the image outside the hole.
    """
    values = image.float()
    smooth = _pull_push(values[None], ~hole[None])[0]
    # The noise is measured with the smooth filling in the hole, so that the lesion does not affect it.
    patched = torch.where(hole, smooth, values)
    rough = (patched - F.avg_pool2d(patched[None], 3, 1, 1, count_include_pad=False)[0])[:, ~hole[0]]
    deviation = rough.square().mean(1).sqrt()[:, None, None]
    filled = smooth + torch.randn(image.shape, generator=generator) * deviation
    filled = filled.round().clamp(0, 255) if image.dtype == torch.uint8 else filled.clamp(-1, 1)
    return torch.where(hole, filled.to(image.dtype), image)


def _pull_push(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels from coarser and coarser means of known pixels (Gortler et al. 1996, section 3.3)."""
    if known.all():
        return image
    size = (max((image.shape[-2] + 1) // 2, 1), max((image.shape[-1] + 1) // 2, 1))
    weight = F.adaptive_avg_pool2d(known.float(), size)
    mean = F.adaptive_avg_pool2d(image * known, size) / weight.clamp(min=1e-6)
    coarse = _pull_push(mean, weight > 0)
    return torch.where(known, image, F.interpolate(coarse, image.shape[-2:], mode="bilinear"))
