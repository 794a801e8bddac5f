"""Defaults and checks of the arguments that all segmenters take."""

from collections.abc import Sequence

from diffmedseg.keyed_random import check_slice_correlation
from diffmedseg.models.denoiser import Denoiser
from diffmedseg.models.recommended import Recommended
from diffmedseg.models.stacks import check_depth

_USUAL_NAMES: dict[str, dict[int, tuple[str, ...]]] = {
    "channel": {1: ("grey",), 3: ("red", "green", "blue")},
    "region": {1: ("lesion",)},
}
_COUNTS = ("num_samples", "num_steps", "val_num_samples", "val_num_steps")


def default_names(kind: str, number: int) -> tuple[str, ...]:
    """Return names for channels or regions without names.

    Args:
        kind: ``channel`` or ``region``.
        number: Number of channels or regions.
    """
    return _USUAL_NAMES[kind].get(number) or tuple(f"{kind}_{i + 1}" for i in range(number))


def check_threshold(threshold: float) -> float:
    """Return the threshold.

    Raises:
        ValueError: If the threshold does not lie between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it has to lie between 0 and 1.")
    return threshold


def choose_counts(recommended: Recommended, *counts: int | None) -> tuple[int, int, int, int]:
    """Return the numbers of samples and steps; the recommended number replaces None.

    Args:
        recommended: The recommendation of the network.
        counts: num_samples, num_steps, val_num_samples and val_num_steps.

    Raises:
        ValueError: If a number is below 1.
    """
    pairs = zip(_COUNTS, counts, strict=True)
    numbers = [getattr(recommended, name) if count is None else count for name, count in pairs]
    if min(numbers) < 1:
        raise ValueError("num_samples, num_steps, val_num_samples and val_num_steps have to be at least 1.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def check_network(denoiser: Denoiser, image_channels: Sequence[str], regions: Sequence[str], depth: int) -> None:
    """Check that a network fits the images and masks of the data.

    Args:
        denoiser: The network.
        image_channels: Names of the channels of an image, including channels of neighbouring slices.
        regions: Names of the regions.
        depth: Number of slices in a training volume; 0 for single images.

    Raises:
        ValueError: If the numbers of channels or regions differ, or the network takes images and the data has volumes,
            or the reverse.
    """
    check_depth(denoiser, depth)
    if (denoiser.image_channels, denoiser.mask_channels) != (len(image_channels), len(regions)):
        raise ValueError(
            f"The network takes {denoiser.image_channels} channels and gives {denoiser.mask_channels} "
            f"regions; the data has {len(image_channels)} {tuple(image_channels)} and {len(regions)} {tuple(regions)}."
        )


def check_encoder_lr(encoder_lr: float, denoiser: Denoiser) -> float:
    """Return the factor on the learning rate of the encoder.

    Raises:
        ValueError: If the factor is not positive, or is not 1 and the network has no encoder.
    """
    if encoder_lr <= 0:
        raise ValueError(f"encoder_lr is {encoder_lr}; it has to be positive.")
    if encoder_lr != 1 and not denoiser.encoder_parameters():
        raise ValueError(
            f"encoder_lr is {encoder_lr}, but the network {type(denoiser).__name__} has no encoder of its own: "
            "choose an encoder, or leave encoder_lr at 1."
        )
    return encoder_lr


def check_noise(slice_correlation: float | None, depth: int) -> float | None:
    """Return the correlation length of the noise over slices, in mm.

    Raises:
        ValueError: If the length is negative or not finite, or the network takes volumes.
    """
    checked = check_slice_correlation(slice_correlation)
    if depth and checked is not None:
        raise ValueError(
            f"slice_correlation is {checked:g}, which is for networks of slices. A network of volumes "
            "draws noise for a whole volume: set it to null."
        )
    return checked
