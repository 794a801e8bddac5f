"""Build networks of segmentation-models-pytorch."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from diffmedseg.errors import unknown
from diffmedseg.hub import hub_is_unknown, is_absent, without_vain_retries
from diffmedseg.models.encoder_loading import leave_out_unused, load_encoder, prepare_for_cpu
from diffmedseg.models.encoders import EncoderWeights, Normalisation, expected_normalisation

if TYPE_CHECKING:
    import segmentation_models_pytorch as smp

#: Default number of times that an encoder halves the image; also the largest number.
ENCODER_DEPTH = 5
#: Named widths of a decoder. With ``lite0``, ``slim`` has a quarter of the weights of the usual decoder.
DecoderWidth = Literal["slim"]
DECODERS: dict[DecoderWidth, tuple[int, ...]] = {"slim": (96, 48, 32, 16, 16)}


def build_network(
    architecture: str,
    encoder: str,
    weights: EncoderWeights,
    image_channels: int,
    mask_channels: int,
    decoder_channels: Sequence[int] | None,
    encoder_depth: int,
) -> "smp.base.SegmentationModel":
    """Build a network of segmentation-models-pytorch, and load the weights of its encoder."""
    import segmentation_models_pytorch as smp

    decoder = {} if decoder_channels is None else {"decoder_channels": tuple(decoder_channels)}
    # Some architectures have no such argument, so the usual value is not passed.
    decoder |= {} if encoder_depth == ENCODER_DEPTH else {"encoder_depth": encoder_depth}  # type: ignore[dict-item]
    try:
        with without_vain_retries():
            network = smp.create_model(
                architecture,
                encoder,
                encoder_weights=weights.hub,
                in_channels=image_channels,
                classes=mask_channels,
                **decoder,
            )
    except Exception as error:  # the hub, the connection and models of timm raise many kinds of errors
        if is_absent(error) and hub_is_unknown():
            raise ValueError(
                f"The weights of {encoder} come from the Hugging Face Hub, which cannot be reached, and its cache does "
                "not have them. Give encoder_weights as a file, or none."
            ) from error
        hub = "" if weights.hub is None else " Without a network, give encoder_weights as a file, or none."
        raise ValueError(
            f"segmentation-models-pytorch cannot build {architecture} on {encoder}: {error}{hub}"
        ) from error
    if weights.file is not None:
        load_encoder(network.encoder, weights.file)
    leave_out_unused(network.encoder, image_channels)
    prepare_for_cpu(network.encoder)
    return network


def decoder_widths(architecture: str, channels: DecoderWidth | Sequence[int] | None, depth: int) -> list[int] | None:
    """Return the channels of the decoder's stages; None for the architecture's own channels.

    Raises:
        ValueError: If there is no such architecture or depth, or its decoder cannot have these channels.
    """
    import segmentation_models_pytorch as smp

    if not 3 <= depth <= ENCODER_DEPTH:
        raise ValueError(f"encoder_depth is {depth}; it has to be from 3 to {ENCODER_DEPTH}.")
    if architecture.lower() not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise ValueError(unknown("architecture", architecture, list(smp.MODEL_ARCHITECTURES_MAPPING)))
    if channels is None and depth == ENCODER_DEPTH:
        return None
    parameters = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture.lower()].__init__).parameters
    usual = parameters["decoder_channels"].default if "decoder_channels" in parameters else None
    if not isinstance(usual, tuple):  # some architectures have one number, with another meaning
        if channels is None:
            return None
        raise ValueError(
            f"decoder_channels cannot be set for the architecture {architecture}: leave it out, or use unet."
        )
    if isinstance(channels, str):
        if channels not in DECODERS:
            raise ValueError(unknown("decoder width", channels, list(DECODERS)))
        return list(DECODERS[channels][-depth:])
    channels = usual[-depth:] if channels is None else channels
    if len(channels) != depth or min(channels) < 1:
        raise ValueError(
            f"decoder_channels is {list(channels)}; give {depth} positive numbers, from the coarsest stage to the "
            f"finest, or {' or '.join(DECODERS)}."
        )
    return list(channels)


def normalisation_of(
    encoder: str, weights: EncoderWeights, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalisation | None:
    """Return the user's normalisation, else the weights' normalisation; None for no normalisation."""
    if (mean is None) != (std is None):
        raise ValueError("encoder_mean and encoder_std belong together: give both, or neither.")
    if mean is None or std is None:
        return expected_normalisation(encoder, weights)
    return Normalisation(tuple(mean), tuple(std))
