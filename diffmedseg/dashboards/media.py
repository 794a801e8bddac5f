"""Make pictures and tables for W&B."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.store import to_bytes
from diffmedseg.metrics.scores import TITLES, CaseScore

if TYPE_CHECKING:
    import wandb

_SAMPLES = 4  # maximum number of samples in a picture
_DOUBT = {0: "agreed", 1: "0.1 to 0.2", 2: "0.2 to 0.3", 3: "0.3 to 0.4", 4: "0.4 to 0.5"}


@dataclass(frozen=True)
class Picture:
    """An image and its segmentation, on the model's grid.

    Attributes:
        title: Name of the image.
        image: (C, H, W), in [-1, 1].
        reference: (K, H, W), bool.
        mask: (K, H, W), bool: the fused mask.
        samples: (S, K, H, W), bool.
        uncertainty: (K, H, W), in [0, 0.5].
    """

    title: str
    image: Tensor
    reference: Tensor
    mask: Tensor
    samples: Tensor
    uncertainty: Tensor


def overlay(picture: Picture, regions: Sequence[str], longest: int) -> "wandb.Image":
    """Make a W&B image with layers to switch on and off: reference, fused mask, samples and their disagreement.

    Args:
        picture: The image. Three or more channels are shown as colours, fewer as grey.
        regions: Names of the regions, the classes of each mask. Of nested regions, the innermost is shown.
        longest: Maximum height and width in pixels; larger pictures are shrunk.
    """
    import wandb

    names = {0: "background"} | {k + 1: region for k, region in enumerate(regions)}
    masks = {"reference": picture.reference, "fused": picture.mask}
    masks |= {f"sample_{s + 1}": sample for s, sample in enumerate(picture.samples[:_SAMPLES])}
    layers: dict[str, Any] = {
        name: {"mask_data": _shrunk(_classes(mask), longest), "class_labels": names} for name, mask in masks.items()
    }
    if len(picture.samples) > 1:
        doubt = (picture.uncertainty.float().amax(0) * 10).floor().clamp(max=max(_DOUBT))
        layers["disagreement"] = {"mask_data": _shrunk(doubt, longest), "class_labels": _DOUBT}
    image = picture.image[:3] if len(picture.image) >= 3 else picture.image[:1].expand(3, -1, -1)
    size = _size(image, longest)
    if size != image.shape[-2:]:
        image = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return wandb.Image(to_bytes(image).permute(1, 2, 0).numpy(), masks=layers, caption=picture.title)


def _classes(mask: Tensor) -> Tensor:
    """Combine regions (K, H, W), bool, to a map of numbers (H, W): 0 is background, later regions take precedence."""
    return (mask * torch.arange(1, len(mask) + 1)[:, None, None]).amax(0)


def _size(maps: Tensor, longest: int) -> tuple[int, int]:
    height, width = int(maps.shape[-2]), int(maps.shape[-1])
    scale = min(longest / max(height, width), 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _shrunk(classes: Tensor, longest: int) -> NDArray[np.uint8]:
    """Shrink a map of classes (H, W) without new values."""
    small = F.interpolate(classes[None, None].float(), _size(classes, longest), mode="nearest-exact")
    return small[0, 0].to(torch.uint8).numpy()


def case_table(rows: Sequence[CaseScore]) -> "wandb.Table":
    """Make a W&B table of the scores of all cases. Scores that no case has are left out."""
    import wandb

    names: list[Any] = [
        "case",
        "region",
        *(name for name in TITLES if any(_is_number(getattr(row, name)) for row in rows)),
    ]
    names += ["both_empty", "num_slices", "num_samples", "num_raters"]
    data = [[value if _is_number(value := getattr(row, name)) else None for name in names] for row in rows]
    return wandb.Table(columns=names, data=data)


def _is_number(value: object) -> bool:
    return value == value
