"""Whiten the colours of an image by its border, which serves as the healthy reference."""

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.data.labels.deciding import FieldOfView


class BorderWhitening(Configurable):
    """Expresses the colours of an image as differences from its border, in standard deviations of the border.

    Photographers hold a lesion in the middle, so the border shows healthy skin. After whitening, healthy pixels of all
    images are near 0, for any colour of skin and light, and the channels are uncorrelated.

    Args:
        width: Width of the border, as a share of the shorter side.
        field_of_view: Finds the visible part of the border; None for the whole border.
        shrinkage: Share of the mean variance of the channels that is added to each variance.
        scale: Value of one standard deviation of the border in the result, whose range is [-1, 1]. With 0.12 the range
            holds 8 standard deviations.

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
                f"width is {width}, shrinkage {shrinkage} and scale {scale}; width has to be in (0, 0.5), shrinkage at "
                "least 0, and scale above 0."
            )
        self.width, self.field_of_view, self.shrinkage, self.scale = width, field_of_view, shrinkage, scale

    def __call__(self, image: Tensor) -> Tensor:
        """Whiten a whole image (C, H, W) in [-1, 1]; the result has the same shape and range."""
        border = border_of((int(image.shape[-2]), int(image.shape[-1])), self.width)
        if self.field_of_view is not None:
            border &= torch.from_numpy(self.field_of_view(((image.float() + 1) / 2).cpu().numpy()))
        white = whiten(image, border.to(image.device), self.shrinkage)
        return (self.scale * white).clamp(-1, 1).to(image.dtype)


def border_of(size: tuple[int, int], width: float) -> Tensor:
    """Return the border of an image, (H, W), bool; ``width`` is a share of the shorter side."""
    pixels = max(round(width * min(size)), 1)
    border = torch.ones(size, dtype=torch.bool)
    border[pixels:-pixels, pixels:-pixels] = False
    return border


def whiten(values: Tensor, healthy: Tensor, shrinkage: float) -> Tensor:
    """Subtract the median of healthy pixels, and multiply by the inverse root of their covariance.

    The norm of the result over channels is the Mahalanobis distance from healthy pixels, as in the detector of Reed and
    Yu (1990, IEEE TASSP 38:1760), but with the median in place of the mean, and with a shrunk covariance.

    Args:
        values: (C, H, W).
        healthy: (H, W), bool: pixels that are known to be healthy.
        shrinkage: Share of the mean variance that is added to each variance.

    Returns:
        (C, H, W), float64. All 0 if there are fewer healthy pixels than channels, or if they do not vary.
    """
    pixels = values.double().flatten(1)
    is_healthy = healthy.flatten()
    count = int(is_healthy.sum())
    if count < len(pixels):
        return torch.zeros_like(pixels).reshape(values.shape)
    offset = pixels - pixels[:, is_healthy].median(1, keepdim=True).values
    covariance = offset[:, is_healthy] @ offset[:, is_healthy].T / count
    spread = covariance.diagonal().mean()
    if not spread > 0:
        return torch.zeros_like(pixels).reshape(values.shape)
    covariance = covariance + shrinkage * spread * torch.eye(len(pixels), dtype=pixels.dtype, device=pixels.device)
    variance, axes = torch.linalg.eigh(covariance)
    # Symmetric, so that channels keep their meaning: red stays red.
    root = axes @ torch.diag(variance.clamp(min=1e-12 * spread).rsqrt()) @ axes.T
    white: Tensor = (root @ offset).reshape(values.shape)
    return white
