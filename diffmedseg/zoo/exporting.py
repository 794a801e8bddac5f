"""Making an entry of a finished run, or of a configuration that nobody has run yet."""

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
#: Scores that the registry names; an entry's own files have all.
_HEADLINES = ("dice", "iou", "hd95", "nsd", "hd95_pixels", "nsd_pixels", "cl_dice", "ged_unbiased", "diversity")
#: Settings of a data module that say which cases a run was scored on.
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
        run: The run's folder, with checkpoints, config.yaml and cases.csv; calibrated where it is.
        name: Name of the entry: model_data.tag, such as medsegdiff-v1_synthetic.tiny.
        zoo: The zoo's folder; None for the current one.
        dtype: How parameters are stored. float16 halves the size, and is refused where outputs change.
        notes: What the card should say besides, such as the hardware, and where the model fails.
        pictures: Show its worst cases where the data's licence lets everybody hand images on. Else whoever has the data
            can draw them (`diffmedseg zoo cases`).
        trust: Packages besides diffmedseg whose classes may be built. The registry and the card name those that the
            model needs; their code is not part of the entry.
        version: Of the entry: three numbers. An entry of this name is replaced where its version is lower.
        change: What is new in this version, in one line.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the run is not complete, its scores are not those of its model, the name is taken, the zoo is not a
            folder, or the stored weights would give other outputs.
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
        model, data = build(config, trust), build_data(settings["data"], trust)  # refuses what no one could load
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
        metrics = _metrics(rows, settings, "diffmedseg fit -c run.yaml" if by_command else "")
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
    """Draw the worst cases where the licence of the data allows it; return why not, else nothing."""
    if not data.info.redistributable:
        return f"the licence of {data.info.title} ({data.info.licence}) does not let everybody hand its images on"
    return show_cases(model, data, rows, path)


def _trained_with(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of packages that a checkpoint was trained with, as far as it says; Lightning always does."""
    return dict(checkpoint.get("versions") or {"lightning": str(checkpoint["pytorch-lightning_version"])})


def _check_scores(run: Path) -> None:
    """Refuse scores that are not those of what would be shipped.

    Raises:
        ZooError: Saying whose they are.
    """
    if not (run / METRICS).is_file():
        return  # a run of before
    said, best = read_settings(run / METRICS, ["policy"]), chosen_checkpoint(run)
    if said.get("checkpoint") not in {None, file_sha256(best)}:
        raise ZooError(
            f"{run / METRICS} has scores of another checkpoint than {best}: the run went on after its test. Let it "
            "come to its end, where it is tested again: train with --ckpt_path last."
        )
    if changing := said["policy"].get("changed_by"):
        raise ZooError(
            f"{run / METRICS} has scores of masks that were changed by {', '.join(changing)}, which an entry does not "
            "have: give the fusion or refinement to the model (--model.fusion, --model.refinement) and train with that."
        )


def add_recipe(config: Path, name: str, zoo: Path | None = None, notes: str = "", trust: Collection[str] = ()) -> Path:
    """Make a zoo entry of a configuration that nobody has run yet: without weights, and without numbers.

    Args:
        config: A YAML file with all settings, as ``diffmedseg fit ... --print_config`` prints it.
        name: Name of the entry: model_data.tag.
        zoo: The zoo's folder; None for the current one.
        notes: What the card should say besides.
        trust: Packages besides diffmedseg whose classes may be imported.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the file is not of this kind, the name is taken, or the zoo is not a folder.
    """
    with new_entry(name, zoo) as (folder, register):
        try:
            settings = read_yaml(Path(config))
            init, data = settings["model"]["init_args"], build_data(settings["data"], trust)
            settings = _portable(settings, data)
            learned_from: str = find_class(settings["model"]["class_path"], trust).learned_from
            denoiser = find_class(init["denoiser"]["class_path"], trust)
            unsaid = [name for name in ("num_samples", "num_steps") if init[name] is None]
            init = init | {name: getattr(denoiser.recommended, name) for name in unsaid}
        except (OSError, FormatError, TypeError, KeyError, AttributeError) as error:
            raise ZooError(
                f"{config} does not hold all settings of a run, as `diffmedseg fit ... --print_config` prints them "
                f"({type(error).__name__}: {error})."
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
    """Say what the registry says of an entry, from its model's settings, its data, and its files."""
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


def _metrics(rows: list[CaseScore], settings: dict[str, Any], command: str) -> Metrics:
    """Say what a run reached, and by what command."""
    scores: dict[str, dict[str, list[float]]] = {}
    for one in summarise(rows):
        if one.score in _HEADLINES:
            scores.setdefault(one.region, {})[one.score] = [round(value, 4) for value in (one.mean, one.low, one.high)]
    chosen = {key: settings["data"]["init_args"].get(key) for key in _SPLITS}
    said = ", ".join(f"{key} {value}" for key, value in chosen.items() if value is not None)
    return Metrics(
        f"test{f' ({said})' if said else ''}",
        len({row.case for row in rows}),
        int(settings["seed_everything"]),
        command,
        scores,
    )


def _licences(info: DatasetInfo) -> dict[str, str]:
    """Weights bear the conditions of the data: nobody knows yet whether they have to."""
    weights = _CODE_LICENCE if info.licence == _CODE_LICENCE else f"{_CODE_LICENCE}, as far as the data's allows"
    return {"code": _CODE_LICENCE, "weights": weights, "data": info.licence}


def _portable(settings: dict[str, Any], data: SegmentationDataModule) -> dict[str, Any]:
    """Take the places of one machine, and who used it, out of a run's settings."""
    settings["data"] = _without_places(settings["data"], data.info.name)
    if settings.get("pretrained"):
        settings["pretrained"] = _without_place(settings["pretrained"])
    kept = {name: value for name, value in settings.items() if name != "logger"}
    return kept | {"runs": "runs", "ckpt_path": None}


def _without_places(config: Any, name: str) -> Any:  # noqa: ANN401
    """Return the config of data, and of data within it, without places of one machine.

    Args:
        config: A part of a configuration.
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
    """Take the place of one machine out of what a fine-tuned run's scores say that it started from."""
    if not metrics.is_file():
        return  # a run of before
    found = json.loads(metrics.read_text(encoding="utf-8"))
    if start := found["policy"].get("pretrained"):
        start["source"] = _without_place(start["source"])
        metrics.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _without_place(source: str) -> str:
    """Return the name of what a run started from; of an absolute path only the run, and the checkpoint in it."""
    path = Path(source)
    return "/".join(path.parts[-4 if path.suffix == ".ckpt" else -2 :]) if path.is_absolute() else source
