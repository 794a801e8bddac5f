"""Convert a user's images to the input of a model."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from diffmedseg.reading.levels import to_eight_bit
from diffmedseg.reading.opening import check_single, why_unusable
from diffmedseg.reading.pictures import turn_upright
from diffmedseg.reading.png import check_rows


def to_model_range(
    image: Tensor | np.ndarray | Image, channels: int, value_range: tuple[float, float] | None = None
) -> Tensor:
    """Convert a user's image to the model's input, (B, C, H, W) float32 in [-1, 1].

    Args:
        image: A PIL image, or an array or tensor of shape (H, W), (H, W, C) if uint8, (C, H, W) or (B, C, H, W).
            uint8 is taken as [0, 255], float as [-1, 1]. A PIL image is turned upright by its EXIF orientation and
            converted to 8 bits and to grey or RGB, as files are; a warning tells if it may be misread. For a file of
            several pages, pass the ``copy()`` of a page.
        channels: C, the model's channels.
        value_range: Values that become black and white in PIL images of more than 8 bits; see
            :func:`~diffmedseg.reading.levels.to_eight_bit`.

    Raises:
        ValueError: If type, shape, number of channels or range does not fit.
    """
    if isinstance(image, Image):
        image = _from_picture(image, channels, value_range)
    if isinstance(image, str | Path):
        raise ValueError(f"{image} is a path: open it first, with PIL.Image.open.")
    tensor = image if isinstance(image, Tensor) else _as_tensor(image)
    shape = tuple(tensor.shape)
    eight_bit = tensor.dtype == torch.uint8
    if eight_bit:
        if tensor.ndim == 3 and tensor.shape[-1] == channels and tensor.shape[0] != channels:
            tensor = tensor.permute(2, 0, 1)
        tensor = tensor.float() / 127.5 - 1
    elif not tensor.is_floating_point():
        raise ValueError(f"The image is {tensor.dtype}; pass uint8 in [0, 255] or float in [-1, 1].")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or tensor.shape[1] != channels:
        raise ValueError(
            f"The image has shape {shape}; expected (B, {channels}, H, W), "
            f"({channels}, H, W), or uint8 (H, W, {channels})."
        )
    if tensor.numel() == 0:
        raise ValueError(f"The image has shape {tuple(tensor.shape)}: there is nothing to segment.")
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise ValueError("The image holds NaN or infinite values: clean it before segmenting.")
    if tensor.abs().max() > 1 + 1e-3:
        raise ValueError(
            f"A float image is taken as [-1, 1]; this one spans [{tensor.min():.3g}, {tensor.max():.3g}]. "
            "Normalise it as the model's card says, or pass uint8."
        )
    if not eight_bit and tensor.min() >= 0 and tensor.max() > 0:
        warnings.warn(
            "A float image is taken as [-1, 1]; this one has no negative value. If it spans [0, 1], pass "
            "image * 2 - 1 or uint8.",
            stacklevel=3,
        )
    return tensor


def _from_picture(image: Image, channels: int, value_range: tuple[float, float] | None) -> Tensor:
    """Return a picture as (C, H, W), uint8, upright."""
    if channels not in (1, 3):
        raise ValueError(f"A picture has 1 or 3 channels, this model takes {channels}: pass a tensor instead.")
    try:
        check_single(image)
        file = Path(getattr(image, "filename", "") or ".")  # of a picture that was opened by its name
        if file.suffix.lower() == ".png" and file.is_file():
            check_rows(file)
        picture = to_eight_bit(image, value_range)
        colours = picture.image if picture.image.mode == "L" else picture.image.convert("RGB")
    except Exception as error:  # Pillow decodes files only now, and raises anything
        raise ValueError(f"The picture cannot be used: {why_unusable(error)}") from error
    for note in picture.notes:
        warnings.warn(f"The picture may be misread: {note.text}.", stacklevel=4)
    values = np.atleast_3d(np.array(colours.convert("L" if channels == 1 else "RGB")))
    return turn_upright(torch.from_numpy(values).permute(2, 0, 1), picture.turn)


def _as_tensor(array: object) -> Tensor:
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"{type(array).__name__} is no image: pass a PIL image, an array or a tensor; several images one after the "
            "other, or as one tensor (B, C, H, W)."
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"The image's dtype is {array.dtype}; pass uint8 in [0, 255] or float in [-1, 1].")
    # A copy: torch accepts neither reversed axes nor a foreign byte order, and warns about read-only memory.
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
