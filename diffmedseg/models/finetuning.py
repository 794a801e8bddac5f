"""Fine-tuning: start a model from another model's weights, fitted to its image channels, regions and image size."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diffmedseg.configurable import to_config
from diffmedseg.models.denoiser import ChannelAxis, Denoiser
from diffmedseg.models.segmenter import DiffusionSegmenter

#: Minimum share of a network's parameters that have to come from the source.
LEAST_SHARE = 0.5


class MisfitError(ValueError):
    """The source has a different network; the message names it and says what to do."""


@dataclass(frozen=True)
class Initialisation:
    """The origin of a network's weights.

    Attributes:
        source: Name of the source.
        sha256: Hash of the source's weight file; None if it has no file.
        learned_from: Supervision of the source, in words.
        network: Class of the network.
        source_channels: Names of the image channels of the source.
        source_regions: Names of the regions of the source.
        channels: Names of the image channels of the model.
        regions: Names of the regions of the model.
        taken: Names of the weights that were copied unchanged.
        adapted: Names of the weights that were fitted to other image channels or regions.
        left: Names of the weights that keep their new initialisation.
        parameters: Number of parameters by ``taken``, ``adapted`` and ``left``.
    """

    source: str
    sha256: str | None
    learned_from: str
    network: str
    source_channels: tuple[str, ...]
    source_regions: tuple[str, ...]
    channels: tuple[str, ...]
    regions: tuple[str, ...]
    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]
    parameters: Mapping[str, int]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the parameters by ``taken``, ``adapted`` and ``left``, each in [0, 1]."""
        total = sum(self.parameters.values())
        return {name: count / total for name, count in self.parameters.items()}

    def __str__(self) -> str:
        """Return a paragraph for people."""
        parts = [f"{self.network} starts from {self.source}. {self._counted('taken')} taken as they are."]
        if self.adapted:
            parts.append(f"{self._counted('adapted')} fitted ({', '.join(self.adapted)}).")
        for noun, source, target in self._pairs():
            if source != target:
                parts.append(f"{noun}: {', '.join(source)} to {', '.join(target)}, {_rule(source, target)}.")
        if self.left:
            parts.append(f"{self._counted('left')} new ({', '.join(self.left)}).")
        return " ".join(parts)

    def _counted(self, name: str) -> str:
        return (
            f"{self.parameters[name]:,} of {sum(self.parameters.values()):,} parameters ({self.shares[name]:.1%}) are"
        )

    def _pairs(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        channels = ("Image channels", self.source_channels, self.channels)
        return channels, ("Regions", self.source_regions, self.regions)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data to store: the fields, and the shares of the parameters."""
        record = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return record | {"shares": {name: round(share, 4) for name, share in self.shares.items()}}


@torch.no_grad()
def initialise(
    model: DiffusionSegmenter, source: DiffusionSegmenter, name: str = "another model", sha256: str | None = None
) -> Initialisation:
    """Copy the weights of a source's network into a model, fitted to the model's image channels and regions.

    - Weights with the same name and shape are copied.
    - Convolutions that depend on the number of image channels or regions are fitted by name. An *input* that the
      source does not know starts at zero, so the learned response to the known inputs does not change. An *output*
      that the source does not know starts as the mean of the source's outputs.
    - If no name is known and the numbers are equal, the source's order is kept. If the numbers differ, each channel
      starts as the mean of the source's channels, and inputs are scaled to keep the response to equal channels.
    - The weights of a supervised baseline go to the condition network of MedSegDiff-Lite.
    - All other weights keep their new initialisation.

    The image size may differ, because the networks are convolutional. The FF-Parser of MedSegDiff-V1 stores its filter
    over frequencies, which do not depend on the size. The model keeps its own noise process, loss, sampler and
    optimiser. Call this function before training: the average of the weights starts with the first update.

    Args:
        model: The model to train. It is changed in place, and ``model.initialisation`` is set.
        source: The model with the weights to copy.
        name: Name of the source in messages.
        sha256: Hash of the source's file.

    Returns:
        The names of the copied, adapted and remaining weights. A warning is given if the two models have no image
        channel in common, or normalise images differently for an encoder.

    Raises:
        MisfitError: If less than half of the parameters can be copied or adapted. The model is then unchanged.
    """
    fitted, adapted = _fit_all(model, source)
    state = model.denoiser.state_dict()
    parts = {
        "taken": tuple(key for key in state if key in fitted and key not in adapted),
        "adapted": tuple(key for key in state if key in adapted),
        "left": tuple(key for key in state if key not in fitted),
    }
    sizes = {key: parameter.numel() for key, parameter in model.denoiser.named_parameters()}
    counts = {part: sum(sizes.get(key, 0) for key in keys) for part, keys in parts.items()}
    initialisation = Initialisation(
        name, sha256, source.learned_from, type(model.denoiser).__name__, source.image_channels, source.regions,
        model.image_channels, model.regions,
        **parts, parameters=counts,
    )  # fmt: skip
    if initialisation.shares["left"] > 1 - LEAST_SHARE:
        raise MisfitError(_misfit(model.denoiser, source.denoiser, initialisation))
    if not _shared_names(source.channels, model.channels):
        warnings.warn(
            f"{name} takes the image channels {', '.join(source.channels)}; this model takes "
            f"{', '.join(model.channels)}. Their values may be normalised in different ways: compare with training "
            "from scratch.",
            stacklevel=3,  # of the caller: no_grad is between
        )
    normalisations = [_normalisation(network) for network in (source.denoiser, model.denoiser)]
    if len(source.image_channels) == len(model.image_channels) and normalisations[0] != normalisations[1]:
        warnings.warn(
            f"{name} normalises images for its encoder with mean and deviation {normalisations[0]}; this model uses "
            f"{normalisations[1]}. Set encoder_mean and encoder_std of the denoiser to those of the source.",
            stacklevel=3,
        )
    for key, value in fitted.items():
        state[key].copy_(value)
    model.initialisation = initialisation.as_dict()
    return initialisation


def _fit_all(model: DiffusionSegmenter, source: DiffusionSegmenter) -> tuple[dict[str, Tensor], set[str]]:
    """Return the weights that fit the model's network, by name, and the names of the adapted weights."""
    prefix = model.denoiser.place_of(source.denoiser)
    axes = {f"{prefix}{key}": axis for key, axis in _weights_of(source.denoiser.channel_axes()).items()}
    names = {"channels": (source.image_channels, model.image_channels), "regions": (source.regions, model.regions)}
    source_state = {f"{prefix}{key}": value for key, value in source.denoiser.state_dict().items()}
    fitted, adapted = {}, set()
    for key, weight in model.denoiser.state_dict().items():
        if key not in source_state:
            continue
        value, axis = source_state[key], axes.get(key)
        if axis is not None and not (key.endswith(".bias") and axis.side == "input"):
            rows = _rows(*names[axis.of])
            if rows != list(range(len(names[axis.of][0]))):
                value = _fit(value, axis, rows, len(names[axis.of][0]))
                adapted.add(key)
        if value.shape == weight.shape:
            fitted[key] = value
    return fitted, adapted & fitted.keys()


def _normalisation(network: Denoiser) -> tuple[Any, Any]:
    """Return the mean and standard deviation that normalise an encoder's images; None without an encoder."""
    arguments = to_config(network)["init_args"]
    return arguments.get("encoder_mean"), arguments.get("encoder_std")


def _weights_of(axes: Mapping[str, ChannelAxis]) -> dict[str, ChannelAxis]:
    return {f"{module}.{name}": axis for module, axis in axes.items() for name in ("weight", "bias")}


def _shared_names(source: Sequence[str], target: Sequence[str]) -> set[str]:
    return {name.casefold() for name in source} & {name.casefold() for name in target}


def _rows(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Return, for each name of the target, its position in the source; None if the source does not know the name.

    If the source knows none of the names and the numbers are equal, the order is kept: a lesion for a nodule.
    """
    if len(source) == len(target) and not _shared_names(source, target):
        return list(range(len(source)))
    places = {name.casefold(): position for position, name in enumerate(source)}
    return [places.get(name.casefold()) for name in target]


def _rule(source: Sequence[str], target: Sequence[str]) -> str:
    """Say in words how the target's names were fitted."""
    rows = _rows(source, target)
    if all(row is None for row in rows):
        return "each the mean of the source's"
    if not _shared_names(source, target):
        return "in this order"
    new = [name for name, row in zip(target, rows, strict=True) if row is None]
    return f"by name; new: {', '.join(new)}" if new else "by name"


def _fit(value: Tensor, axis: ChannelAxis, rows: Sequence[int | None], source: int) -> Tensor:
    """Fit one weight.

    Args:
        value: The source's weight or bias.
        axis: Position of its channels.
        rows: Result of :func:`_rows`.
        source: Number of names of the source.
    """
    inputs = axis.side == "input"
    dim = 1 if inputs else 0
    leading, body = value.tensor_split([axis.offset], dim)
    body = body.reshape(*body.shape[:dim], source, axis.each, *body.shape[dim + 1 :])
    mean = body.mean(dim)
    if not inputs:
        new = mean
    elif all(row is None for row in rows):
        new = mean * source / len(rows)
    else:
        new = torch.zeros_like(mean)
    parts = [new if row is None else body.select(dim, row) for row in rows]
    return torch.cat([leading, torch.stack(parts, dim).flatten(dim, dim + 1)], dim)


def _misfit(target: Denoiser, source: Denoiser, fit: Initialisation) -> str:
    """Return the message for a source with a different network."""
    sizes = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in (source, target)]
    same_network, name = type(target) is type(source), type(source).__name__
    remedy = "its size and encoder (--model.denoiser)" if same_network else f"the MODEL whose network is {name}"
    return (
        f"The network of {fit.source} is {name} with {sizes[0]:.2f} million parameters; this model's is "
        f"{fit.network} with {sizes[1]:.2f} million, of which only {1 - fit.shares['left']:.0%} would fit. "
        f"Choose {remedy}, or another source."
    )
