"""MedSegDiff's FF-Parser: a learned filter in Fourier space (arXiv 2211.00611, section 3.3, eq. 4-6)."""

import math

import torch
from torch import Tensor, nn


class FFParser(nn.Module):
    """Multiplies a feature map's spectrum by a learned complex map.

    M = FFT2(m), M' = A * M, m' = IFFT2(M') (eq. 4-6). A is learned on a fixed grid over *signed* frequency, in cycles
    per pixel: rows over [-1/2, 1/2], columns over [0, 1/2] (the half-spectrum of a real map). It is interpolated to the
    frequencies of each map. So the filter works at every size, and has the same effect on waves of the same length in
    pixels. It starts as the identity.

    The released code learns A for one map size and initialises it with 0.02 * noise, which damps maps fifty-fold. The
    parameter is real, (2, ...), so that every optimiser, precision and wrapper can train it.

    Args:
        channels: Channels of the feature map. Each channel has its own filter.
        grid: Odd number of grid points over the signed row frequency. The columns have (grid + 1) / 2 points.
    """

    def __init__(self, channels: int, grid: int = 17) -> None:
        super().__init__()
        if grid < 3 or grid % 2 == 0:
            raise ValueError(f"grid is {grid}; it has to be odd, so that frequency 0 is a grid point, and at least 3.")
        weight = torch.zeros(2, channels, grid, (grid + 1) // 2)
        weight[0] = 1
        self.weight = nn.Parameter(weight)  # real and imaginary part, (2, C, rows, columns)

    def response(self, height: int, width: int) -> Tensor:
        """Return the filter for a map of ``height`` x ``width``, complex, (C, height, width // 2 + 1)."""
        return torch.complex(*self._response_parts(height, width))

    def _response_parts(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the real and the imaginary part of :meth:`response`."""
        device, grid = self.weight.device, self.weight.shape[2]
        rows = _interpolation((row_frequencies(height, device) + 0.5) * (grid - 1), grid)
        columns = _interpolation(column_frequencies(width, device) * (grid - 1), self.weight.shape[3])
        parts = torch.einsum("yr,zcrq,xq->zcyx", rows, self.weight.float(), columns)
        return parts[0], parts[1]

    def forward(self, m: Tensor) -> Tensor:
        """Filter a map (B, C, H, W), and keep its shape and dtype. The transform runs in float32."""
        with torch.autocast(m.device.type, enabled=False):
            if torch.compiler.is_exporting():
                return filter_by_products(m.float(), *self._response_parts(*m.shape[-2:])).to(m.dtype)
            return filter_spectrum(m.float(), self.response(*m.shape[-2:])).to(m.dtype)


def row_frequencies(height: int, device: torch.device) -> Tensor:
    """Return ``torch.fft.fftfreq(height)``, by operations that ONNX has."""
    upward = torch.arange((height + 1) // 2, dtype=torch.float32, device=device)
    downward = torch.arange(-(height // 2), 0, dtype=torch.float32, device=device)
    return torch.cat([upward, downward]) * (1 / height)


def column_frequencies(width: int, device: torch.device) -> Tensor:
    """Return ``torch.fft.rfftfreq(width)``, by operations that ONNX has."""
    return torch.arange(width // 2 + 1, dtype=torch.float32, device=device) * (1 / width)


def filter_spectrum(m: Tensor, response: Tensor) -> Tensor:
    """Multiply the spectrum of a real map by a filter.

    Two columns of the half-spectrum hold both a frequency and its negative: the column of frequency 0 and, if the width
    is even, the last column. In a real map these pairs are conjugate, but a filter may break the symmetry. The inverse
    transform then averages each pair on a CPU, while cuFFT reads only one of the two values. So this function
    symmetrises the filter first, and all devices agree.

    Args:
        m: (..., H, W), float32.
        response: The filter, real or complex, broadcast to (..., H, W // 2 + 1).

    Returns:
        The filtered map, with the shape of ``m``.
    """
    width = m.shape[-1]
    columns = slice(0, 1) if width % 2 else slice(0, None, width // 2)  # a list would be copied to the GPU
    shared = response[..., columns]
    response = response.clone()
    response[..., columns] = (shared + shared.flip(-2).roll(1, -2).conj()) / 2
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(m, norm="ortho") * response, m.shape[-2:], norm="ortho")
    return filtered


def filter_by_products(m: Tensor, real: Tensor, imaginary: Tensor | None = None) -> Tensor:
    """Filter like :func:`filter_spectrum`, by products with matrices of cosines and sines.

    ONNX graphs have no complex numbers. The result takes the real part of the columns that hold a frequency and its
    negative, which is the same as symmetrising the filter.

    Args:
        m: (..., H, W), float32; H and W fixed.
        real: Real part of the filter, broadcast to (..., H, W // 2 + 1).
        imaginary: Imaginary part of the filter; None for a real filter.
    """
    height, width = m.shape[-2:]
    cos_y, sin_y = _waves(height, height, m)
    cos_x, sin_x = _waves(width, width // 2 + 1, m)
    a, b = m @ cos_x, -(m @ sin_x)  # real and imaginary part; rows are transformed first, then columns
    a, b = cos_y @ a + sin_y @ b, cos_y @ b - sin_y @ a
    a, b = (a * real, b * real) if imaginary is None else (a * real - b * imaginary, a * imaginary + b * real)
    a, b = cos_y @ a - sin_y @ b, cos_y @ b + sin_y @ a
    times = torch.full((width // 2 + 1,), 2.0, device=m.device)  # a frequency and its negative
    times = torch.where(torch.arange(width // 2 + 1, device=m.device) * 2 % width == 0, 1.0, times)
    filtered: Tensor = ((a * times) @ cos_x.T - (b * times) @ sin_x.T) / (height * width)
    return filtered


def _waves(length: int, frequencies: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of a discrete Fourier transform, each (length, frequencies), float32."""
    turns = torch.arange(length)[:, None] * torch.arange(frequencies) % length  # integers are exact
    angles = turns.double() * (2 * math.pi / length)
    return angles.cos().to(like), angles.sin().to(like)


def _interpolation(position: Tensor, points: int) -> Tensor:
    """Return the matrix (N, points) of linear interpolation at positions (N,) in [0, points - 1]: hat functions."""
    return (1 - (position[:, None] - torch.arange(points, device=position.device)).abs()).clamp(min=0)
