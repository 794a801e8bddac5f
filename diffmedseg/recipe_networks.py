"""The network of a recipe: its encoder, or the network of pretrained weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffmedseg.errors import RecipeError
from diffmedseg.experiments import experiments_folder, list_parts, read_settings

#: Class of the network with an encoder, by the class of the network without.
_ON_ENCODER = {name: name for name in ("MedSegDiffLite", "MedSegDiffV2", "SMPNetwork", "StochasticUNet")}
_ON_ENCODER |= {"ResidualUNet": "SMPNetwork"}

#: Supervised baselines that can become a condition network, and the settings that are kept.
_CONDITIONS = {
    "SMPNetwork": (
        "encoder",
        "encoder_mean",
        "encoder_std",
        "encoder_frozen_norm",
        "decoder_channels",
        "encoder_depth",
    ),
    "ResidualUNet": ("size", "dropout", "spatial_dims"),
}


def class_of_network(files: Sequence[Path]) -> str | None:
    """Return the class path of the network. The last file that sets it counts."""
    denoisers = [read_settings(path).get("model", {}).get("init_args", {}).get("denoiser", {}) for path in files]
    return next((denoiser["class_path"] for denoiser in reversed(denoisers) if "class_path" in denoiser), None)


def models_with(network: str) -> list[str]:
    """Return the names of the models that have a network of this project, or that have it with an encoder.

    Args:
        network: Name of its class.
    """
    folder, found = experiments_folder(), []
    for part in ("model", "member"):
        for name in list_parts(part):
            own = (class_of_network([folder / part / f"{name}.yaml"]) or "").rpartition(".")[2]
            found += [name] if network in (own, _ON_ENCODER.get(own)) else []
    return sorted(found)


def takes_encoder(files: Sequence[Path]) -> bool:
    """Return whether the network of the files is one of this project's that can have an encoder."""
    package, _, name = (class_of_network(files) or "").rpartition(".")
    return package == "diffmedseg.models" and name in _ON_ENCODER


def puts_on_encoders(preset: str | None) -> bool:
    """Return whether a preset gives networks the recommended encoder of the data set."""
    return preset is not None and (experiments_folder() / "preset" / f"{preset}+encoder.yaml").is_file()


def with_encoder(
    encoder: str, weights: str | Path, model: str, files: Sequence[Path]
) -> tuple[dict[str, Any] | None, list[str]]:
    """Give a model's network an encoder.

    Returns:
        The network (None for the network of the files), and the settings that choose the encoder.

    Raises:
        RecipeError: If the model takes no encoder.
    """
    path = class_of_network(files) or ""
    package, _, name = path.rpartition(".")
    foreign = package != "diffmedseg.models"  # a user's own network may take an encoder
    on_encoder = name if foreign else _ON_ENCODER.get(name)
    settings = [f"--model.denoiser.encoder={encoder}", f"--model.denoiser.encoder_weights={weights}"]
    if encoder.lower() == "none":
        return None, settings[:1] if on_encoder == name else []
    if on_encoder is None:
        raise RecipeError(
            f"The model {model} takes no encoder. Choose medsegdiff-lite, medsegdiff-v2, ssn or supervised, or leave "
            "the encoder out."
        )
    if on_encoder == name:
        return None, settings
    return {"class_path": f"{package}.{on_encoder}", "init_args": {}}, settings


def is_on_encoder(network: Mapping[str, Any] | None) -> bool:
    """Return whether a network ``{class_path, init_args}`` of this project has an encoder."""
    if network is None:
        return False
    package, _, name = network["class_path"].rpartition(".")
    return package == "diffmedseg.models" and name in _ON_ENCODER and bool(network["init_args"].get("encoder"))


def pretrained_network(
    pretrained: str | Path, model: str, files: Sequence[Path]
) -> tuple[dict[str, Any], Sequence[int] | None]:
    """Return the network of ``pretrained``. Its size and encoder replace the recipe's.

    Returns:
        The network, and the height and width of the grid on which it learned; None if they are not stored.

    Raises:
        RecipeError: If the model has another network, which cannot use it as a condition network.
    """
    from diffmedseg.zoo.pretrained import pretrained_config, pretrained_denoiser

    config = pretrained_config(pretrained)
    network, grid = pretrained_denoiser(config), config["init_args"].get("image_size")
    path = class_of_network(files)
    if path == "diffmedseg.models.MedSegDiffLite" and (arguments := _condition_arguments(network)) is not None:
        return {"class_path": path, "init_args": arguments}, grid
    source, target = (name.rpartition(".")[2] for name in (network["class_path"], path or ""))
    if path and path != network["class_path"] and not (is_on_encoder(network) and _ON_ENCODER.get(target) == source):
        fitting = models_with(source)
        names = f" ({', '.join(fitting)})" if fitting else ""
        raise RecipeError(
            f"{pretrained} has the network {source}; the model {model} has {target}. Choose a model with this network"
            f"{names}, or other weights."
        )
    return network, grid


def _condition_arguments(network: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of MedSegDiff-Lite with a supervised baseline as condition network; None for others."""
    package, _, name = network["class_path"].rpartition(".")
    if package != "diffmedseg.models" or name not in _CONDITIONS:
        return None
    arguments = network["init_args"]
    if arguments.get("architecture", "unet") != "unet":
        return None  # condition networks with an encoder are U-Nets
    return {key: arguments[key] for key in _CONDITIONS[name] if key in arguments}
