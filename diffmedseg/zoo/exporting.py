"""Make a zoo entry of a finished run, or of an untested configuration."""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.info import DatasetInfo
from diffmedseg.errors import ZooError
from diffmedseg.evaluation.summary import PSEUDO
from diffmedseg.files import FormatError, file_sha256, read_yaml
from diffmedseg.metrics.cases import summarise
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.metrics.table import read_cases
from diffmedseg.models.building import build, checkpoint_config, find_class, foreign_packages
from diffmedseg.models.denoiser import Denoiser
from diffmedseg.models.loading import RUN_CONFIG, best_checkpoint, chosen_checkpoint, read_run, read_settings
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.versions import installed_versions
from diffmedseg.zoo.adding import new_entry
from diffmedseg.zoo.checking import example_image, write_example
from diffmedseg.zoo.registry import (
    CASES,
    CONFIG,
    EXAMPLE,
    METRICS,
    PICTURE,
    ROBUSTNESS,
    RUN,
    WEIGHTS,
    Entry,
    Input,
    Metrics,
    StorageType,
)
from diffmedseg.zoo.showing import show_cases
from diffmedseg.zoo.storing import store_weights

_CODE_LICENCE = "Apache-2.0"
#: Scores in the registry; the entry's own files have all scores.
_HEADLINES = ("dice", "iou", "hd95", "nsd", "hd95_pixels", "nsd_pixels", "cl_dice", "ged_unbiased", "diversity")
#: Settings of a data module that choose the test cases.
_SPLITS = ("reported", "split_by", "splits", "folds", "fold")


def export(
    run: Path,
    name: str,
    zoo: Path | None = None,
    dtype: StorageType = "float16",
    notes: str = "",
    pictures: bool = True,
    trust: Collection[str] = (),
    version: str = "1.0.0",
    change: str = "First version.",
) -> Path:
    """Make a zoo entry of a finished run.

    Args:
        run: The run's folder, with checkpoints, config.yaml and cases.csv. A calibrated run gives a calibrated entry.
        name: Name of the entry: model_data.tag, such as medsegdiff-v1_synthetic.tiny.
        zoo: Folder of the zoo; None for the current zoo.
        dtype: Type of the stored parameters. float16 halves the size, and is refused if it changes outputs.
        notes: Further text for the card, such as the hardware, and where the model fails.
        pictures: Draw the worst cases if the licence of the data allows it. Users with the data can draw them in any
            case (`diffmedseg zoo cases`).
        trust: Packages besides diffmedseg whose classes may be built. Registry and card name the packages that the
            model needs; the entry does not contain their code.
        version: Version of the entry, three numbers. It replaces an entry of this name with a lower version.
        change: Changes in this version, in one line.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the run is not complete, its scores belong to another checkpoint, the name is taken, the zoo is not
            a folder, or the stored weights would change outputs.
    """
    run = Path(run)
    with new_entry(name, zoo, version) as (folder, register):
        weights_path = best_checkpoint(run)
        for path in (weights_path, run / CASES):
            if not path.is_file():
                raise ZooError(f"{path} is missing: {run} is not a finished run of this project.")
        _check_scores(run)
        checkpoint = torch.load(weights_path, map_location="cpu", weights_only=True)
        config, settings = checkpoint_config(checkpoint), read_run(run)
        model, data = (
            build(config, trust),
            build_data(settings["data"], trust),
        )  # raises if the model could not be loaded later
        settings = _portable(settings, data)
        weights, storage = store_weights(model, checkpoint["state_dict"], dtype, data, example_image(model))
        (folder / WEIGHTS).write_bytes(save(weights))
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        (folder / RUN).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for file in (CASES, METRICS, ROBUSTNESS):
            if (run / file).is_file():
                shutil.copy(run / file, folder / file)
        _hide_place_of_start(folder / METRICS)
        write_example(model.eval(), folder / EXAMPLE)
        rows = read_cases(folder / CASES)
        unpictured = _draw_cases(model, data, rows, folder / PICTURE) if pictures else "the author left it out"
        by_command = (run / RUN_CONFIG).is_file()
        metrics = _metrics(rows, settings, "diffmedseg fit -c run.yaml" if by_command else "", _origin(run))
        if start := checkpoint.get("initialisation"):
            notes = f"{notes} Fine-tuned from {_without_place(start['source'])}.".strip()
        packages = sorted({*foreign_packages(config), *foreign_packages(settings["data"])})
        learned_from = checkpoint.get("learned_from", "masks")
        entry = _describe(folder, config["init_args"], data, learned_from, metrics, type(model.denoiser), packages)
        entry = replace(
            entry, steps=checkpoint["global_step"], unpictured=unpictured, storage=storage,
            trained_with=_trained_with(checkpoint),
        )  # fmt: skip
        return register(replace(entry, notes=notes, version=version, changelog=[f"{version}: {change}"]))


def _draw_cases(model: DiffusionSegmenter, data: SegmentationDataModule, rows: list[CaseScore], path: Path) -> str:
    """Draw the worst cases. Return why they could not be drawn, such as the licence of the data; empty if drawn."""
    if not data.info.redistributable:
        return f"the licence of {data.info.title} ({data.info.licence}) does not allow redistribution of its images"
    return show_cases(model, data, rows, path)


def _trained_with(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the known versions of packages at the training of a checkpoint; Lightning's is always known."""
    return dict(checkpoint.get("versions") or {"lightning": str(checkpoint["pytorch-lightning_version"])})


def _check_scores(run: Path) -> None:
    """Refuse scores that do not belong to the checkpoint of the entry.

    Raises:
        ZooError: If the scores belong to another checkpoint, or callbacks changed the masks.
    """
    if not (run / METRICS).is_file():
        return  # an older run
    metrics, best = read_settings(run / METRICS, ["policy"]), chosen_checkpoint(run)
    if metrics.get("checkpoint") not in {None, file_sha256(best)}:
        raise ZooError(
            f"{run / METRICS} has scores of another checkpoint than {best}, because the run was resumed after its "
            "test. Finish the run by `train ... --ckpt_path last`; this tests it again."
        )
    if changing := metrics["policy"].get("changed_by"):
        raise ZooError(
            f"{run / METRICS} has scores of masks that {', '.join(changing)} changed. An entry has no callbacks. Train "
            "with the fusion or refinement in the model (--model.fusion, --model.refinement)."
        )


def add_recipe(config: Path, name: str, zoo: Path | None = None, notes: str = "", trust: Collection[str] = ()) -> Path:
    """Make a zoo entry of an untested configuration, without weights and scores.

    Args:
        config: A YAML file with all settings, printed by ``diffmedseg fit ... --print_config``.
        name: Name of the entry: model_data.tag.
        zoo: Folder of the zoo; None for the current zoo.
        notes: Further text for the card.
        trust: Packages besides diffmedseg whose classes may be imported.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the file lacks settings, the name is taken, or the zoo is not a folder.
    """
    with new_entry(name, zoo) as (folder, register):
        try:
            settings = read_yaml(Path(config))
            init, data = settings["model"]["init_args"], build_data(settings["data"], trust)
            settings = _portable(settings, data)
            learned_from: str = find_class(settings["model"]["class_path"], trust).learned_from
            denoiser = find_class(init["denoiser"]["class_path"], trust)
            unset = [name for name in ("num_samples", "num_steps") if init[name] is None]
            init = init | {name: getattr(denoiser.recommended, name) for name in unset}
        except (OSError, FormatError, TypeError, KeyError, AttributeError) as error:
            raise ZooError(
                f"{config} does not have all settings of a run ({type(error).__name__}: {error}). Write them by "
                "`diffmedseg fit ... --print_config`."
            ) from error
        (folder / RUN).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        packages = sorted({*foreign_packages(settings["model"]), *foreign_packages(settings["data"])})
        entry = _describe(folder, init, data, learned_from, None, denoiser, packages)
        return register(replace(entry, notes=notes, changelog=[f"{entry.version}: First version."]))


def _describe(
    folder: Path,
    init: dict[str, Any],
    data: SegmentationDataModule,
    learned_from: str,
    metrics: Metrics | None,
    denoiser: type[Denoiser],
    packages: list[str],
) -> Entry:
    """Return an entry for the registry, from the settings of its model, its data and its files."""
    info, fusion = data.info, init.get("fusion") or {"class_path": "MeanFusion"}
    weights = folder / WEIGHTS
    return Entry(
        "trained" if metrics else "recipe",
        Input(list(info.channels), list(data.image_size), info.normalisation),
        list(metrics.scores if metrics else info.regions),
        init["threshold"],
        init["num_samples"],
        init["num_steps"],
        fusion["class_path"].rsplit(".", 1)[-1],
        learned_from,
        info.title,
        _licences(info),
        info.citation,
        "Research. Not for diagnosis.",
        weights.stat().st_size if weights.is_file() else 0,
        {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        metrics,
        list(denoiser.papers),
        network=denoiser.title,
        packages=packages,
        dataset=info.name,
        url=info.url,
        exported_with=installed_versions(),
    )


def _origin(run: Path) -> str:
    """Return the origin of the pseudo masks that a run was scored on; empty for true masks and for older runs."""
    policy = read_settings(run / METRICS, ["policy"])["policy"] if (run / METRICS).is_file() else {}
    return str(policy.get(PSEUDO, ""))


def _metrics(rows: list[CaseScore], settings: dict[str, Any], command: str, pseudo_masks: str) -> Metrics:
    """Return the scores of a run, the command that trains it, and the origin of pseudo masks."""
    scores: dict[str, dict[str, list[float]]] = {}
    for s in summarise(rows):
        if s.score in _HEADLINES:
            scores.setdefault(s.region, {})[s.score] = [round(value, 4) for value in (s.mean, s.low, s.high)]
    chosen = {key: settings["data"]["init_args"].get(key) for key in _SPLITS}
    split = ", ".join(f"{key} {value}" for key, value in chosen.items() if value is not None)
    return Metrics(
        f"test{f' ({split})' if split else ''}",
        len({row.case for row in rows}),
        int(settings["seed_everything"]),
        command,
        scores,
        pseudo_masks,
    )


def _licences(info: DatasetInfo) -> dict[str, str]:
    """Return the licences of code, weights and data. Weights bear the conditions of the data, to be safe."""
    weights = _CODE_LICENCE if info.licence == _CODE_LICENCE else f"{_CODE_LICENCE}, as far as the data's allows"
    return {"code": _CODE_LICENCE, "weights": weights, "data": info.licence}


def _portable(settings: dict[str, Any], data: SegmentationDataModule) -> dict[str, Any]:
    """Remove paths and names of one machine and its user from a run's settings."""
    settings["data"] = _without_places(settings["data"], data.info.name)
    if settings.get("pretrained"):
        settings["pretrained"] = _without_place(settings["pretrained"])
    portable = {name: value for name, value in settings.items() if name != "logger"}
    return portable | {"runs": "runs", "ckpt_path": None}


def _without_places(config: Any, name: str) -> Any:  # noqa: ANN401
    """Return the configuration of a data module (and of inner data modules) without paths of one machine.

    Args:
        config: The configuration, or a part of it.
        name: Name of the data set.
    """
    if not isinstance(config, dict):
        return config
    portable = {key: _without_places(value, name) for key, value in config.items()}
    if "root" in portable:
        portable["root"] = f"data/{name}"
    for key in ("windows", "folder"):  # a file beside the data, or pseudo masks made of it
        if portable.get(key):
            portable[key] = Path(portable[key]).name
    return portable


def _hide_place_of_start(metrics: Path) -> None:
    """Remove the path of one machine from the origin of a fine-tuned run in its ``metrics.json``."""
    if not metrics.is_file():
        return  # an older run
    content = json.loads(metrics.read_text(encoding="utf-8"))
    if start := content["policy"].get("pretrained"):
        start["source"] = _without_place(start["source"])
        metrics.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _without_place(source: str) -> str:
    """Return the name of the initial weights; of an absolute path only the run and the checkpoint in it."""
    path = Path(source)
    return "/".join(path.parts[-4 if path.suffix == ".ckpt" else -2 :]) if path.is_absolute() else source
