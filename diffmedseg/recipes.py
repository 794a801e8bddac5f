"""Runs by name: a run is composed from a model, a data set and a preset.

The configuration files are in ``experiments/`` of the repository, and in the installed package. A run reads these
files, if they exist. Later files override earlier files::

    base.yaml
    data/<data>.yaml
    model/<family>.yaml            medsegdiff-lite belongs to the family medsegdiff
    model/<family>+<tag>.yaml      for each tag in the data's yaml, and for the data's name;
                                   data with masks of several raters has the tag several_raters
    member/<model>.yaml            if the model is not the family itself
    encoder.yaml                   if the network has an encoder
    preset/<preset>.yaml
    preset/<preset>+<model>.yaml
    preset/<preset>+encoder.yaml   if the network has an encoder

A name in ``chain/`` stands for several runs in a row: :mod:`diffmedseg.cli.chain`.

Data that is trained in patches keeps its own image size with every preset. If a preset has a ``+encoder`` file,
networks that can have an encoder use the recommended encoder of the data set. Each file is an ordinary LightningCLI
configuration. Importing this module needs no torch.
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
from diffmedseg.recipe_networks import is_on_encoder, pretrained_network, puts_on_encoders, takes_encoder, with_encoder

if TYPE_CHECKING:
    from lightning import Trainer

    from diffmedseg.data import SegmentationDataModule
    from diffmedseg.models import DiffusionSegmenter

#: New names of models by their old names.
RENAMED = {"medsegdiff-v1": "medsegdiff"}
#: The tag of data with masks of several raters.
SEVERAL_RATERS = "several_raters"


@dataclass(frozen=True)
class Recipe:
    """A run that can be built; the result of :func:`recipe`.

    Attributes:
        name: Name of the experiment, such as ``medsegdiff-lite-chase``. Its runs are in ``runs/<name>``.
        files: Configuration files; later files override earlier files.
        settings: Settings that override the files, as on the command line.
        encoder: Name of the network's encoder; None for the model's own network.
        network: Network that replaces the recipe's: the network of ``pretrained``, or a network with an encoder. None
            for the recipe's own network.
        pretrained: Zoo entry, run or file with the initial weights; None for new weights.
        trust: Your own packages from which ``pretrained`` may load classes.
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
        """Whether the run has the settings for several raters."""
        return any(file.stem.endswith(f"+{SEVERAL_RATERS}") for file in self.files)

    @property
    def arguments(self) -> list[str]:
        """The arguments of the run for LightningCLI."""
        configs = [argument for file in self.files for argument in ("-c", str(file))]
        pretrained = [] if self.pretrained is None else [f"--pretrained={self.pretrained}"]
        pretrained += [] if self.network is None else [f"--model.denoiser={json.dumps(self.network)}"]
        trust = [f"--trust={list(self.trust)}"] if self.trust else []
        return [*configs, f"--experiment={self.name}", *pretrained, *trust, *self.settings]

    def build(self) -> "tuple[DiffusionSegmenter, SegmentationDataModule, Trainer]":
        """Build model, data and Trainer, linked as on the command line. This also makes the run's folder.

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
        model: Name of a model (:func:`list_models`), or the path of your own yaml file with ``model:``.
        data: Name of a data set (:func:`list_datasets`), or the path of your own yaml file with ``data:``.
        root: Folder of the data. None for ``$DIFFMEDSEG_DATA/<data>`` if the variable is set, else the folder in the
            data set's yaml.
        preset: Name of a preset (:func:`list_presets`); None for a short training.
        name: Name of the experiment; None for ``<model>-<data>``.
        pretrained: A zoo entry, the folder of a run, or a checkpoint with the initial weights. MedSegDiff-Lite can also
            start from a supervised baseline, which becomes its condition network. The run takes its image size, and
            the learning rates for encoders if it has one. Data that is trained in patches keeps its own image size.
        trust: Your own packages from which ``pretrained`` may load classes.
        settings: Settings that override all others, as on the command line: ``["--trainer.max_steps=100"]``.
        encoder: Name of an encoder, such as ``lite0`` or ``resnet34``. The condition network of MedSegDiff-Lite and
            -V2, SSN and the supervised baseline become a U-Net with this encoder. ``none`` for the model's own network.
            None for the choice of the preset; without a preset, the model's own network.
        encoder_weights: ``imagenet``, a file of weights, or ``none`` for random weights. None for ``imagenet``.

    Raises:
        RecipeError: If a name does not exist (the message suggests similar names), the model takes no encoder, or the
            model takes volumes and the data set has pictures.
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
        raise RecipeError(f"{pretrained} has its own encoder. Give pretrained or encoder, not both.")
    network, grid = (None, None) if pretrained is None else pretrained_network(pretrained, model_name, files)
    settings = [settings] if isinstance(settings, str) else list(settings)
    flat = not any(map(_depth, files)) and setting_value(settings, "--data.depth") in (None, "0")
    if encoder is None and pretrained is None and flat and takes_encoder(files) and puts_on_encoders(preset):
        encoder = content.get("recommended_encoder")  # encoders take single slices
    derived = [] if folder is None else [f"--data.root={folder}"]
    if preset is not None or grid is not None:
        patches = _grid_of_patches(content)
        derived += patches or ([] if grid is None else [f"--data.image_size={json.dumps(grid)}"])
    if encoder is not None:
        network, chosen = with_encoder(encoder, encoder_weights or "imagenet", model_name, files)
        derived += chosen
    elif encoder_weights is not None:
        raise RecipeError("encoder_weights needs an encoder. Name an encoder, such as lite0.")
    encoder = None if encoder is None or encoder.lower() == "none" else encoder
    on_encoder = encoder is not None or (pretrained is not None and is_on_encoder(network))
    files += [parts / "encoder.yaml"] if on_encoder else []
    files += [] if preset is None else _preset_files(preset, model_name, on_encoder)
    start = None if pretrained is None else str(pretrained)
    name = name or f"{model_name}-{data_name}"
    return Recipe(name, tuple(files), (*derived, *settings), encoder, network, start, tuple(trust))


def setting_value(settings: Sequence[str], name: str) -> str | None:
    """Return the last value of an option in the settings, given as ``--name value`` or ``--name=value``."""
    value = None
    for index, argument in enumerate(settings):
        if argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
        elif argument == name and index + 1 < len(settings):
            value = settings[index + 1]
    return value


def _model_files(model: str | Path) -> tuple[str, list[Path]]:
    """Return the name of a model, and the files of its family and (for a member of the family) of the member."""
    if file := own_file(model):
        return file.stem, [file]
    parts = experiments_folder()
    name = known_name("model", RENAMED.get(str(model), str(model)), list_models())
    family = parts / "model" / f"{name}.yaml"
    if family.is_file():
        return name, [family]
    families = [family_name for family_name in list_parts("model") if name.startswith(f"{family_name}-")]
    return name, [parts / "model" / f"{max(families, key=len)}.yaml", parts / "member" / f"{name}.yaml"]


def _check_volumes(model: str, files: Sequence[Path], data: str, config: Mapping[str, Any]) -> None:
    """Refuse pictures for a model that learns volumes. Files of such a model set the data's ``depth``.

    Raises:
        RecipeError: If the data set has pictures; the message says what to choose.
    """
    from diffmedseg.data.catalogue import may_be_volumes

    if any(map(_depth, files)) and not may_be_volumes(config):
        raise RecipeError(
            f"The model {model} learns volumes, and {data} has pictures: choose a data set of volumes, such as "
            "brats2015, or a model without -3d."
        )


def _depth(path: Path) -> object:
    """Return the data's ``depth`` in a file; None if the file does not set it."""
    settings: object = read_settings(path)
    for key in ("data", "init_args", "depth"):  # a user's file may contain anything
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def _derived_tags(config: Mapping[str, Any], root: Path | None) -> list[str]:
    """Return the tags that follow from the facts of the data."""
    from diffmedseg.data.catalogue import several_raters

    arguments = config.get("init_args", {}) | ({} if root is None else {"root": root})
    return [SEVERAL_RATERS] if several_raters({**config, "init_args": arguments}) else []


def _grid_of_patches(content: Mapping[str, Any]) -> list[str]:
    """Return the image size setting of data that is trained in patches; empty for other data."""
    arguments = content.get("data", {}).get("init_args", {})
    keeps_size = arguments.get("patch") is not None and "image_size" in arguments
    return [f"--data.image_size={json.dumps(arguments['image_size'])}"] if keeps_size else []


def _preset_files(preset: str, model: str, on_encoder: bool) -> list[Path]:
    if file := own_file(preset):
        return [file]
    if preset not in list_presets(model):
        raise RecipeError(f"The model {model} has no preset {preset!r}. {suggest(preset, list_presets(model))}")
    names = [preset, f"{preset}+{model}", *([f"{preset}+encoder"] if on_encoder else [])]
    paths = [experiments_folder() / "preset" / f"{name}.yaml" for name in names]
    return [path for path in paths if path.is_file()]
