"""Read the dataset.json of a raw data set of nnU-Net v2. Needs no torch.

The format: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md. Beside it,
region_based_training.md describes regions, and ignore_label.md the ignore label.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffmedseg.errors import DataError
from diffmedseg.files import FormatError, read_json
from diffmedseg.reading.names import PICTURES, VOLUMES, listing

DATASET_JSON = "dataset.json"
SPLITS_FINAL = "splits_final.json"
BACKGROUND, IGNORE = "background", "ignore"
#: Channels with values that mean the same in every case: nnU-Net scales them equally in all cases, or not at all.
_SAME_IN_ALL_CASES = ("ct", "nonorm")
_LARGEST_LABEL = 255
_V1 = (
    "it has the form of nnU-Net v1 or of the Medical Segmentation Decathlon. Convert it with "
    "nnUNetv2_convert_MSD_dataset or nnUNetv2_convert_old_nnUNet_dataset; the data set msd_brain reads "
    "Task01_BrainTumour without conversion"
)


@dataclass(frozen=True)
class Description:
    """A raw data set, from its dataset.json.

    Attributes:
        path: The dataset.json.
        channels: Names of the channels, in the order of their numbers.
        fixed: Names of the channels with values that mean the same in every case, such as Hounsfield units.
        labels: The values of each region, in the order of the file.
        codes: The value of each region in label maps that nnU-Net predicts.
        ignore: The value of voxels with an unknown label; None if all labels are known.
        ending: Ending of the names of all files.
        files: Files of the image and the label map by case, if dataset.json names them; otherwise None.
        facts: The content of the file.
    """

    path: Path
    channels: tuple[str, ...]
    fixed: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    codes: Mapping[str, int]
    ignore: int | None
    ending: str
    files: Mapping[str, Any] | None
    facts: Mapping[str, Any]

    @property
    def root(self) -> Path:
        """The folder of the data set."""
        return self.path.parent

    @property
    def allowed(self) -> set[int]:
        """All values that label maps may have."""
        values = {value for of_region in self.labels.values() for value in of_region}
        return values | {0} | (set() if self.ignore is None else {self.ignore})

    @property
    def nested(self) -> bool:
        """Whether each region lies within the region before it."""
        values = [set(of_region) for of_region in self.labels.values()]
        return len(values) > 1 and all(inner <= outer for outer, inner in pairwise(values))


def find_description(root: Path) -> Description | None:
    """Read the dataset.json of a folder; None without such a file.

    Raises:
        DataError: See :func:`read_description`.
    """
    return read_description(root) if (root / DATASET_JSON).is_file() else None


def read_description(root: Path) -> Description:
    """Read the dataset.json of a folder.

    Raises:
        DataError: If it is missing, damaged or of nnU-Net v1; the message names the file and the remedy.
    """
    path = root / DATASET_JSON
    if not path.is_file():
        content = listing(root) if root.is_dir() else "no such folder"
        inner = sorted(file.parent.name for file in root.glob(f"*/{DATASET_JSON}")) if root.is_dir() else []
        remedy = f"Name a folder in it, such as {inner[0]}" if inner else "Name the folder Dataset<number>_<name>"
        raise DataError(f"There is no {path}; there is {content}. {remedy}")
    try:
        facts = read_json(path)
        if not isinstance(facts, dict):
            raise _Wrong("expected channel_names, labels and file_ending")
        if "channel_names" not in facts and "modality" in facts:
            raise _Wrong(_V1)
        channels, fixed = _channels(_mapping(facts, "channel_names"))
        labels, ignore = _labels(_mapping(facts, "labels"))
        codes = _codes(_mapping(facts, "labels"), labels, facts.get("regions_class_order"))
        files = facts.get("dataset")
        if files is not None and not isinstance(files, dict):
            raise _Wrong("dataset is no mapping; expected the files of each case")
        return Description(path, channels, fixed, labels, codes, ignore, _ending(facts), files, facts)
    except (OSError, FormatError, _Wrong) as error:
        raise DataError(f"{path} cannot be used: {error}.", [DATASET_JSON]) from error


class _Wrong(ValueError):
    """A fault in the file."""


def _mapping(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    mapping = facts.get(name)
    if not isinstance(mapping, dict) or not mapping:
        raise _Wrong(f"it has no {name}")
    return mapping


def _ending(facts: Mapping[str, Any]) -> str:
    ending = str(facts.get("file_ending"))
    supported = (*VOLUMES, *PICTURES)
    if ending.lower() not in supported:
        raise _Wrong(f"file_ending is {ending}; expected {', '.join(supported)}. Convert the files")
    return ending


def _channels(names: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the unique names of the channels in the order of their numbers, and the names of fixed channels."""
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise _Wrong(f"channel_names are numbered {', '.join(names)}; expected 0 to {len(names) - 1}")
    titles = [str(names[str(number)]) for number in range(len(names))]
    unique = [
        _name(name) if titles.count(name) == 1 else f"{_name(name)}_{number}" for number, name in enumerate(titles)
    ]
    if len(set(unique)) < len(unique):
        raise _Wrong(f"channel_names {', '.join(titles)} differ only in punctuation. Rename one of them")
    fixed = [name for name, title in zip(unique, titles, strict=True) if title.casefold() in _SAME_IN_ALL_CASES]
    return tuple(unique), tuple(fixed)


def _name(text: str) -> str:
    """Return a name that is valid in file names, tables and on the command line."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")


def _labels(labels: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Return the values of each region, and the value of the ignore label."""
    if labels.get(BACKGROUND) not in (0, [0]):
        keys = all(str(key).isdecimal() for key in labels)
        raise _Wrong(_V1 if keys else f"labels have no {BACKGROUND} with the value 0")
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        values = _values(name, value)
        if name in (BACKGROUND, IGNORE):
            continue
        if 0 in values:
            raise _Wrong(f"the region {name} has the value 0 of the background")
        if not _name(name) or _name(name) in regions:
            raise _Wrong(
                f"the label {name!r} has no name, or differs from another label only in punctuation. Rename it"
            )
        regions[_name(name)] = values
    if not regions:
        raise _Wrong("labels name only background")
    if IGNORE not in labels:
        return regions, None
    [ignore] = _values(IGNORE, labels[IGNORE])[:1]
    most = max(value for values in regions.values() for value in values)
    if labels[IGNORE] != ignore or ignore <= most:
        raise _Wrong(f"the label ignore is {labels[IGNORE]}; expected one value above {most}, the largest label")
    return regions, ignore


def _values(name: str, value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(number) is int and 0 <= number <= _LARGEST_LABEL for number in values):
        raise _Wrong(f"the label {name} is {value}; expected whole numbers from 0 to {_LARGEST_LABEL}")
    return tuple(sorted(set(values)))


def _codes(described: Mapping[str, Any], labels: Mapping[str, Sequence[int]], order: object) -> dict[str, int]:
    """Return the value of each region in label maps that nnU-Net predicts. nnU-Net draws the regions in this order."""
    several = any(isinstance(value, list) and len(value) > 1 for value in described.values())
    if not several:
        return {name: values[0] for name, values in labels.items()}
    if not isinstance(order, list) or len(order) != len(labels) or not all(type(value) is int for value in order):
        raise _Wrong(f"regions_class_order is {order}; expected one value for each of {', '.join(labels)}")
    return dict(zip(labels, order, strict=True))
