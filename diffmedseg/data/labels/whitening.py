"""The border of an image as its healthy reference: values in units of the border's variation."""

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.data.labels.deciding import FieldOfView


class BorderWhitening(Configurable):
    """Rewrites the colours of an image as differences from its border, in units of the border's own variation.

    What is photographed is held in the middle, so the border shows what is healthy. Afterwards healthy pixels of all
    images lie around 0, whatever the colour of the skin and the light, and channels do not repeat each other.

    Args:
        width: Width of the border, as a share of the shorter side.
        field_of_view: Tells what of the border shows the subject; None where all does.
        shrinkage: What is added to the variances of the channels, as a share of their mean.
        scale: What one standard deviation of the border becomes, of the range [-1, 1]. 0.12 shows 8 of them.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        width: float = 0.1875,
        field_of_view: FieldOfView | None = None,
        shrinkage: float = 0.05,
        scale: float = 0.12,
    ) -> None:
        if not (0 < width < 0.5 and shrinkage >= 0 and scale > 0):
            raise ValueError(
                f"width {width} has to be in (0, 0.5), shrinkage {shrinkage} at least 0, and scale {scale} above 0."
            )
        self.width, self.field_of_view, self.shrinkage, self.scale = width, field_of_view, shrinkage, scale

    def __call__(self, image: Tensor) -> Tensor:
        """Rewrite a whole image (C, H, W) in [-1, 1]; the result has the same shape and range."""
        border = border_of((int(image.shape[-2]), int(image.shape[-1])), self.width)
        if self.field_of_view is not None:
            border &= torch.from_numpy(self.field_of_view(((image.float() + 1) / 2).cpu().numpy()))
        white = whiten(image, border.to(image.device), self.shrinkage)
        return (self.scale * white).clamp(-1, 1).to(image.dtype)


def border_of(size: tuple[int, int], width: float) -> Tensor:
    """Return which pixels (H, W) lie less than ``width``, a share of the shorter side, off the edge of an image."""
    pixels = max(round(width * min(size)), 1)
    border = torch.ones(size, dtype=torch.bool)
    border[pixels:-pixels, pixels:-pixels] = False
    return border


def whiten(values: Tensor, healthy: Tensor, shrinkage: float) -> Tensor:
    """Subtract the median of healthy pixels, and divide by the root of their covariance.

    The length of the result over channels is Mahalanobis' distance from what is healthy, as in the detector of Reed
    and Yu (1990, IEEE TASSP 38:1760), with a median in place of the mean and a covariance drawn towards a sphere.

    Args:
        values: (C, H, W).
        healthy: (H, W), bool: which pixels are known to be healthy.
        shrinkage: What is added to the variances, as a share of their mean.

    Returns:
        (C, H, W), float64. All 0 where there are fewer healthy pixels than channels, or they do not vary.
    """
    own = values.double().flatten(1)
    known = healthy.flatten()
    count = int(known.sum())
    if count < len(own):
        return torch.zeros_like(own).reshape(values.shape)
    offset = own - own[:, known].median(1, keepdim=True).values
    covariance = offset[:, known] @ offset[:, known].T / count
    spread = covariance.diagonal().mean()
    if not spread > 0:
        return torch.zeros_like(own).reshape(values.shape)
    covariance = covariance + shrinkage * spread * torch.eye(len(own), dtype=own.dtype, device=own.device)
    variance, axes = torch.linalg.eigh(covariance)
    # Symmetric, so that channels keep their meaning: red stays red.
    root = axes @ torch.diag(variance.clamp(min=1e-12 * spread).rsqrt()) @ axes.T
    white: Tensor = (root @ offset).reshape(values.shape)
    return white
