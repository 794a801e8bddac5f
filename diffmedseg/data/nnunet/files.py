"""Find the files of the cases of a raw data set of nnU-Net. Needs no torch."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffmedseg.data.nnunet.description import Description, find_description
from diffmedseg.errors import DataError
from diffmedseg.reading.names import PICTURES, data_files, refuse_clashes
from diffmedseg.reading.stacks import is_stack
from diffmedseg.wording import count, first_names

TRAINING, TEST = "Tr", "Ts"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Attributes:
        id: Name of the case.
        part: ``Tr`` for cases in imagesTr, ``Ts`` for cases in imagesTs.
        images: A file for each channel. A picture is one file with all channels.
        label: File of the label map.
    """

    id: str
    part: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class FoundFiles:
    """The files of a raw data set.

    Attributes:
        cases: Cases with a label map, in the order of their names.
        labels_alone: Label maps without an image.
    """

    cases: list[CaseFiles]
    labels_alone: list[Path]


def find_files(description: Description) -> FoundFiles:
    """Find the cases in imagesTr and, if they have label maps, in imagesTs.

    Raises:
        DataError: If there is none, or a file of a case is missing; the message names the file.
    """
    if description.files is not None:
        return FoundFiles(_listed(description), [])
    cases, unpaired = [], []
    for part in (TRAINING, TEST):
        images, labels = (description.root / f"{kind}{part}" for kind in ("images", "labels"))
        if part == TEST and not (images.is_dir() and labels.is_dir() and _with_ending(labels, description.ending)):
            continue  # test cases without label maps: nothing to learn from, and nothing to score
        for folder in (images, labels):
            if not folder.is_dir():
                raise DataError(f"There is no folder {folder}. Name the raw data set, not the preprocessed data set.")
        channels = _channel_files(images, description)
        maps = {_without_ending(path, description.ending): path for path in _with_ending(labels, description.ending)}
        unpaired += [path for case, path in maps.items() if case not in channels]
        unlabelled = sorted(channels.keys() - maps.keys())
        if unlabelled and part == TRAINING:
            expected = labels / (unlabelled[0] + description.ending)
            number = count(len(unlabelled), "case")
            raise DataError(f"{number} in {images} without a label map. There is no {expected}.", unlabelled)
        if unlabelled:
            _log.warning("%s in %s without a label map: left out.", count(len(unlabelled), "case"), images)
        cases += [CaseFiles(case, part, _complete(case, files, images, description), maps[case])
                  for case, files in sorted(channels.items()) if case in maps]  # fmt: skip
    if not cases:
        raise DataError(
            f"No case in {description.root}: expected imagesTr/CASE_0000{description.ending} and "
            f"labelsTr/CASE{description.ending}, by file_ending in {description.path.name}."
        )
    refuse_clashes([(case.id, case.label) for case in cases], "cases", "Rename one.")
    return FoundFiles(cases, unpaired)


def holds_pictures(description: Description) -> bool:
    """Return whether a data set holds 2-D pictures, and not stacks of slices (TIFF)."""
    if description.ending.lower() not in PICTURES:
        return False
    cases = find_files(description).cases
    return not is_stack(cases[0].images[0])


def find_images(folder: Path) -> tuple[tuple[str, ...], dict[str, tuple[Path, ...]]] | None:
    """Find the images in imagesTr or imagesTs of a raw data set.

    Args:
        folder: Any folder.

    Returns:
        The names of the channels, and the files of each case in this order; a picture is one file with all channels.
        None for a folder of another kind.

    Raises:
        DataError: If a file of a case is missing; the message names the file.
    """
    folder = Path(os.path.abspath(folder))
    if folder.name not in (f"images{TRAINING}", f"images{TEST}"):
        return None
    try:
        description = find_description(folder.parent)
        channels = {} if description is None else _channel_files(folder, description)
    except DataError:  # Decathlon and other data sets have folders of these names, too
        return None
    if description is None or not channels:
        return None
    return description.channels, {
        case: _complete(case, files, folder, description) for case, files in sorted(channels.items())
    }


def _with_ending(folder: Path, ending: str) -> list[Path]:
    return [path for path in data_files(folder) if path.name.endswith(ending)]


def _without_ending(path: Path, ending: str) -> str:
    return path.name[: len(path.name) - len(ending)]


def _channel_files(folder: Path, description: Description) -> dict[str, dict[int, Path]]:
    """Return the files in a folder by case, then by number of the channel."""
    by_case: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _with_ending(folder, description.ending):
        match = re.fullmatch(r"(.+)_(\d{4})", _without_ending(path, description.ending))
        if match is None:
            raise DataError(
                f"{path} has no number of a channel; expected a name such as CASE_0000{description.ending}."
            )
        number = int(match[2])
        if number >= len(description.channels):
            last = len(description.channels) - 1
            raise DataError(f"{path} has the channel number {number}; {description.path} names channels 0 to {last}.")
        by_case[match[1]][number] = path
    return dict(by_case)


def _complete(case: str, files: dict[int, Path], folder: Path, description: Description) -> tuple[Path, ...]:
    """Return the files of a case in the order of its channels."""
    channels = description.channels
    if description.ending.lower() in PICTURES and set(files) == {0}:
        return (files[0],)  # a picture holds all its channels
    number = next((number for number in range(len(channels)) if number not in files), None)
    if number is not None:
        missing = folder / f"{case}_{number:04d}{description.ending}"
        raise DataError(
            f"{missing} is missing. It is the channel {channels[number]} of {count(len(channels), 'channel')} in "
            f"{description.path}.", [case],
        )  # fmt: skip
    return tuple(files[number] for number in range(len(channels)))


def _listed(description: Description) -> list[CaseFiles]:
    """Return the cases with their files from dataset.json."""
    cases = []
    for case, files in sorted((description.files or {}).items()):
        try:
            paths = [description.root / str(path) for path in (*files["images"], files["label"])]
        except (KeyError, TypeError) as error:
            raise DataError(f"{description.path}: {case} has no images and label.") from error
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise DataError(f"{first_names(missing)} is missing. {description.path} names it.", [case])
        images = _in_order(case, paths[:-1], description)
        cases.append(CaseFiles(case, TRAINING, images, paths[-1]))
    return cases


def _in_order(case: str, images: Sequence[Path], description: Description) -> tuple[Path, ...]:
    one_picture = description.ending.lower() in PICTURES and len(images) == 1
    if len(images) != len(description.channels) and not one_picture:
        raise DataError(
            f"{description.path} names {count(len(images), 'image')} of {case}, but "
            f"{count(len(description.channels), 'channel')}. Name a file for each channel, in their order.", [case],
        )  # fmt: skip
    return tuple(images)
