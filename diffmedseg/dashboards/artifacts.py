"""W&B artifacts of data, models, evaluations and zoo entries. W&B draws their lineage and versions them by content."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmedseg.dashboards.logger import WandbRunLogger, wandb_id
from diffmedseg.data.base import Split
from diffmedseg.data.fingerprint import split_fingerprint
from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.store import ImageStore
from diffmedseg.models.loading import read_settings

if TYPE_CHECKING:
    import wandb

_OF_A_TEST = ("cases.csv", "metrics.json", "report.html", "panel.png")


def dataset_artifact(info: DatasetInfo, split: Split, store: ImageStore) -> "wandb.Artifact":
    """Return an artifact that describes a split by its fingerprint. No image or case name leaves the machine."""
    import wandb

    facts = {
        "fingerprint": split_fingerprint(store),
        "split": split,
        "images": len(store),
        "cases": len(set(store.cases)),
        **{name: getattr(info, name) for name in ("title", "url", "licence", "citation")},
    }
    artifact = wandb.Artifact(f"{info.name}-{split}", "dataset", metadata=facts)
    with artifact.new_file("fingerprint.json") as file:
        json.dump(facts, file, indent=1)
    return artifact


def model_artifact(checkpoint: Path, run_id: str, metadata: Mapping[str, Any]) -> "wandb.Artifact":
    """Return an artifact with a checkpoint of a run. Equal content is the same version on every machine."""
    import wandb

    artifact = wandb.Artifact(f"model-{run_id}", "model", metadata=dict(metadata))
    artifact.add_file(str(checkpoint))  # copied, since a resumed run may replace the file before it is sent
    return artifact


def evaluation_artifact(folder: Path, run_id: str, metadata: Mapping[str, Any]) -> "wandb.Artifact | None":
    """Return an artifact with the files of a test in a run's folder; None if there are no files."""
    import wandb

    artifact = wandb.Artifact(f"evaluation-{run_id}", "evaluation", metadata=dict(metadata))
    paths = [folder / name for name in _OF_A_TEST if (folder / name).is_file()]
    for path in paths:
        artifact.add_file(str(path))
    return artifact if paths else None


def use(run: "wandb.Run", artifact: "wandb.Artifact") -> None:
    """Record that a run uses an artifact."""
    try:
        run.use_artifact(artifact)
    except TypeError:  # Offline W&B refuses, but the call that it makes online for a new artifact works.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def log_zoo_entry(run: Path, entry: Path) -> None:
    """Log a zoo entry to the W&B run of its training run. If that run was not logged, do nothing."""
    config = read_settings(run / "config.yaml", []).get("logger") or {}
    if wandb_id(run) is None or config.get("class_path") != "diffmedseg.dashboards.WandbRunLogger":
        return
    import wandb

    logger = WandbRunLogger(run, **config.get("init_args", {}))
    artifact = wandb.Artifact(entry.name, "zoo-entry")
    artifact.add_dir(str(entry))
    logger.experiment.log_artifact(artifact)
    logger.finish()
