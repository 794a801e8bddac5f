"""The front matter of a card: the YAML block that the Hugging Face Hub reads."""

import math
import re
from typing import TYPE_CHECKING

from diffmedseg.data.info import is_open
from diffmedseg.zoo.registry import Entry

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_TASK = "image-segmentation"  # of the hub's list


def front_matter(name: str, entry: Entry) -> str:
    """Return the YAML block of an entry's card, between its two lines of dashes.

    Args:
        name: Name of the entry.
        entry: Facts of the entry in the registry.
    """
    from huggingface_hub import ModelCardData

    results = _results(entry)
    # Weights from redistributable data are Apache-2.0; other weights bear the conditions of their data.
    open_data = is_open(entry.licences["data"])
    card = ModelCardData(
        license="apache-2.0" if open_data else "other",
        license_name=None if open_data else "apache-2.0-as-far-as-the-data-allows",
        license_link=None if open_data else entry.url or None,
        library_name="diffmedseg",
        pipeline_tag=_TASK,
        tags=_tags(entry),
        datasets=[_dataset(entry)],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n"


def without_front_matter(card: str) -> str:
    """Return a card without its front matter."""
    return re.sub(r"\A---\n.*?\n---\n+", "", card, flags=re.DOTALL)


def _tags(entry: Entry) -> list[str]:
    several = ["diffusion", "uncertainty"] if entry.num_samples > 1 else []
    return ["medical-imaging", "segmentation", *several, "pytorch-lightning", *map(_slug, entry.regions)]


def _dataset(entry: Entry) -> str:
    return entry.dataset or _slug(entry.data)


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _results(entry: Entry) -> "list[EvalResult]":
    """Return the mean scores without NaN and infinity, which the hub's YAML does not accept."""
    from huggingface_hub import EvalResult

    scores = entry.metrics.scores if entry.metrics else {}
    return [
        EvalResult(
            task_type=_TASK,
            task_name=f"Segmentation of {', '.join(entry.regions).replace('_', ' ')}",
            dataset_type=_dataset(entry),
            dataset_name=entry.data,
            dataset_split="test (pseudo masks)" if entry.metrics and entry.metrics.pseudo_masks else "test",
            metric_type=score,
            metric_name=f"{score} ({region})",
            metric_value=mean,
        )
        for region, region_scores in scores.items()
        for score, (mean, _, _) in region_scores.items()
        if math.isfinite(mean)
    ]
