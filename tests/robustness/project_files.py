"""Small valid files of the project's own formats: zoo, runs, tables, caches."""

import io
import json
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml

from diffmedseg.experiments import experiments_folder
from diffmedseg.zoo import load_entry
from diffmedseg.zoo.registry import Entry, read_registry
from diffmedseg.zoo.source import Source
from robustness.seeds import as_json, each_first, lines, npy
from robustness.worker import Files

ENTRY = "medsegdiff-lite_synthetic.tiny"
DRAWN: dict[str, float | str] = {"val_fraction": 0.1, "split_seed": 0, "folds": 5, "fold": 0}
PREDICTED: dict[str, Any] = {"model": "abc", "num_samples": 2, "num_steps": 2, "seed": 0, "bf16": False}
_ZOO = Path(__file__).parents[2] / "zoo"


@dataclass(frozen=True)
class Case:
    """A case, and the patient it is of."""

    id: str
    patient: str


CASES = [Case(f"c{n}", f"p{n // 2}") for n in range(8)]


@cache
def registry_entry() -> Entry:
    """Return what the registry says of an entry with weights."""
    return read_registry(_ZOO / "registry.yaml")[ENTRY]


def entry_files() -> Files:
    """Return the files of an entry with weights."""
    return {name: (_ZOO / ENTRY / name).read_bytes() for name in ("config.yaml", "model.safetensors")}


def zoo() -> Files:
    """Return a zoo of that entry alone."""
    own = yaml.safe_load((_ZOO / "registry.yaml").read_text())
    said, files = own["entries"][ENTRY], entry_files()
    said["sha256"] = {name: sha256(content).hexdigest() for name, content in files.items()}
    text = yaml.safe_dump({"version": own["version"], "entries": {ENTRY: said}}, sort_keys=False)
    return {"registry.yaml": text.encode(), **{f"{ENTRY}/{name}": content for name, content in files.items()}}


def recipes(kind: str) -> list[Files]:
    """Return the configurations of data sets or of models and presets."""
    folders = ("data",) if kind == "data" else ("model", "member", "preset")
    paths = [path for folder in folders for path in sorted((experiments_folder() / folder).glob("*.yaml"))]
    return [{"own.yaml": path.read_bytes()} for path in paths]


def splits() -> list[Files]:
    """Splits by hand, and as the project writes them."""
    named = {"train": ["c0", "c1", "c2", "c3"], "val": ["c4", "c5"], "test": ["c6", "c7"]}
    return [
        {"splits.yaml": yaml.safe_dump(one, sort_keys=False).encode()} for one in (named, {"drawn": DRAWN, **named})
    ]


def windows() -> list[Files]:
    """Windows of four pictures."""
    rows = [f"p{n},{n},{2 * n},{8 + n},{9 + n}" for n in range(4)]
    return [{"windows.csv": lines(["id,left,top,width,height", *rows])}]


def cases() -> list[Files]:
    """The scores of cases."""
    text = (_ZOO / ENTRY / "cases.csv").read_text().splitlines()
    return [{"cases.csv": lines(text[:5])}]


@cache
def _checkpoint() -> dict[str, Any]:
    model = load_entry(Source(_ZOO), ENTRY)
    content: dict[str, Any] = {
        "state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.0", "global_step": 9, "loops": {},
        "callbacks": {}, "optimizer_states": [], "lr_schedulers": [],
    }  # fmt: skip
    model.on_save_checkpoint(content)
    return content


def _saved(content: object) -> bytes:
    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


def checkpoints(whole: bool) -> list[Files]:
    """A checkpoint, of which the weights are there or few."""
    content = _checkpoint()
    few = dict(list(content["state_dict"].items())[:2])
    return [{"last.ckpt": _saved(content if whole else content | {"state_dict": few})}]


def run_settings() -> list[Files]:
    """The settings of runs."""
    return [{"config.yaml": path.read_bytes()} for path in sorted(_ZOO.glob("*/run.yaml"))[:6]]


def calibrated_run() -> list[Files]:
    """A run with a calibration."""
    best = b"weights"
    said = {"method": "isotonic", "cases": 20, "checkpoint": sha256(best).hexdigest()}
    return [{"calibration.json": as_json(said), "checkpoints/best.ckpt": best, "checkpoints/calibrated.ckpt": best}]


def predictions() -> list[Files]:
    """The table of a folder of predictions, and its settings."""
    from dataclasses import fields

    from diffmedseg.prediction.pictures.folder import PictureRow

    names = [field.name for field in fields(PictureRow)]
    values = {"image": "a", "region": "lesion", "digest": "ab", "uncertainty": "0.5", "seconds": "0.1"}
    rows = [",".join(names), ",".join(values.get(name, "3") for name in names)]
    settings = yaml.safe_dump(PREDICTED, sort_keys=False).encode()
    return each_first({"predictions.csv": lines(rows), "predictions.yaml": settings, "a_mask.png": b""})[:2]


def model_of_a_lesion() -> Any:
    """Return what a folder of predictions asks of a model."""
    return SimpleNamespace(regions=("lesion",), nested=False, conformal=None, familiarity=None)


def metrics() -> list[Files]:
    """The log of a run."""
    rows = ["epoch,step,train/loss,val/dice", "0,0,0.5,", "0,1,0.4,", "0,1,,0.6", "1,2,0.3,", "1,3,0.2,", "1,3,,0.7"]
    return [{"metrics.csv": lines(rows)}]


def cached_images() -> list[Files]:
    """Shrunk images and masks."""
    images, masks = np.zeros((2, 3, 4, 4), np.uint8), np.zeros((2, 1, 1, 4, 4), np.uint8)
    return each_first({"images.npy": npy(images), "masks.npy": npy(masks), "filled.npy": npy(masks.any((-2, -1)))})


def cached_case() -> list[Files]:
    """A decoded case."""
    facts = {
        "spacing": [1.0, 1.0, 2.0],
        "brain": [True, False],
        "labelled": [False, False],
        "copies": [[0, 1]],
        "notes": [],
    }
    image, labels = np.zeros((2, 2, 4, 4), np.uint16), np.zeros((2, 4, 4), np.uint8)
    return each_first({"facts.json": json.dumps(facts).encode(), "image.npy": npy(image), "labels.npy": npy(labels)})
