"""Vary photographs of skin: colour, focus, resolution, noise, dark corners, hair and compression.

Every function takes images (B, 3, H, W) in [0, 1] and returns the same shape and range. Amounts are tensors with one
value per image. No function draws random numbers. Training augmentation and the corruptions of the
robustness test share these functions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def change_colour(image: Tensor, hue: Tensor, saturation: Tensor, gains: Tensor) -> Tensor:
    """Rotate the hue, scale the saturation, then multiply each channel by its gain (white balance).

    Hue and saturation are changed in YUV, so that the luminance does not change.

    Args:
        image: (B, 3, H, W), in [0, 1].
        hue: (B,), angle in radians; 0 changes nothing.
        saturation: (B,), factor; 0 makes images grey, 1 changes nothing.
        gains: (B, 3), factors of red, green and blue; 1 changes nothing.
    """
    from kornia.color import rgb_to_yuv, yuv_to_rgb

    yuv: Tensor = rgb_to_yuv(image)
    luminance, u, v = torch.split(yuv, 1, 1)
    cos, sin = (_per_image(saturation * turn) for turn in (hue.cos(), hue.sin()))
    turned = torch.cat([luminance, cos * u - sin * v, sin * u + cos * v], 1)
    changed: Tensor = yuv_to_rgb(turned) * gains[..., None, None]
    return changed.clamp(0, 1)


def change_gamma(image: Tensor, gamma: Tensor) -> Tensor:
    """Raise values to a power (B,): below 1 brightens, above 1 darkens, 1 changes nothing."""
    from kornia.enhance import adjust_gamma

    changed: Tensor = adjust_gamma(image, gamma)
    return changed


def change_focus(image: Tensor, sigma: Tensor, sharpness: Tensor, largest: float) -> Tensor:
    """Blur images, or sharpen them by an unsharp mask.

    Args:
        image: (B, 3, H, W), in [0, 1].
        sigma: (B,), standard deviation of the Gaussian in pixels, more than 0.
        sharpness: (B,), share of the detail lost by the blur that is added to the image; -1 returns the blurred image.
        largest: Largest sigma that can occur. It sets the kernel's size, which must not depend on the batch.
    """
    from kornia.filters import gaussian_blur2d

    reach = min(math.ceil(3 * largest), min(image.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur2d(image, 2 * reach + 1, sigma[:, None].expand(-1, 2))
    return (image + _per_image(sharpness) * (image - blurred)).clamp(0, 1)


def lower_resolution(image: Tensor, scale: Tensor) -> Tensor:
    """Shrink images by a factor (B,) in (0, 1] and enlarge them to their size again."""
    size = image.shape[-2:]

    def lower(photograph: Tensor, factor: float) -> Tensor:
        small = [max(round(side * factor), 1) for side in size]
        shrunk = F.interpolate(photograph[None], small, mode="bilinear", antialias=True)
        return F.interpolate(shrunk, size, mode="bilinear")[0]

    return torch.stack(
        [lower(photograph, factor) for photograph, factor in zip(image, scale.tolist(), strict=True)]
    ).clamp(0, 1)


def radii(size: tuple[int, int], centre: Tensor) -> Tensor:
    """Return the distance of every pixel from a point of each image, (B, H, W).

    Args:
        size: Height and width.
        centre: (B, 2), column and row of the point in [-1, 1]; (0, 0) is the middle of the image.

    Returns:
        Distances in units of half a side: 1 is the middle of an edge, 1.41 a corner.
    """
    rows, columns = (torch.linspace(-1, 1, side, device=centre.device) for side in size)
    return torch.hypot(columns[None, None] - centre[:, :1, None], rows[None, :, None] - centre[:, 1:, None])


def darken_border(image: Tensor, distance: Tensor, radius: Tensor, softness: Tensor, darkness: Tensor) -> Tensor:
    """Darken the image outside a circle, as the tube of a dermatoscope does.

    Args:
        image: (B, 3, H, W), in [0, 1].
        distance: (B, H, W), from :func:`radii`.
        radius: (B,), radius of the circle in the units of ``distance``.
        softness: (B,), width of the edge in the same units, more than 0.
        darkness: (B,), share of the light that is lost outside; 1 is black.
    """
    outside = ((distance - _per_image(radius)[:, 0]) / _per_image(softness)[:, 0]).clamp(0, 1)
    return image * (1 - _per_image(darkness) * outside[:, None])


def compress(image: Tensor, quality: Tensor) -> Tensor:
    """Compress images as JPEG of a quality (B,), 1 (worst) to 100."""
    from kornia.enhance import jpeg_codec_differentiable

    compressed: Tensor = jpeg_codec_differentiable(image, quality)
    return compressed.clamp(0, 1)


def _per_image(value: Tensor) -> Tensor:
    return value[:, None, None, None]
