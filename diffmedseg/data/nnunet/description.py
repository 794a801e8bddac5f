"""What the dataset.json of a raw data set of nnU-Net v2 says; without torch.

Its format: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md, and for regions and the
ignore label region_based_training.md and ignore_label.md beside it.
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
#: Names of channels whose values mean the same in every case: nnU-Net scales them alike in all of them, or not at all.
_SAME_IN_ALL_CASES = ("ct", "nonorm")
_LARGEST_LABEL = 255
_V1 = (
    "it is of nnU-Net v1 or of the Medical Segmentation Decathlon. Convert it with nnUNetv2_convert_MSD_dataset or "
    "nnUNetv2_convert_old_nnUNet_dataset; the data set msd_brain reads Task01_BrainTumour as it is"
)


@dataclass(frozen=True)
class Description:
    """A raw data set, as its dataset.json describes it.

    Attributes:
        path: The dataset.json.
        channels: Names of the channels, by their numbers.
        fixed: Those of them whose values mean the same in every case, as Hounsfield units do.
        labels: By region, in the order of the file, the values that belong to it.
        codes: By region, the value that it has in the label map that nnU-Net predicts.
        ignore: The value of voxels whose label is not known; None where all are known.
        ending: What the names of all files end in.
        files: By case, the files of its image and its label map, where the file names them; else None.
        facts: All that the file says.
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
        values = [set(one) for one in self.labels.values()]
        return len(values) > 1 and all(inner <= outer for outer, inner in pairwise(values))


def find_description(root: Path) -> Description | None:
    """Read the dataset.json of a folder; None where there is none.

    Raises:
        DataError: As :func:`read_description`.
    """
    return read_description(root) if (root / DATASET_JSON).is_file() else None


def read_description(root: Path) -> Description:
    """Read the dataset.json of a folder.

    Raises:
        DataError: If it is missing or damaged, or of nnU-Net v1; names the file and the remedy.
    """
    path = root / DATASET_JSON
    if not path.is_file():
        there = listing(root) if root.is_dir() else "no such folder"
        inner = sorted(one.parent.name for one in root.glob(f"*/{DATASET_JSON}")) if root.is_dir() else []
        remedy = f"Name a folder in it, such as {inner[0]}" if inner else "Name the folder Dataset<number>_<name>"
        raise DataError(f"There is no {path}; there is {there}. {remedy}")
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
            raise _Wrong("dataset has to hold the files of each case")
        return Description(path, channels, fixed, labels, codes, ignore, _ending(facts), files, facts)
    except (OSError, FormatError, _Wrong) as error:
        raise DataError(f"{path} cannot be used: {error}.", [DATASET_JSON]) from error


class _Wrong(ValueError):
    """Something in the file is not as it should be."""


def _mapping(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = facts.get(name)
    if not isinstance(found, dict) or not found:
        raise _Wrong(f"it has no {name}")
    return found


def _ending(facts: Mapping[str, Any]) -> str:
    ending = str(facts.get("file_ending"))
    known = (*VOLUMES, *PICTURES)
    if ending.lower() not in known:
        raise _Wrong(f"file_ending is {ending}; {', '.join(known)} are read: convert the files")
    return ending


def _channels(names: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the channels in the order of their numbers, each once, and which are alike in all cases."""
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise _Wrong(f"channel_names are numbered {', '.join(names)}; expected 0 to {len(names) - 1}")
    plain = [str(names[str(number)]) for number in range(len(names))]
    found = [_name(one) if plain.count(one) == 1 else f"{_name(one)}_{number}" for number, one in enumerate(plain)]
    if len(set(found)) < len(found):
        raise _Wrong(f"channel_names {', '.join(plain)} differ only in signs: rename one")
    same = [one for one, name in zip(found, plain, strict=True) if name.casefold() in _SAME_IN_ALL_CASES]
    return tuple(found), tuple(same)


def _name(text: str) -> str:
    """Return a name that may stand in the names of files, in tables and on the command line."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")


def _labels(labels: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Return the values of each region, and that of the ignore label."""
    if labels.get(BACKGROUND) not in (0, [0]):
        keys = all(str(key).isdecimal() for key in labels)
        raise _Wrong(_V1 if keys else f"labels have no {BACKGROUND} of value 0")
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        values = _values(name, value)
        if name in (BACKGROUND, IGNORE):
            continue
        if 0 in values:
            raise _Wrong(f"the region {name} has the value 0, which is background")
        if not _name(name) or _name(name) in regions:
            raise _Wrong(f"labels have no name, or differ only in signs: {name!r}. Rename it")
        regions[_name(name)] = values
    if not regions:
        raise _Wrong("labels name nothing but background")
    if IGNORE not in labels:
        return regions, None
    [ignore] = _values(IGNORE, labels[IGNORE])[:1]
    most = max(value for values in regions.values() for value in values)
    if labels[IGNORE] != ignore or ignore <= most:
        raise _Wrong(f"the label ignore is {labels[IGNORE]}; expected one value above {most}, the largest label")
    return regions, ignore


def _values(name: str, value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(one) is int and 0 <= one <= _LARGEST_LABEL for one in values):
        raise _Wrong(f"the label {name} is {value}; expected whole numbers from 0 to {_LARGEST_LABEL}")
    return tuple(sorted(set(values)))


def _codes(given: Mapping[str, Any], labels: Mapping[str, Sequence[int]], order: object) -> dict[str, int]:
    """Return the value of each region in the label maps that nnU-Net predicts: it draws one region after the other."""
    several = any(isinstance(value, list) and len(value) > 1 for value in given.values())
    if not several:
        return {name: values[0] for name, values in labels.items()}
    if not isinstance(order, list) or len(order) != len(labels) or not all(type(one) is int for one in order):
        raise _Wrong(f"regions_class_order is {order}; expected one value for each of {', '.join(labels)}")
    return dict(zip(labels, order, strict=True))
