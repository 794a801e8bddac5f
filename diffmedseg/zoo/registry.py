"""The registry of a zoo: what is known of each entry, in one YAML file of a strict form."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from diffmedseg.atomic import write_alone
from diffmedseg.errors import ZooError
from diffmedseg.files import read_yaml
from diffmedseg.zoo.typed import as_type

REGISTRY = "registry.yaml"
REGISTRY_VERSION = 2
CARD = "README.md"
CONFIG, WEIGHTS, RUN, CASES, METRICS, EXAMPLE, PICTURE = (
    "config.yaml", "model.safetensors", "run.yaml", "cases.csv", "metrics.json", "example.safetensors", "cases.png",
)  # fmt: skip


@dataclass(frozen=True)
class Input:
    """What an entry takes.

    Attributes:
        channels: Names, in order.
        size: Height and width of its grid, in pixels, to which images are resized.
        normalisation: How values came to the range.
        range: The least and the largest value.
    """

    channels: list[str]
    size: list[int]
    normalisation: str
    range: list[float] = field(default_factory=lambda: [-1.0, 1.0])


@dataclass(frozen=True)
class Metrics:
    """What an entry reached.

    Attributes:
        split: The cases that were scored.
        cases: How many.
        seed: Of the training.
        command: What trains and scores it again, in the entry's folder; empty where a script of its author did.
        scores: By region and score: mean, and the ends of its 95 % interval, over patients where they are known.
    """

    split: str
    cases: int
    seed: int
    command: str
    scores: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Entry:
    """What the registry says of an entry.

    Attributes:
        status: ``trained``, or ``recipe``: a configuration without weights, and without numbers.
        input: What it takes.
        regions: What it finds, in order.
        threshold: Foreground is where the probability exceeds it.
        num_samples: S.
        num_steps: Network evaluations per sample.
        fusion: The class that fuses samples.
        learned_from: The supervision that it took.
        data: Title of the data set.
        licences: Of code, weights and data.
        citation: What to cite for the data.
        intended_use: And what it is not for.
        bytes: Of the weights; 0 for a recipe.
        sha256: Of each file but the card, by its name.
        metrics: What it reached; None for a recipe.
        network: Title of its network; empty of an entry that was made before titles were stored.
        formerly: Names that it had before.
        papers: What describes its method; empty where none does, or the entry was made before they were named.
        packages: Packages besides diffmedseg that it needs, and that have to be trusted.
    """

    status: Literal["trained", "recipe"]
    input: Input
    regions: list[str]
    threshold: float
    num_samples: int
    num_steps: int
    fusion: str
    learned_from: str
    data: str
    licences: dict[str, str]
    citation: str
    intended_use: str
    bytes: int = 0
    sha256: dict[str, str] = field(default_factory=dict)
    metrics: Metrics | None = None
    papers: list[str] = field(default_factory=list)
    network: str = ""
    formerly: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)


def read_registry(path: Path, address: str = "") -> dict[str, Entry]:
    """Read the entries of a registry by name.

    Args:
        path: The file.
        address: Where it came from, for messages; empty for the file itself.

    Raises:
        ZooError: If there is no such file, it is damaged or of another version, or an entry is not of the form of
            :class:`Entry`.
    """
    place = address or str(path)
    if not path.is_file():
        raise ZooError(
            f"There is no {place}. A zoo is a folder with a {REGISTRY}, its address (https://...), or a repository of "
            "the Hugging Face Hub (hf://owner/name): look at DIFFMEDSEG_ZOO."
        )
    try:
        content = read_yaml(path)
        version, entries = content["version"], dict(content["entries"])
    except (TypeError, KeyError, ValueError) as error:
        raise ZooError(f"{place} is damaged ({error}): restore it.") from error
    if version != REGISTRY_VERSION:
        raise ZooError(
            f"{place} has version {version}; this diffmedseg reads {REGISTRY_VERSION}: update the older one."
        )
    return {str(name): _parse(str(name), entry, place) for name, entry in entries.items()}


def write_registry(path: Path, entries: dict[str, Entry]) -> None:
    """Write a registry, whole or not at all; the zoo's folder has to be locked."""
    said = {name: asdict(entry) for name, entry in entries.items()}
    for one in said.values():
        if not one["packages"]:  # older versions, which know no packages, read the others
            del one["packages"]
    content = {"version": REGISTRY_VERSION, "entries": said}
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    write_alone(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _parse(name: str, content: Any, place: str) -> Entry:  # noqa: ANN401  YAML can hold anything
    try:
        entry: Entry = as_type(Entry, content, "entry")
    except ValueError as error:
        raise ZooError(f"{place}: what it says of {name!r} is damaged or of another version: {error}") from error
    for file in entry.sha256:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", file):
            raise ZooError(f"{place}: {name!r} names the file {file!r}, which leaves the entry.")
    trained = {CONFIG, WEIGHTS} <= entry.sha256.keys() and entry.metrics is not None
    if entry.status == "trained" and not trained:
        raise ZooError(
            f"{place}: {name!r} lacks metrics, or the sha256 of {CONFIG} or {WEIGHTS}: it cannot be verified."
        )
    if not entry.regions or (
        entry.metrics and any("dice" not in entry.metrics.scores.get(r, {}) for r in entry.regions)
    ):
        raise ZooError(f"{place}: {name!r} has no regions, or one without Dice.")
    if entry.status == "recipe" and (entry.metrics is not None or entry.bytes):
        raise ZooError(f"{place}: {name!r} is a recipe, and a recipe has neither weights nor numbers.")
    return entry
