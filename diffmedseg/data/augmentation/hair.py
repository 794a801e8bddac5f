"""Draw hair over photographs of skin."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_hair(number: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the shapes of hairs that lie roughly in one direction, as they do on skin.

    Args:
        number: N, the number of hairs.
        side: Shorter side of the image in pixels.
        generator: Generator on the CPU.

    Returns:
        Control points (N, 3, 2), width (N,) in pixels and colour (3,): the arguments of :func:`draw_hair`.
    """
    start = torch.rand(number, 2, generator=generator) * 1.2 - 0.1
    direction = torch.rand((), generator=generator) * 2 * math.pi
    angle = direction + 0.5 * torch.randn(number, generator=generator)
    length = 0.3 + 0.7 * torch.rand(number, 1, generator=generator)
    ahead = length * torch.stack([angle.cos(), angle.sin()], -1)
    aside = ahead.flip(-1) * torch.tensor([1.0, -1.0])
    bend = 0.25 * torch.randn(number, 1, generator=generator)
    curves = torch.stack([start, start + ahead / 2 + bend * aside, start + ahead], 1)
    width = side * (0.004 + 0.006 * torch.rand(number, generator=generator))
    brightness = 0.02 + 0.3 * torch.rand((), generator=generator)
    return curves, width, brightness * torch.tensor([1.2, 0.95, 0.8])


def draw_hair(image: Tensor, curves: Tensor, width: Tensor, colour: Tensor) -> Tensor:
    """Draw hairs over one image.

    Args:
        image: (3, H, W), in [0, 1].
        curves: (N, 3, 2), control points of quadratic Bezier curves: column and row as fractions of the image.
        width: (N,), in pixels.
        colour: (3,), in [0, 1].
    """
    from kornia.filters import gaussian_blur2d

    height, width_px = image.shape[-2:]
    t = torch.linspace(0, 1, 2 * (height + width_px), device=image.device)[:, None, None]
    start, middle, end = (curves * torch.tensor([width_px - 1, height - 1], device=image.device)).unbind(1)
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end  # (T, N, 2)
    length = F.pad((points[1:] - points[:-1]).norm(dim=-1), (0, 0, 0, 1))
    ink = _splat(points.flatten(0, 1), (length * width).flatten(), (height, width_px))
    sigma = width.mean() / 2
    kernel = 2 * math.ceil(3 * float(sigma)) + 1
    blurred: Tensor = gaussian_blur2d(ink[None, None], kernel, sigma.expand(1, 2), "constant")
    cover = blurred[0].clamp(0, 1)
    return image * (1 - cover) + colour[:, None, None] * cover


def _splat(points: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Add weights (P,) to the four pixels around points (P, 2); return (H, W)."""
    height, width = size
    canvas = points.new_zeros(height * width)
    corner = points.floor()
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixel = corner + torch.tensor(offset, device=points.device)
        share = (1 - (points - pixel).abs()).prod(-1) * weight
        column, row = pixel.long().unbind(-1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        canvas.index_add_(0, (row * width + column)[inside], share[inside])
    return canvas.view(size)
