"""Making an entry of a finished run."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from diffmedseg.data.configured import build_data
from diffmedseg.data.info import DatasetInfo
from diffmedseg.metrics.cases import summarise
from diffmedseg.metrics.table import read_cases
from diffmedseg.zoo.building import ZooError, build, checkpoint_config, whole
from diffmedseg.zoo.card import write_card
from diffmedseg.zoo.checking import write_example
from diffmedseg.zoo.loading import best_checkpoint
from diffmedseg.zoo.registry import (
    CASES,
    CONFIG,
    EXAMPLE,
    METRICS,
    REGISTRY,
    RUN,
    WEIGHTS,
    Entry,
    Input,
    Metrics,
    write_registry,
)
from diffmedseg.zoo.source import Source, current_source, file_sha256

RUN_CONFIG = "config.yaml"  # of a run
_CODE_LICENCE = "Apache-2.0"
#: Scores that the registry names; an entry's own files have all.
_HEADLINES = ("dice", "iou", "hd95", "nsd", "hd95_pixels", "nsd_pixels", "cl_dice", "ged_unbiased", "diversity")
#: Settings of a data module that say which cases a run was scored on.
_SPLITS = ("reported", "split_by", "splits", "folds", "fold")


def export(run: Path, name: str, zoo: Path | None = None, half: bool = True, notes: str = "") -> Path:
    """Make a zoo entry of a finished run.

    Args:
        run: The run's folder, with checkpoints, config.yaml and cases.csv; calibrated where it is.
        name: Name of the entry: model_data.tag, such as medsegdiff-v1_synthetic.tiny.
        zoo: The zoo's folder; None for the current one.
        half: Store float16, half the size.
        notes: What the card should say besides, such as the hardware, and where the model fails.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the run is not complete, the name is taken, or the zoo is not a folder.
    """
    run, source = Path(run), current_source() if zoo is None else Source(zoo)
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to: name a folder, with --folder.")
    place = source.entry_folder(name)
    weights_path = best_checkpoint(run)
    for path in (weights_path, run / RUN_CONFIG, run / CASES):
        if not path.is_file():
            raise ZooError(f"{path} is missing: {run} is not a finished run of this project.")
    entries = source.entries()
    if name in entries or place.exists():
        raise ZooError(
            f"{source.folder} has an entry {name!r} already: choose another tag. (If `zoo list` does not name it, its "
            f"export was interrupted: delete {place}.)"
        )
    checkpoint = torch.load(weights_path, map_location="cpu", weights_only=True)
    config, settings = checkpoint_config(checkpoint), _portable(yaml.safe_load((run / RUN_CONFIG).read_text()))
    dtype = torch.float16 if half else torch.float32
    weights = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for key, value in checkpoint["state_dict"].items()
    }
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ZooError(f"The weights of {run} are not finite as {dtype}: export with half=False, or look at the run.")
    model = build(config)  # refuses what could not be loaded again
    model.load_state_dict(whole(weights))
    source.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=source.folder, prefix=".export-") as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        save_file(weights, folder / WEIGHTS)
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        (folder / RUN).write_text(yaml.safe_dump(settings, sort_keys=False))
        for file in (CASES, METRICS):
            if (run / file).is_file():
                shutil.copy(run / file, folder / file)
        write_example(model.eval(), folder / EXAMPLE)
        entry = _describe(folder, config, settings, checkpoint.get("learned_from", "masks"))
        write_card(folder, name, entry, config, settings, checkpoint["global_step"], notes)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner alone
        os.replace(folder, place)
    write_registry(source.folder / REGISTRY, entries | {name: entry})
    return place


def _describe(folder: Path, config: dict[str, Any], settings: dict[str, Any], learned_from: str) -> Entry:
    """Say what the registry says of an entry, from its files."""
    info, init = build_data(settings["data"]).info, config["init_args"]
    rows = read_cases(folder / CASES)
    scores: dict[str, dict[str, list[float]]] = {}
    for one in summarise(rows):
        if one.score in _HEADLINES:
            scores.setdefault(one.region, {})[one.score] = [round(value, 4) for value in (one.mean, one.low, one.high)]
    chosen = {key: settings["data"]["init_args"].get(key) for key in _SPLITS}
    said = ", ".join(f"{key} {value}" for key, value in chosen.items() if value is not None)
    fusion = init.get("fusion") or {"class_path": "MeanFusion"}
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    return Entry(
        "trained",
        Input(list(init["channels"]), [int(side) for side in init["image_size"]], info.normalisation),
        list(scores),
        init["threshold"],
        init["num_samples"],
        init["num_steps"],
        fusion["class_path"].rsplit(".", 1)[-1],
        learned_from,
        info.title,
        _licences(info),
        info.citation,
        "Research. Not for diagnosis.",
        (folder / WEIGHTS).stat().st_size,
        hashes,
        Metrics(
            f"test{f' ({said})' if said else ''}",
            len({row.case for row in rows}),
            int(settings["seed_everything"]),
            "python -m diffmedseg fit -c run.yaml",
            scores,
        ),
    )


def _licences(info: DatasetInfo) -> dict[str, str]:
    """Weights bear the conditions of the data: nobody knows yet whether they have to."""
    weights = _CODE_LICENCE if info.licence == _CODE_LICENCE else f"{_CODE_LICENCE}, as far as the data's allows"
    return {"code": _CODE_LICENCE, "weights": weights, "data": info.licence}


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Take the places of one machine, and who used it, out of a run's settings."""
    data = settings["data"]["init_args"]
    if "root" in data:
        data["root"] = f"data/{build_data(settings['data']).info.name}"
    if data.get("windows"):
        data["windows"] = Path(data["windows"]).name
    kept = {name: value for name, value in settings.items() if name != "logger"}
    return kept | {"runs": "runs", "ckpt_path": None}
