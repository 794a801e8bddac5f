"""The registry of a zoo: the facts of all entries, in one YAML file with a strict format."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from diffmedseg.atomic import write_alone
from diffmedseg.errors import ZooError
from diffmedseg.files import read_yaml
from diffmedseg.zoo.typed import as_type

REGISTRY = "registry.yaml"
REGISTRY_VERSION = 3
#: Readable versions. In version 2, entries have no version of their own.
_READABLE = (2, 3)
StorageType = Literal["float16", "float32"]
#: Version of an entry; short numbers, so that they can be compared.
VERSION = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}", re.ASCII)
CARD = "README.md"
CONFIG, WEIGHTS, RUN, CASES, METRICS, EXAMPLE, PICTURE = (
    "config.yaml", "model.safetensors", "run.yaml", "cases.csv", "metrics.json", "example.safetensors", "cases.png",
)  # fmt: skip
ROBUSTNESS = "robustness.csv"


@dataclass(frozen=True)
class Input:
    """The input of an entry.

    Attributes:
        channels: Names of the channels, in order.
        size: Height and width of the model's grid in pixels. Images are resized to it.
        normalisation: Scaling of the values to the range.
        range: The least and the largest value.
    """

    channels: list[str]
    size: list[int]
    normalisation: str
    range: list[float] = field(default_factory=lambda: [-1.0, 1.0])


@dataclass(frozen=True)
class Metrics:
    """The scores of an entry.

    Attributes:
        split: The split that was scored.
        cases: Number of cases.
        seed: Seed of the training.
        command: Command that trains and scores the entry again, in its folder; empty if a script of its author did.
        scores: Mean and ends of the 95 % interval (over patients if known) of each score, by region and score.
        pseudo_masks: Origin of the test's masks if they are pseudo masks; empty for true masks.
    """

    split: str
    cases: int
    seed: int
    command: str
    scores: dict[str, dict[str, list[float]]]
    pseudo_masks: str = ""


@dataclass(frozen=True)
class Storage:
    """Type of the stored weights, and the effect of rounding.

    Attributes:
        dtype: Type of the parameters. Buffers that rounding would change are float32.
        checked_on: The images on which rounded and unrounded weights were compared.
        probability: Largest mean difference of a probability in one image.
        samples: Largest mean difference of a sample in one image.
        dice: Largest change of the Dice of a case against its reference; without a reference, 1 - Dice of the masks
            before and after rounding. The compared slices of a volume count together.
        mean_dice: Change of the mean Dice.
    """

    dtype: StorageType
    checked_on: str
    probability: float
    samples: float
    dice: float
    mean_dice: float

    def summary(self) -> str:
        """Return the text for a card."""
        if self.dtype == "float32":
            return "Parameters are stored as float32, which changes nothing."
        return (
            "Parameters are stored as float16. Loaded weights are float32. Rounded and unrounded weights were compared "
            f"on {self.checked_on}. The largest differences were {self.probability:.1g} for the mean probability of an "
            f"image, {self.samples:.1g} for its mean sample, {self.dice:.1g} for the Dice of a case, and "
            f"{self.mean_dice:.1g} for the mean Dice."
        )


@dataclass(frozen=True)
class Retired:
    """An entry that another entry replaced.

    Attributes:
        superseded_by: Name of the entry that replaced it.
        version: Its last version.
        reason: Reason of the retirement.
    """

    superseded_by: str
    version: str
    reason: str = ""


@dataclass(frozen=True)
class Entry:
    """Facts of an entry. Older entries lack some of them.

    Attributes:
        status: ``trained``, or ``recipe``: a configuration without weights and scores.
        input: Input of the model.
        regions: Names of the regions, in order.
        threshold: Foreground is where the probability exceeds it.
        num_samples: S.
        num_steps: Network evaluations per sample.
        fusion: Name of the class that fuses samples.
        learned_from: Supervision of the training.
        data: Title of the data set.
        licences: Licences of code, weights and data.
        citation: Publication to cite for the data.
        intended_use: Intended use, and its limits.
        bytes: Size of the weights; 0 for a recipe.
        sha256: Hash of each file (but the card), by name.
        metrics: Scores; None for a recipe.
        network: Title of the network; empty in older entries.
        formerly: Former names of the entry.
        papers: Publications of the method; empty without any, and in older entries.
        packages: Packages besides diffmedseg that the entry needs; they have to be trusted.
        version: Version of the entry. The first number changes with the input or output, the second with the weights,
            the third with the card or other files.
        changelog: One line for each version, the newest first.
        dataset: Name of the data set on the command line; empty in older entries.
        url: Page that describes the data set.
        steps: Optimiser steps of the chosen checkpoint; 0 for a recipe.
        notes: Notes of the author.
        unpictured: Why there is no picture of its cases; empty if there is one.
        storage: Type of the stored weights; None in older entries.
        trained_with: Known versions of packages at training, by name.
        exported_with: Versions of packages at export, by name.
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
    version: str = "1.0.0"
    changelog: list[str] = field(default_factory=list)
    dataset: str = ""
    url: str = ""
    steps: int = 0
    notes: str = ""
    unpictured: str = ""
    storage: Storage | None = None
    trained_with: dict[str, str] = field(default_factory=dict)
    exported_with: dict[str, str] = field(default_factory=dict)


def read_registry(path: Path, address: str = "") -> dict[str, Entry]:
    """Read the entries of a registry by name.

    Args:
        path: The file.
        address: Origin of the file, for messages; empty for the path of the file.

    Raises:
        ZooError: If there is no such file, it is damaged or of another version, or an entry does not fit
            :class:`Entry`.
    """
    return _read(path, address)[0]


def read_retired(path: Path, address: str = "") -> dict[str, Retired]:
    """Read the retired entries of a registry by name; see :func:`read_registry`."""
    return _read(path, address)[1]


def _read(path: Path, address: str) -> tuple[dict[str, Entry], dict[str, Retired]]:
    """Read the entries and the retired entries. An entry has to replace each retired entry."""
    origin = address or str(path)
    content, retired = _content(path, origin), dict[str, Retired]()
    entries = {str(name): _parse(str(name), entry, origin) for name, entry in content["entries"].items()}
    for name, values in content["retired"].items():
        try:
            retired[str(name)] = record = as_type(Retired, values, "retired entry")
        except ValueError as error:
            raise ZooError(f"{origin}: the retired {name!r} is damaged or of another version: {error}") from error
        if name in entries or record.superseded_by not in entries:
            raise ZooError(
                f"{origin}: {name!r} is retired for {record.superseded_by!r}; expected a name that is no entry, and "
                "the name of an entry that replaces it. Restore the registry."
            )
    return entries, retired


def _content(path: Path, origin: str) -> dict[str, Any]:
    """Return the content of a registry: ``entries`` and ``retired``, by name."""
    if not path.is_file():
        raise ZooError(
            f"There is no {origin}. A zoo is a folder with a {REGISTRY}, its address (https://...), or a repository of "
            "the Hugging Face Hub (hf://owner/name). Check DIFFMEDSEG_ZOO."
        )
    try:
        content = read_yaml(path)
        version, entries, retired = content["version"], dict(content["entries"]), dict(content.get("retired") or {})
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ZooError(f"{origin} is damaged ({error}). Restore it.") from error
    if version not in _READABLE:
        raise ZooError(
            f"{origin} has version {version}; this diffmedseg reads {REGISTRY_VERSION}. Update the older of the two."
        )
    return {"entries": entries, "retired": retired}


def write_registry(path: Path, entries: Mapping[str, Entry], retired: Mapping[str, Retired] | None = None) -> None:
    """Write a registry, completely or not at all. The zoo's folder has to be locked.

    Args:
        path: The file.
        entries: All entries by name.
        retired: All retired entries by name; None keeps those in the file.
    """
    if retired is None:
        retired = read_retired(path) if path.is_file() else {}
    content = {
        "version": REGISTRY_VERSION,
        "entries": {name: asdict(entry) for name, entry in entries.items()},
        "retired": {name: asdict(record) for name, record in retired.items()},
    }
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    write_alone(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def version_key(version: str) -> tuple[int, ...]:
    """Return a version as numbers, for comparisons."""
    return tuple(int(number) for number in version.split("."))


def raise_version(entry: Entry, line: str) -> Entry:
    """Return an entry with the third number of its version raised, and a new line in its changelog."""
    first, second, third = version_key(entry.version)
    version = f"{first}.{second}.{third + 1}"
    return replace(entry, version=version, changelog=[f"{version}: {line}", *entry.changelog])


def _parse(name: str, content: Any, origin: str) -> Entry:  # noqa: ANN401  YAML can hold anything
    try:
        entry: Entry = as_type(Entry, content, "entry")
    except ValueError as error:
        raise ZooError(f"{origin}: the entry {name!r} is damaged or of another version: {error}") from error
    if not VERSION.fullmatch(entry.version):
        raise ZooError(f"{origin}: {name!r} has version {entry.version!r}; expected three numbers, such as 1.0.0.")
    for file in entry.sha256:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", file):
            raise ZooError(f"{origin}: {name!r} names the file {file!r}, which is outside of the entry.")
    trained = {CONFIG, WEIGHTS} <= entry.sha256.keys() and entry.metrics is not None
    if entry.status == "trained" and not trained:
        raise ZooError(
            f"{origin}: {name!r} lacks metrics, or the sha256 of {CONFIG} or {WEIGHTS}. It cannot be verified."
        )
    if not entry.regions or (
        entry.metrics and any("dice" not in entry.metrics.scores.get(r, {}) for r in entry.regions)
    ):
        raise ZooError(f"{origin}: {name!r} has no regions, or a region without Dice.")
    if entry.status == "recipe" and (entry.metrics is not None or entry.bytes):
        raise ZooError(f"{origin}: {name!r} is a recipe, but has weights or scores. Restore the registry.")
    return entry
