"""The registry of a zoo: what is known of each entry, in one YAML file of a strict form."""

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
#: Versions that can be read; in version 2, entries had no version of their own.
_READABLE = (2, 3)
StorageType = Literal["float16", "float32"]
#: Of an entry; short numbers, so that they can be compared.
VERSION = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}", re.ASCII)
CARD = "README.md"
CONFIG, WEIGHTS, RUN, CASES, METRICS, EXAMPLE, PICTURE = (
    "config.yaml", "model.safetensors", "run.yaml", "cases.csv", "metrics.json", "example.safetensors", "cases.png",
)  # fmt: skip
ROBUSTNESS = "robustness.csv"


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
class Storage:
    """How the weights are stored, and what the rounding changed.

    Attributes:
        dtype: Of the parameters; buffers that this would change are float32.
        checked_on: The images on which rounded and unrounded weights were compared.
        probability: Largest mean difference of a probability in one image.
        samples: Largest mean difference of a sample in one image.
        dice: Largest change of the Dice of an image; of masks against the reference, or of masks against each other
            where there is none.
        mean_dice: Change of the mean Dice.
    """

    dtype: StorageType
    checked_on: str
    probability: float
    samples: float
    dice: float
    mean_dice: float

    def summary(self) -> str:
        """Say how the weights are stored and what that changed, for a card."""
        if self.dtype == "float32":
            return "Parameters are stored as float32, which changes nothing."
        return (
            "Parameters are stored as float16. Loaded weights are float32. Rounded and unrounded weights were compared "
            f"on {self.checked_on}. The largest differences were {self.probability:.1g} for the mean probability of an "
            f"image, {self.samples:.1g} for its mean sample, {self.dice:.1g} for its Dice, and {self.mean_dice:.1g} "
            "for the mean Dice."
        )


@dataclass(frozen=True)
class Retired:
    """An entry that another one replaced.

    Attributes:
        superseded_by: Name of the entry that replaced it.
        version: Its version when it was retired.
        reason: Why.
    """

    superseded_by: str
    version: str
    reason: str = ""


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
        version: Of the entry itself: the first number changes with the input or output, the second with the weights,
            the third with the card or other files.
        changelog: One line for each version, the newest first.
        dataset: Name of the data set on the command line; empty of an entry that was made before it was stored.
        url: Where the data set is described.
        steps: Optimiser steps of the chosen checkpoint; 0 for a recipe.
        notes: What its author says of it.
        unpictured: Why there is no picture of its cases; empty where there is one.
        storage: How the weights are stored; None of an entry that was made before it was checked.
        trained_with: Versions of packages, by name, as far as the checkpoint says.
        exported_with: Versions of packages, by name.
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
        address: Where it came from, for messages; empty for the file itself.

    Raises:
        ZooError: If there is no such file, it is damaged or of another version, or an entry is not of the form of
            :class:`Entry`.
    """
    return _read(path, address)[0]


def read_retired(path: Path, address: str = "") -> dict[str, Retired]:
    """Read the retired entries of a registry by name; arguments and errors as of :func:`read_registry`."""
    return _read(path, address)[1]


def _read(path: Path, address: str) -> tuple[dict[str, Entry], dict[str, Retired]]:
    """Read the entries and the retired entries; each retired one was replaced by one of the entries."""
    place = address or str(path)
    content, retired = _content(path, place), dict[str, Retired]()
    entries = {str(name): _parse(str(name), entry, place) for name, entry in content["entries"].items()}
    for name, said in content["retired"].items():
        try:
            retired[str(name)] = found = as_type(Retired, said, "retired entry")
        except ValueError as error:
            raise ZooError(f"{place}: the retired {name!r} is damaged or of another version: {error}") from error
        if name in entries or found.superseded_by not in entries:
            raise ZooError(
                f"{place}: {name!r} is retired for {found.superseded_by!r}; expected a name that is no entry, and the "
                "name of an entry that replaces it. Restore the registry."
            )
    return entries, retired


def _content(path: Path, place: str) -> dict[str, Any]:
    """Return what a registry holds: ``entries`` and ``retired``, by name."""
    if not path.is_file():
        raise ZooError(
            f"There is no {place}. A zoo is a folder with a {REGISTRY}, its address (https://...), or a repository of "
            "the Hugging Face Hub (hf://owner/name): look at DIFFMEDSEG_ZOO."
        )
    try:
        content = read_yaml(path)
        version, entries, retired = content["version"], dict(content["entries"]), dict(content.get("retired") or {})
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ZooError(f"{place} is damaged ({error}): restore it.") from error
    if version not in _READABLE:
        raise ZooError(
            f"{place} has version {version}; this diffmedseg reads {REGISTRY_VERSION}: update the older one."
        )
    return {"entries": entries, "retired": retired}


def write_registry(path: Path, entries: Mapping[str, Entry], retired: Mapping[str, Retired] | None = None) -> None:
    """Write a registry, whole or not at all; the zoo's folder has to be locked.

    Args:
        path: The file.
        entries: All entries by name.
        retired: All retired entries by name; None for those that the file has.
    """
    if retired is None:
        retired = read_retired(path) if path.is_file() else {}
    content = {
        "version": REGISTRY_VERSION,
        "entries": {name: asdict(entry) for name, entry in entries.items()},
        "retired": {name: asdict(one) for name, one in retired.items()},
    }
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    write_alone(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def version_key(version: str) -> tuple[int, ...]:
    """Return what versions are compared by."""
    return tuple(int(number) for number in version.split("."))


def raise_version(entry: Entry, line: str) -> Entry:
    """Return an entry with the third number of its version raised, and a line in its changelog that says why."""
    first, second, third = version_key(entry.version)
    version = f"{first}.{second}.{third + 1}"
    return replace(entry, version=version, changelog=[f"{version}: {line}", *entry.changelog])


def _parse(name: str, content: Any, place: str) -> Entry:  # noqa: ANN401  YAML can hold anything
    try:
        entry: Entry = as_type(Entry, content, "entry")
    except ValueError as error:
        raise ZooError(f"{place}: what it says of {name!r} is damaged or of another version: {error}") from error
    if not VERSION.fullmatch(entry.version):
        raise ZooError(f"{place}: {name!r} has version {entry.version!r}; expected three numbers, such as 1.0.0.")
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
