"""Making an entry of a finished run, or of a configuration that nobody has run yet."""

import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from diffmedseg.atomic import lock_folder, temporary_folder
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.info import DatasetInfo
from diffmedseg.files import FormatError, file_sha256, read_yaml
from diffmedseg.metrics.cases import CaseScore, summarise
from diffmedseg.metrics.table import read_cases
from diffmedseg.models.denoiser import Denoiser
from diffmedseg.zoo.building import ZooError, build, checkpoint_config, find_class, foreign_packages, whole
from diffmedseg.zoo.card import write_card, write_recipe_card
from diffmedseg.zoo.checking import write_example
from diffmedseg.zoo.loading import RUN_CONFIG, best_checkpoint, chosen_checkpoint, read_run, read_settings
from diffmedseg.zoo.registry import (
    CARD,
    CASES,
    CONFIG,
    EXAMPLE,
    METRICS,
    PICTURE,
    REGISTRY,
    ROBUSTNESS,
    RUN,
    WEIGHTS,
    Entry,
    Input,
    Metrics,
    write_registry,
)
from diffmedseg.zoo.showing import show_cases
from diffmedseg.zoo.source import Source, current_source

_CODE_LICENCE = "Apache-2.0"
_FILES = {CARD, CASES, CONFIG, EXAMPLE, METRICS, PICTURE, ROBUSTNESS, RUN, WEIGHTS}  # of an entry
#: Scores that the registry names; an entry's own files have all.
_HEADLINES = ("dice", "iou", "hd95", "nsd", "hd95_pixels", "nsd_pixels", "cl_dice", "ged_unbiased", "diversity")
#: Settings of a data module that say which cases a run was scored on.
_SPLITS = ("reported", "split_by", "splits", "folds", "fold")


def export(
    run: Path,
    name: str,
    zoo: Path | None = None,
    half: bool = True,
    notes: str = "",
    pictures: bool = True,
    trust: Collection[str] = (),
) -> Path:
    """Make a zoo entry of a finished run.

    Args:
        run: The run's folder, with checkpoints, config.yaml and cases.csv; calibrated where it is.
        name: Name of the entry: model_data.tag, such as medsegdiff-v1_synthetic.tiny.
        zoo: The zoo's folder; None for the current one.
        half: Store float16, half the size.
        notes: What the card should say besides, such as the hardware, and where the model fails.
        pictures: Show its worst cases where the data's licence lets everybody hand images on. Else whoever has the data
            can draw them (`diffmedseg zoo cases`).
        trust: Packages besides diffmedseg whose classes may be built. The registry and the card name those that the
            model needs; their code is not part of the entry.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the run is not complete, its scores are not those of its model, the name is taken, or the zoo is
            not a folder.
    """
    run = Path(run)
    with _new_entry(name, zoo) as (folder, register):
        weights_path = best_checkpoint(run)
        for path in (weights_path, run / CASES):
            if not path.is_file():
                raise ZooError(f"{path} is missing: {run} is not a finished run of this project.")
        _check_scores(run)
        checkpoint = torch.load(weights_path, map_location="cpu", weights_only=True)
        config, settings = checkpoint_config(checkpoint), read_run(run)
        model, data = build(config, trust), build_data(settings["data"], trust)  # refuses what no one could load
        settings = _portable(settings, data)
        dtype = torch.float16 if half else torch.float32
        weights = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
            for key, value in checkpoint["state_dict"].items()
        }
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise ZooError(
                f"The weights of {run} are not finite as {dtype}: export with half=False, or look at the run."
            )
        model.load_state_dict(whole(weights))
        (folder / WEIGHTS).write_bytes(save(weights))
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        (folder / RUN).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for file in (CASES, METRICS, ROBUSTNESS):
            if (run / file).is_file():
                shutil.copy(run / file, folder / file)
        write_example(model.eval(), folder / EXAMPLE)
        rows = read_cases(folder / CASES)
        if not pictures:
            unseen = "who made the entry left them out"
        elif not data.info.may_be_shown:
            unseen = f"the licence of {data.info.title} ({data.info.licence}) does not let everybody hand its images on"
        else:
            unseen = show_cases(model, data, rows, folder / PICTURE)
        by_command = (run / RUN_CONFIG).is_file()
        metrics = _metrics(rows, settings, "diffmedseg fit -c run.yaml" if by_command else "")
        learned_from = checkpoint.get("learned_from", "masks")
        if start := checkpoint.get("initialisation"):
            notes = f"{notes} Fine-tuned from {start['source']}.".strip()
        packages = sorted({*foreign_packages(config), *foreign_packages(settings["data"])})
        entry = _describe(folder, config["init_args"], data, learned_from, metrics, type(model.denoiser), packages)
        write_card(folder, name, entry, config, settings, checkpoint["global_step"], notes, unseen)
        return register(entry)


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
    with _new_entry(name, zoo) as (folder, register):
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
        write_recipe_card(folder, name, entry, settings, notes)
        return register(entry)


@contextmanager
def _new_entry(name: str, zoo: Path | None) -> Iterator[tuple[Path, Callable[[Entry], Path]]]:
    """Give a folder to write into, and what puts it, whole, into the zoo and the registry.

    Raises:
        ZooError: If the name is taken, or the zoo is not a folder.
    """
    source = current_source() if zoo is None else Source(zoo)
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to: name a folder, with --folder.")
    place = source.entry_folder(name)
    if not re.fullmatch(r"[^_.]+_[^.]+\..+", name):
        raise ZooError(
            f"{name!r} does not say what the entry is: model_data.tag, such as medsegdiff-lite_isic2017.mine."
        )

    def entries() -> dict[str, Entry]:
        return source.entries() if (source.folder / REGISTRY).is_file() else {}

    def refuse_taken() -> None:
        foreign = [path for path in place.glob("*") if path.name not in _FILES]
        if name in entries() or foreign or place.is_file():
            raise ZooError(f"{source.folder} has an entry {name!r} already: choose another tag.")

    refuse_taken()
    source.folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(place) as folder:
        folder.mkdir()

        def register(entry: Entry) -> Path:
            for path in folder.iterdir():
                path.chmod(0o644)  # safetensors writes for the owner alone
            with lock_folder(source.folder, wait=math.inf):  # others may export at the same time
                refuse_taken()
                if place.is_dir():  # an export that was killed before it was registered
                    shutil.rmtree(place)
                os.replace(folder, place)
                write_registry(source.folder / REGISTRY, entries() | {name: entry})
            return place

        yield folder, register


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
    init = settings["data"]["init_args"]
    if "root" in init:
        init["root"] = f"data/{data.info.name}"
    if init.get("windows"):
        init["windows"] = Path(init["windows"]).name
    kept = {name: value for name, value in settings.items() if name != "logger"}
    return kept | {"runs": "runs", "ckpt_path": None}
