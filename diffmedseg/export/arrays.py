"""Convert images and maps in NumPy to a model's range and grid, with the same results as the PyTorch code."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_TOLERANCE = 1e-3  # beyond [-1, 1]


def to_model_range(image: object, channels: int) -> Floats:
    """Convert an image to the model's form, (B, C, H, W) float32 in [-1, 1].

    Args:
        image: Array of shape (H, W), (H, W, C) if uint8, (C, H, W) or (B, C, H, W). The range is [0, 255] for uint8,
            and [-1, 1] for float.
        channels: C, number of the model's channels.

    Raises:
        ValueError: If the type, shape, number of channels or range does not fit.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"{type(image).__name__} is no array: pass a NumPy array. Of a PIL image pass "
            "numpy.asarray(PIL.ImageOps.exif_transpose(image).convert('RGB')), or 'L' for grey."
        )
    shape, eight_bit = image.shape, image.dtype == np.uint8
    if not eight_bit and image.dtype.kind != "f":
        raise ValueError(f"The image's dtype is {image.dtype}; pass uint8 in [0, 255] or float in [-1, 1].")
    if eight_bit and image.ndim == 3 and shape[-1] == channels != shape[0]:
        image = image.transpose(2, 0, 1)
    values: Floats = image.astype(np.float32)
    values = values / np.float32(127.5) - np.float32(1) if eight_bit else values
    values = values.reshape((1,) * (4 - values.ndim) + values.shape) if values.ndim in (2, 3) else values
    if values.ndim != 4 or values.shape[1] != channels:
        raise ValueError(
            f"The image has shape {shape}; expected (B, {channels}, H, W), ({channels}, H, W), or uint8 "
            f"(H, W, {channels})."
        )
    _check_values(values, shape, eight_bit)
    return np.ascontiguousarray(values)


def _check_values(values: Floats, shape: tuple[int, ...], eight_bit: bool) -> None:
    if not values.size:
        raise ValueError(f"The image has shape {shape}: there is nothing to segment.")
    if not np.isfinite(values).all():
        raise ValueError("The image holds NaN or infinite values: clean it before segmenting.")
    least, most = values.min(), values.max()
    if max(-least, most) > 1 + _TOLERANCE:
        raise ValueError(
            f"A float image is taken as [-1, 1]; this one spans [{least:.3g}, {most:.3g}]. Normalise it as the model's "
            "card says, or pass uint8."
        )
    if not eight_bit and least >= 0 and most > 0:
        warnings.warn(
            "A float image is taken as [-1, 1]; this one has no negative value. If it spans [0, 1], pass "
            "image * 2 - 1 or uint8.",
            stacklevel=4,
        )


def resize(maps: Floats, size: tuple[int, int]) -> Floats:
    """Resize maps (..., h, w) bilinearly to (..., *size), with antialiasing for smaller sizes, as in PyTorch."""
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    rows, columns = _weights(height, size[0]), _weights(width, size[1])
    resized: Floats = rows @ (maps @ columns.T)
    return resized


def to_grid(image: Floats, size: tuple[int, int]) -> Floats:
    """Resize images (B, C, H, W) in [-1, 1] to a model's grid."""
    return image if image.shape[-2:] == size else resize(image, size).clip(-1, 1)


def resize_soft(maps: Floats, size: tuple[int, int]) -> Floats:
    """Resize soft masks (..., h, w) in [0, 1]."""
    return maps if maps.shape[-2:] == size else resize(maps, size).clip(0, 1)


def _weights(before: int, after: int) -> Floats:
    """Return the matrix (after, before) that resizes a line.

    Its rows are triangles. Their half-width is a pixel of the coarser line. Positions are float32, as in PyTorch: on
    long lines, their rounding changes the weights more than the rounding of sums.
    """
    scale = np.float32(before) / np.float32(after)
    wide = np.float32(max(float(scale), 1.0))
    inverse = np.float32(1) / wide
    centres = (np.float64(scale) * (np.arange(after) + 0.5)).astype(np.float32)[:, None]
    first = np.maximum((centres - wide + np.float64(0.5)).astype(np.int64), 0)
    last = np.minimum((centres + wide + np.float64(0.5)).astype(np.int64), before)
    positions = np.arange(before)
    distances = ((positions.astype(np.float32) - centres) + np.float64(0.5)) * np.float64(inverse)
    triangles = np.maximum(1 - np.abs(distances.astype(np.float32)), 0).astype(np.float32)
    triangles[(positions < first) | (positions >= last)] = 0
    weights: Floats = triangles / triangles.sum(1, keepdims=True, dtype=np.float32)
    return weights


def calibrate(probability: Floats, calibration: Any) -> Floats:  # noqa: ANN401  plain data
    """Calibrate probabilities by the config of a :class:`~diffmedseg.postprocessing.Calibration`; None keeps them.

    Raises:
        KeyError: If the class of the calibration is not known.
    """
    if calibration is None:
        return probability
    mapped: Floats = CALIBRATIONS[calibration["class_path"]](probability, **calibration["init_args"])
    return mapped


def _scale_temperature(probability: Floats, temperature: float, bias: float) -> Floats:
    least = np.float32(1e-6)
    p = probability.clip(least, np.float32(1 - 1e-6))
    logit = (np.log(p) - np.log(1 - p)) / np.float32(temperature) + np.float32(bias)
    with np.errstate(over="ignore"):
        scaled: Floats = 1 / (1 + np.exp(-logit))
    return scaled


def _isotonic(p: Floats, probability: list[float], frequency: list[float]) -> Floats:
    return np.interp(p, probability, frequency).astype(np.float32)


#: Calibrations in NumPy, by the path of their class. Graphs of version 0.1 have the paths of this version.
CALIBRATIONS: dict[str, Callable[..., Floats]] = {
    "diffmedseg.postprocessing.TemperatureScaling": _scale_temperature,
    "diffmedseg.postprocessing.IsotonicCalibration": _isotonic,
    "diffmedseg.calibration.TemperatureScaling": _scale_temperature,
    "diffmedseg.calibration.IsotonicCalibration": _isotonic,
}

_FINE_BINS = 1000  # as in diffmedseg.metrics.calibration


def contour(probability: Floats, levels: list[float | None]) -> NDArray[np.bool_]:
    """Return the filled contour of an uncalibrated probability (B, K, H, W); see ``Conformal.contours``."""
    bins = (probability.astype(np.float64) * _FINE_BINS).astype(np.int64).clip(0, _FINE_BINS - 1)
    edges = [np.inf if level is None else np.round(level * _FINE_BINS) for level in levels]
    inside: NDArray[np.bool_] = bins >= np.array(edges)[:, None, None]
    return inside
