"""The commands that are killed, what they read, and what they promise of their results."""

import csv
import hashlib
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.cli.parsing import report_errors
from diffmedseg.data.catalogue import configured
from diffmedseg.run_log import read_whole_rows
from diffmedseg.zoo import load_pretrained
from diffmedseg.zoo.registry import read_registry
from diffmedseg.zoo.source import Source
from robustness.kill import Command, Results, finish
from robustness.project_files import ENTRY
from robustness.seeds import nifti

_ZOO = Path(__file__).parents[2] / "zoo"
_VOLUMES_ENTRY = "supervised_brats2015.cpu64"
_NEW = "medsegdiff-lite_synthetic.killed"
_TRAIN = [
    *("train", "medsegdiff-lite", "synthetic", "--trainer.max_steps=6", "--trainer.accelerator=cpu", "--runs=runs"),
    *("--trainer.log_every_n_steps=1", "--trainer.max_time=null", "--data.image_size=16", "--data.batch_size=2"),
    *("--data.num_train=8", "--data.num_val=2", "--data.num_test=2", "--data.steps_per_epoch=2"),
    *("--data.eval_batch_size=1", "--model.num_samples=2", "--model.num_steps=1", "--model.val_num_steps=1"),
]


def all_commands() -> list[Command]:
    """Return the commands; everything that they import is imported now."""
    import SimpleITK  # noqa: F401

    import diffmedseg.cli.predicting
    import diffmedseg.cli.training
    import diffmedseg.evaluation.calibrating
    import diffmedseg.zoo.exporting  # noqa: F401

    torch.set_num_threads(1)
    return [
        Command("predict", _write_photos, _predict, _predictions, _check_predictions, 30),
        Command("predict_volume", _write_case, _predict_volume, _predictions, _check_predictions, 5),
        Command("train", _nothing, _train, _training, _check_training, 6),
        Command("cache", _write_data, _build("folder"), _cached, _check_cache, 12),
        Command("cache_volumes", _write_volumes, _build("volumes"), _cached, _check_cache, 12),
        Command("export", _copy_run, _export, _zoo_files, _check_zoo, 9),
        Command("fetch", _write_zoo, _fetch, _fetched, _check_fetched, 12),
        Command("score", _write_masks, _score, _files("scores.csv"), _check_csv("scores.csv"), 6),
        Command("windows", _write_photos, _find_windows, _files("windows.csv"), _check_csv("windows.csv"), 5),
        Command("calibrate", _copy_run, _calibrate, _calibration, _check_calibration, 5),
    ]


def digest(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _nothing(folder: Path) -> None:
    pass


# Predicting.


def _write_photos(folder: Path) -> None:
    (folder / "photos").mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "photos" / f"{number}.png", compress_level=1)


def _predict(folder: Path, again: bool) -> None:
    main(["predict", ENTRY, "photos", "--out=out", "--num_samples=2", "--num_steps=2", "--batch_size=1", "--resume"])


def _predictions(folder: Path) -> Results:
    return _check_predictions(folder)


def _check_predictions(folder: Path) -> Results:
    found: Results = {}
    for path in sorted(folder.glob("out/[!.]*")):
        if path.suffix == ".csv":
            with path.open() as file:
                found[path.name] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
        elif path.name.endswith(".png"):
            with Image.open(path) as image:
                image.load()
            found[path.name] = digest(path)
        elif path.suffix == ".yaml":
            found[path.name] = yaml.safe_load(path.read_text())["seed"]
        elif path.name.endswith(".nii.gz"):
            found[path.name] = digest(path)
    return found


def _write_case(folder: Path) -> None:
    z, y, x = np.mgrid[:6, :20, :16]
    inside = ((z - 2.5) / 2.4) ** 2 + ((y - 9.5) / 8) ** 2 + ((x - 7.5) / 6) ** 2 < 1
    for number, name in enumerate(("flair", "t1ce")):
        path = folder / "photos" / "case" / f"case_{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.where(inside, np.random.default_rng(number).uniform(100, 200, inside.shape), 0)
        path.write_bytes(nifti(values.astype("f4")))


def _predict_volume(folder: Path, again: bool) -> None:
    main(["predict", _VOLUMES_ENTRY, "photos", "--out=out", "--num_samples=1", "--num_steps=1", "--resume"])


def _find_windows(folder: Path, again: bool) -> None:
    if not (folder / "windows.csv").is_file():
        main(["windows", ENTRY, "photos", "--out=windows.csv", "--batch_size=1"])


# Training, and what follows it.


def _train(folder: Path, again: bool) -> None:
    goes_on = any(folder.glob("runs/*/*/checkpoints/last.ckpt"))
    main([*_TRAIN, *(["--ckpt_path=last"] if goes_on else [])])


def _training(folder: Path) -> Results:
    run = max(folder.glob("runs/*/version_*"), key=lambda path: int(path.name.split("_")[1]))
    found: Results = {
        f"{name}.ckpt": _checkpoint_digest(run / "checkpoints" / f"{name}.ckpt") for name in ("last", "best")
    }
    names = ("step", "epoch", "train/loss", "val/dice", "test/dice")
    found["metrics.csv"] = [[row.get(name, "") for name in names] for row in read_whole_rows(run / "metrics.csv")[1]]
    with (run / "cases.csv").open() as file:
        found["cases.csv"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return found | {path.name: True for path in run.iterdir() if path.is_file()} | found


def _checkpoint_digest(path: Path) -> str:
    content = torch.load(path, weights_only=True)
    keys = (
        "state_dict",
        "current_model_state",
        "averaging_state",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
        "loops",
    )
    digest = hashlib.sha256()
    for key in keys:
        _add(content[key], digest.update)
    return digest.hexdigest()


def _add(value: Any, update: Callable[[bytes], object]) -> None:
    """Digest anything that a checkpoint holds."""
    if isinstance(value, torch.Tensor):
        update(value.numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            update(str(key).encode())
            _add(value[key], update)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(item, update)
    else:
        update(repr(value).encode())


def _check_training(folder: Path) -> None:
    for path in folder.glob("runs/*/*/checkpoints/[a-z]*.ckpt"):
        torch.load(path, weights_only=True)
    for path in folder.glob("runs/*/*/metrics.csv"):
        read_whole_rows(path)


@cache
def _finished_run(beside: Path) -> Path:
    """Train a run; once for all commands that take one."""
    folder = beside / "finished"
    folder.mkdir(parents=True)
    finish(Command("train", _nothing, _train, _training, _check_training), folder, False)
    return next(folder.glob("runs/*/version_0"))


def _copy_run(folder: Path) -> None:
    shutil.copytree(_finished_run(folder.parent), folder / "run")


def _calibrate(folder: Path, again: bool) -> None:
    main(["calibrate", "run"])


def _calibration(folder: Path) -> Results:
    return _check_calibration(folder)


def _check_calibration(folder: Path) -> Results:
    paths = [*folder.glob("run/calibration.*"), *folder.glob("run/checkpoints/calibrated.ckpt")]
    for path in paths:
        torch.load(path, weights_only=True) if path.suffix == ".ckpt" else yaml.safe_load(path.read_text())
    return {path.name: _checkpoint_digest(path) if path.suffix == ".ckpt" else digest(path) for path in paths}


def _export(folder: Path, again: bool) -> None:
    if _NEW not in _entries(folder / "zoo"):
        main(["export", "run", f"--name={_NEW}", "--folder=zoo", "--pictures=false"])


def _entries(zoo: Path) -> dict[str, Any]:
    return read_registry(zoo / "registry.yaml") if (zoo / "registry.yaml").is_file() else {}


def _zoo_files(folder: Path) -> Results:
    return {str(path.relative_to(folder / "zoo")): digest(path) for path in folder.glob("zoo/**/*") if path.is_file()}


def _check_zoo(folder: Path) -> None:
    for name in _entries(folder / "zoo"):
        Source(folder / "zoo").verified(name)


def _write_zoo(folder: Path) -> None:
    (folder / "remote").mkdir()
    shutil.copy(_ZOO / "registry.yaml", folder / "remote")
    shutil.copytree(_ZOO / ENTRY, folder / "remote" / ENTRY)


def _fetch(folder: Path, again: bool) -> None:
    os.environ["DIFFMEDSEG_ZOO"] = f"file://{folder / 'remote'}"
    with report_errors():
        load_pretrained(ENTRY)


def _fetched(folder: Path) -> Results:
    return _check_fetched(folder)


def _check_fetched(folder: Path) -> Results:
    """Compare what was fetched with the files of the zoo."""
    found: Results = {}
    for path in folder.glob("cache/zoo/*/**/*"):
        name = path.relative_to(folder / "cache" / "zoo").parts[1:]
        if path.is_file() and not path.name.startswith("."):
            found["/".join(name)] = digest(path)
            if found["/".join(name)] != digest(folder.joinpath("remote", *name)):
                raise RuntimeError(f"{path.name} was not fetched whole")
    return found


# The cache of decoded data.


def _write_data(folder: Path) -> None:
    for number in range(12):
        rng = np.random.default_rng(number)
        for kind, values in (
            ("images", rng.integers(0, 256, (500, 600, 3))),
            ("masks", 255 * (rng.random((500, 600)) > 0.5)),
        ):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(folder / "data" / kind / f"p{number}.png", compress_level=1)


def _write_volumes(folder: Path) -> None:
    z, y, x = np.mgrid[:24, :60, :50]
    inside = ((z - 12) / 11) ** 2 + ((y - 30) / 28) ** 2 + ((x - 25) / 23) ** 2 < 1
    for number in range(4):
        values = np.where(inside, np.random.default_rng(number).uniform(100, 200, inside.shape), 0)
        for kind, volume in (("images", values.astype("f4")), ("masks", (values > 150).astype("u1"))):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            path = folder / "data" / kind / f"p{number}.nii"
            path.write_bytes(nifti(volume))
            os.utime(path, (0, 0))  # the cache knows large files by the time of their change


def _build(name: str) -> Callable[[Path, bool], None]:
    def build(folder: Path, again: bool) -> None:
        with report_errors():
            configured(name, folder / "data", {"image_size": "32", "folds": "2"}).prepare_data()

    return build


def _cached(folder: Path) -> Results:
    return {str(path.relative_to(folder)): digest(path) for path in folder.glob("cache/**/*") if path.is_file()}


def _check_cache(folder: Path) -> None:
    for path in folder.glob("cache/[!.]*/*.npy"):
        np.load(path, mmap_mode="r")


# Tables.


def _write_masks(folder: Path) -> None:
    for number in range(20):
        for kind in ("masks", "truths"):
            (folder / kind).mkdir(exist_ok=True)
            mask = np.random.default_rng(number + len(kind)).random((60, 60)) > 0.5
            Image.fromarray((255 * mask).astype(np.uint8)).save(folder / kind / f"p{number}.png")


def _score(folder: Path, again: bool) -> None:
    main(["score", "masks", "truths", "--out=scores.csv"])


def _files(name: str) -> Callable[[Path], Results]:
    return lambda folder: {name: digest(folder / name)}


def _check_csv(name: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        if (folder / name).is_file() and not (folder / name).read_text().endswith("\n"):
            raise RuntimeError(f"{name} is cut off")

    return check
