"""Convert masks between {0, 1}, for people and metrics, and [-1, 1], for diffusion."""

from torch import Tensor


def mask_to_x(mask: Tensor) -> Tensor:
    """Map a mask in [0, 1] to the diffused variable in [-1, 1]."""
    return mask * 2 - 1


def x_to_mask(x: Tensor) -> Tensor:
    """Map a diffused variable to a soft mask in [0, 1]. Values outside of [-1, 1] are clamped."""
    return ((x + 1) / 2).clamp(0, 1)
