"""Runs by name: a run composes from a model, a data set and a preset.

The configuration files lie in ``experiments/`` of the repository and in the installed package. A run reads those of the
following that exist; later files override earlier ones::

    base.yaml
    data/<data>.yaml
    model/<family>.yaml            medsegdiff-lite is of the family medsegdiff
    model/<family>+<tag>.yaml      for each tag of the data (its yaml says them), and for the data's own name;
                                   the tag several_raters is that of data with the masks of several raters
    member/<model>.yaml            where the model is not the family itself
    encoder.yaml                   where the network is on an encoder
    preset/<preset>.yaml
    preset/<preset>+<model>.yaml
    preset/<preset>+encoder.yaml   where the network is on an encoder

A name in ``chain/`` stands for several runs, one after the other: :mod:`diffmedseg.cli.chain`.

Data that is learned in patches keeps its own image size, whatever the preset says. A preset that has a ``+encoder``
file puts the networks that take an encoder on the one that the data set recommends, if it does. Each file is an
ordinary LightningCLI configuration. Importing this module takes no torch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmedseg.errors import RecipeError, suggest
from diffmedseg.experiments import (
    data_file,
    experiments_folder,
    find_root,
    known_name,
    list_models,
    list_parts,
    list_presets,
    own_file,
    read_settings,
)

if TYPE_CHECKING:
    from lightning import Trainer

    from diffmedseg.data import SegmentationDataModule
    from diffmedseg.models import DiffusionSegmenter

#: Names of before, and what they are called now.
RENAMED = {"medsegdiff-v1": "medsegdiff"}
#: The tag of data with the masks of several raters.
SEVERAL_RATERS = "several_raters"
#: By name of a network's class: the class that takes its place when an encoder is chosen.
_ON_ENCODER = {name: name for name in ("MedSegDiffLite", "MedSegDiffV2", "SMPNetwork", "StochasticUNet")}
_ON_ENCODER |= {"ResidualUNet": "SMPNetwork"}
#: Supervised baselines that may become a condition network, and their settings that it has, too.
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


@dataclass(frozen=True)
class Recipe:
    """A run that can be built: what :func:`recipe` returns.

    Attributes:
        name: Name of the experiment, such as ``medsegdiff-lite-chase``: its runs lie in ``runs/<name>``.
        files: Configuration files; later ones override earlier ones.
        settings: Settings that override the files, as on the command line.
        encoder: Name of the encoder that the network is on; None for the model's own network.
        network: A network that takes the place of the recipe's: that of ``pretrained``, or one on an encoder. None for
            the recipe's own.
        pretrained: What the weights start from: a zoo entry, a run or a file; None for new weights.
        trust: Packages of one's own whose classes may be loaded for ``pretrained``.
    """

    name: str
    files: tuple[Path, ...]
    settings: tuple[str, ...] = ()
    encoder: str | None = None
    network: Mapping[str, Any] | None = None
    pretrained: str | None = None
    trust: tuple[str, ...] = ()

    @property
    def for_several_raters(self) -> bool:
        """Whether the run has the settings for the masks of several raters."""
        return any(file.stem.endswith(f"+{SEVERAL_RATERS}") for file in self.files)

    @property
    def arguments(self) -> list[str]:
        """The arguments of LightningCLI that the run takes."""
        configs = [argument for file in self.files for argument in ("-c", str(file))]
        pretrained = [] if self.pretrained is None else [f"--pretrained={self.pretrained}"]
        pretrained += [] if self.network is None else [f"--model.denoiser={json.dumps(self.network)}"]
        trust = [f"--trust={list(self.trust)}"] if self.trust else []
        return [*configs, f"--experiment={self.name}", *pretrained, *trust, *self.settings]

    def build(self) -> "tuple[DiffusionSegmenter, SegmentationDataModule, Trainer]":
        """Build model, data and Trainer, linked as on the command line; this makes the run's folder.

        Raises:
            RecipeError: If a setting does not exist or has a wrong value.
        """
        from diffmedseg.cli.training import build

        return build(self.arguments)


def recipe(
    model: str | Path = "medsegdiff-lite",
    data: str | Path = "synthetic",
    *,
    root: str | Path | None = None,
    preset: str | None = None,
    name: str | None = None,
    pretrained: str | Path | None = None,
    trust: Sequence[str] = (),
    settings: Iterable[str] = (),
    encoder: str | None = None,
    encoder_weights: str | Path | None = None,
) -> Recipe:
    """Compose a run from a model, a data set and a preset.

    Args:
        model: Name of a model (:func:`list_models`), or the path of a yaml file with ``model:`` of one's own.
        data: Name of a data set (:func:`list_datasets`), or the path of a yaml file with ``data:`` of one's own.
        root: Folder that holds the data. None for ``$DIFFMEDSEG_DATA/<data>`` where that variable is set, else for what
            the data set's yaml says.
        preset: Name of a preset (:func:`list_presets`); None for a quick look.
        name: Name of the experiment; None for ``<model>-<data>``.
        pretrained: A zoo entry, the folder of a run, or a checkpoint whose weights training starts from.
            MedSegDiff-Lite starts from a supervised baseline, too: it becomes the condition network.
        trust: Packages of one's own whose classes ``pretrained`` may load.
        settings: Settings that override all else, as on the command line: ``["--trainer.max_steps=100"]``.
        encoder: Name of an encoder, such as ``lite0`` or ``resnet34``: the condition network of MedSegDiff-Lite and -V2
            becomes a U-Net on it, and so do SSN and the supervised baseline. ``none`` for the model's own network. None
            for what the preset takes; without a preset that is the model's own network.
        encoder_weights: ``imagenet``, a file of weights, or ``none`` for random weights. None takes ``imagenet``.

    Raises:
        RecipeError: If a name does not exist; the message suggests what is alike. If the model takes no encoder, or
            volumes where the data set has pictures.
    """
    model_name, model_files = _model_files(model)
    data_path = data_file(data)
    data_name = Path(data_path).stem
    parts = experiments_folder()
    content = read_settings(data_path)
    _check_volumes(model_name, model_files, data_name, content.get("data", {}))
    folder = find_root(root, data_name, content)
    tags = [*_derived_tags(content.get("data", {}), folder), *content.get("tags", []), data_name]
    family = model_files[0]
    combined = [family.with_name(f"{family.stem}+{tag}.yaml") for tag in tags]
    files = [parts / "base.yaml", data_path, family, *(path for path in combined if path.is_file()), *model_files[1:]]
    if pretrained is not None and encoder is not None:
        raise RecipeError(f"{pretrained} has its own encoder: give pretrained or encoder, not both.")
    network = None if pretrained is None else _network(pretrained, model_name, files)
    if encoder is None and pretrained is None and _takes_encoder(files) and _puts_on_encoders(preset):
        encoder = content.get("recommended_encoder")
    given = [] if folder is None else [f"--data.root={folder}"]
    given += [] if preset is None else _grid_of_patches(content)
    if encoder is not None:
        network, chosen = _on_encoder(encoder, encoder_weights or "imagenet", model_name, files)
        given += chosen
    elif encoder_weights is not None:
        raise RecipeError("encoder_weights needs an encoder: name one, such as lite0.")
    encoder = None if encoder is None or encoder.lower() == "none" else encoder
    files += [] if encoder is None else [parts / "encoder.yaml"]
    files += [] if preset is None else _preset_files(preset, model_name, encoder is not None)
    start = None if pretrained is None else str(pretrained)
    settings = [settings] if isinstance(settings, str) else settings
    name = name or f"{model_name}-{data_name}"
    return Recipe(name, tuple(files), (*given, *settings), encoder, network, start, tuple(trust))


def _model_files(model: str | Path) -> tuple[str, list[Path]]:
    """Return a model's name, and the files of its family and, where it is a member, of the member."""
    if own := own_file(model):
        return own.stem, [own]
    parts = experiments_folder()
    name = known_name("model", RENAMED.get(str(model), str(model)), list_models())
    family = parts / "model" / f"{name}.yaml"
    if family.is_file():
        return name, [family]
    families = [one for one in list_parts("model") if name.startswith(f"{one}-")]
    return name, [parts / "model" / f"{max(families, key=len)}.yaml", parts / "member" / f"{name}.yaml"]


def _check_volumes(model: str, files: Sequence[Path], data: str, config: Mapping[str, Any]) -> None:
    """Refuse pictures for a model that learns volumes, which sets the data's ``depth``.

    Raises:
        RecipeError: Saying what to choose.
    """
    from diffmedseg.data.catalogue import may_be_volumes

    depths = [read_settings(path).get("data", {}).get("init_args", {}).get("depth") for path in files]
    if any(depths) and not may_be_volumes(config):
        raise RecipeError(
            f"The model {model} learns volumes, and {data} has pictures: choose a data set of volumes, such as "
            "brats2015, or a model without -3d."
        )


def _derived_tags(config: Mapping[str, Any], root: Path | None) -> list[str]:
    """Return the tags that follow from the data's facts."""
    from diffmedseg.data.catalogue import several_raters

    arguments = config.get("init_args", {}) | ({} if root is None else {"root": root})
    return [SEVERAL_RATERS] if several_raters({**config, "init_args": arguments}) else []


def _class_of_network(files: Sequence[Path]) -> str | None:
    """Return the path of the network's class that the files name last."""
    denoisers = [read_settings(path).get("model", {}).get("init_args", {}).get("denoiser", {}) for path in files]
    return next((one["class_path"] for one in reversed(denoisers) if "class_path" in one), None)


def _takes_encoder(files: Sequence[Path]) -> bool:
    """Whether the network of the files is one of this project's that can stand on an encoder."""
    package, _, name = (_class_of_network(files) or "").rpartition(".")
    return package == "diffmedseg.models" and name in _ON_ENCODER


def _grid_of_patches(content: Mapping[str, Any]) -> list[str]:
    """Return the image size of data that is learned in patches: a patch is as fine as its data set says."""
    arguments = content.get("data", {}).get("init_args", {})
    kept = arguments.get("patch") is not None and "image_size" in arguments
    return [f"--data.image_size={json.dumps(arguments['image_size'])}"] if kept else []


def _puts_on_encoders(preset: str | None) -> bool:
    return preset is not None and (experiments_folder() / "preset" / f"{preset}+encoder.yaml").is_file()


def _on_encoder(
    encoder: str, weights: str | Path, model: str, files: Sequence[Path]
) -> tuple[dict[str, Any] | None, list[str]]:
    """Put a model's network on an encoder.

    Returns:
        The network, or None for that of the files, and the settings that choose the encoder.

    Raises:
        RecipeError: If the model takes no encoder.
    """
    path = _class_of_network(files) or ""
    package, _, name = path.rpartition(".")
    own = package != "diffmedseg.models"  # a network of the user's own may take an encoder
    on_encoder = name if own else _ON_ENCODER.get(name)
    settings = [f"--model.denoiser.encoder={encoder}", f"--model.denoiser.encoder_weights={weights}"]
    if encoder.lower() == "none":
        return None, settings[:1] if on_encoder == name else []
    if on_encoder is None:
        raise RecipeError(
            f"The model {model} takes no encoder: choose medsegdiff-lite, medsegdiff-v2, ssn or supervised, or leave "
            "the encoder out."
        )
    if on_encoder == name:
        return None, settings
    return {"class_path": f"{package}.{on_encoder}", "init_args": {}}, settings


def _network(pretrained: str | Path, model: str, files: Sequence[Path]) -> dict[str, Any]:
    """Return the network of what training starts from: its size and encoder take the place of the recipe's.

    Raises:
        RecipeError: If the model's network is another one, and cannot have that one as its condition network.
    """
    from diffmedseg.zoo.pretrained import pretrained_config, pretrained_denoiser

    network = pretrained_denoiser(pretrained_config(pretrained))
    own = _class_of_network(files)
    if own == "diffmedseg.models.MedSegDiffLite" and (around := _around(network)) is not None:
        return {"class_path": own, "init_args": around}
    if own and own != network["class_path"]:
        theirs, ours = (path.rpartition(".")[2] for path in (network["class_path"], own))
        raise RecipeError(
            f"{pretrained} has the network {theirs}; the model {model} has {ours}. Train the model that {theirs} is of."
        )
    return network


def _around(network: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a network whose condition network is a supervised baseline; None for what is none."""
    package, _, name = network["class_path"].rpartition(".")
    if package != "diffmedseg.models" or name not in _CONDITIONS:
        return None
    arguments = network["init_args"]
    if arguments.get("architecture", "unet") != "unet":
        return None  # condition networks on an encoder are U-Nets
    return {key: arguments[key] for key in _CONDITIONS[name] if key in arguments}


def _preset_files(preset: str, model: str, on_encoder: bool) -> list[Path]:
    if own := own_file(preset):
        return [own]
    if preset not in list_presets(model):
        raise RecipeError(f"The model {model} has no preset {preset!r}. {suggest(preset, list_presets(model))}")
    names = [preset, f"{preset}+{model}", *([f"{preset}+encoder"] if on_encoder else [])]
    paths = [experiments_folder() / "preset" / f"{name}.yaml" for name in names]
    return [path for path in paths if path.is_file()]
