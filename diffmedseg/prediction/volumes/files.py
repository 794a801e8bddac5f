"""Finding the cases to segment, and their files."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from diffmedseg.data.nnunet.files import find_images
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.prediction.volumes.naming import Naming, modality
from diffmedseg.reading.dicom import find_series, is_dicom
from diffmedseg.reading.names import (
    HALVES,
    PICTURES,
    PREDICTIONS,
    VOLUMES,
    comparable,
    is_hidden,
    listing,
    stem,
    volume_files,
)
from diffmedseg.reading.volumes import count_volumes
from diffmedseg.wording import first_names

_DEPTH = 8  # levels of folders that are searched below a named folder
_SHOWN = 6  # highest number of files in a message

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumeCase:
    """A case to segment.

    Attributes:
        path: A folder with a file or series for each modality, or a file.
        name: Name of the results. Its last part is the key of the noise, as the name of a test case is.
        naming: Assigns the files of the case to channels.
        images: The file of each channel, if they are known without their names.
    """

    path: Path
    name: str
    naming: Naming
    images: tuple[Path, ...] = ()

    def channels(self) -> list[Path]:
        """Return the file or the series' folder of each channel; the only file if the case is a single file.

        Raises:
            DataError: If a channel has no file, or more than one, or two channels have the same file.
        """
        channels = self.naming.channels
        if self.images:
            return list(self.images)
        if self.path.is_file():
            if len(channels) > 1 and self.naming.volumes is None:
                raise DataError(
                    f"it is one file, and this model takes {', '.join(channels)}. Name a folder with a file for each. "
                    "For a file of four dimensions, name its volumes in order by --volumes"
                )
            return [self.path]
        if len(channels) == 1 and is_dicom(self.path):
            return [self.path]
        files = [self._single_file(self.naming.entries(self.path, channel), channel) for channel in channels]
        if len(set(files)) < len(files):
            raise DataError(
                f"a file belongs to several modalities: {first_names([path.name for path in files], 6)}. Name the file "
                "of each by --modality CHANNEL=NAME"
            )
        return files

    def brain_mask(self) -> Path | None:
        """Return the file of the brain mask; None if there is none and the user did not name one.

        The folder of a single file may hold masks of several patients. The name of the file's mask begins with the part
        of the file's name before the modality.

        Raises:
            DataError: If several files may be the mask, or there is no file of the name that the user gave.
        """
        if self.images:
            return None  # nnU-Net has no brain masks
        folder, wanted_name = self.path.parent if self.path.is_file() else self.path, self.naming.brain_mask
        masks = volume_files(folder)
        if self.path.is_file():
            prefix = _before_modality(stem(self.path))
            masks = [path for path in masks if path != self.path and stem(path).startswith(prefix)]
        if wanted_name is not None:
            matches = [path for path in masks if stem(path) == wanted_name or fnmatch(stem(path), wanted_name)]
            return self._single_file(matches, "brain mask")
        brain_masks = [path for path in masks if "brainmask" in re.sub("[^a-z]", "", stem(path).lower())]
        return self._single_file(brain_masks, "brain mask") if brain_masks else None

    def _single_file(self, files: Sequence[Path], what: str) -> Path:
        if len(files) == 1:
            return files[0]
        option = "--brain_mask NAME" if what == "brain mask" else f"--modality {what}=NAME"
        if files:
            problem = f"{len(files)} files may be its {what}: {first_names([path.name for path in files])}"
        else:
            problem = (
                f"it has no {what}; its folder holds {listing(self.path if self.path.is_dir() else self.path.parent)}"
            )
        raise DataError(f"{problem}. Name its file by {option}; each case needs its own folder")

    def files(self) -> list[Path]:
        """Return all files of the case: of its channels, and of its brain mask."""
        parts = [*self.channels(), *([mask] if (mask := self.brain_mask()) else [])]
        return [file for part in parts for file in (find_series(part).files if part.is_dir() else [part])]


def _before_modality(name: str) -> str:
    """Return the part of a name before the modality; the whole name if it has no modality."""
    for word in re.finditer("[A-Za-z0-9]+", name):
        if modality(word[0]):
            return name[: word.start()]
    return name


def find_cases(sources: Sequence[str | Path], naming: Naming) -> list[VolumeCase]:
    """Find cases, in the order of their paths. A warning names files and folders that are left out.

    Args:
        sources: Files, folders (cases, or folders with cases below them) and patterns of files and folders.
        naming: Assigns the files of a case to channels.

    Raises:
        DataError: If a source holds no case, or the results of two cases would have the same name.
    """
    cases_by_path: dict[str, VolumeCase] = {}
    left_out: dict[Path, str] = {}
    for source in sources:
        path = Path(os.path.abspath(expand_home(source)))
        matches = [path] if path.exists() else _matching_paths(path)
        if not matches:
            raise DataError(f"There is no file or folder {source}, and nothing matches it as a pattern.")
        listed = [case for match in matches for case in _nnunet_cases(match, naming)]
        cases_by_path |= {str(case.path): case for case in listed}
        matches = [match for match in matches if match not in {case.path.parent for case in listed}]
        if not matches:
            continue
        unknown: list[Path] = []
        cases = [case for match in matches for case in _search(match, naming, unknown, named=True)]
        if not cases:
            raise _no_case_error(path, matches, naming, unknown)
        common = Path(os.path.commonpath([match.parent for match in matches]))
        relative = {
            entry: entry.relative_to(path if path.is_dir() and entry != path else common)
            for entry in [*cases, *unknown]
        }
        for case in cases:
            name = relative[case].with_name(stem(case)).as_posix()
            cases_by_path.setdefault(str(case), VolumeCase(case, name, naming))
        left_out |= {entry: relative[entry].as_posix() for entry in unknown}
    if unknown := [path for path in left_out if str(path) not in cases_by_path]:
        _log.warning(
            "Left out (%d), because no volume has %s in its name: %s. %s",
            len(unknown),
            " or ".join(naming.channels),
            first_names([left_out[path] for path in unknown], _SHOWN),
            _advice(unknown, naming),
        )
    all_cases = sorted(cases_by_path.values(), key=lambda case: case.path)
    by_name: dict[str, list[str]] = {}
    for volume_case in all_cases:
        by_name.setdefault(comparable(volume_case.name), []).append(str(volume_case.path))
    clashes = [" and ".join(paths) for paths in by_name.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{len(clashes)} results would have the same name: {first_names(clashes)}. Predict into separate "
            "folders, or name the folder above them."
        )
    return all_cases


def _nnunet_cases(folder: Path, naming: Naming) -> list[VolumeCase]:
    """Return the cases of imagesTr or imagesTs of a raw data set of nnU-Net, if it has the channels of the model.

    Names of files that the user gives, and other folders, are left to the search by names.

    Raises:
        DataError: If a file of a case is missing; the message names the file.
    """
    if naming.names or naming.volumes or naming.brain_mask or (found := find_images(folder)) is None:
        return []
    channels, cases = found
    if not set(naming.channels) <= set(channels) or any(len(files) < len(channels) for files in cases.values()):
        return []
    order = [channels.index(name) for name in naming.channels]
    return [
        VolumeCase(files[order[0]], name, naming, tuple(files[number] for number in order))
        for name, files in cases.items()
    ]


def _matching_paths(pattern: Path) -> list[Path]:
    """Return the paths that match a pattern, without hidden paths that the pattern does not name."""
    matches = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    return [path for path in matches if not any(map(is_hidden, set(path.parts) - set(pattern.parts)))]


def _no_case_error(path: Path, matches: Sequence[Path], naming: Naming, left_out: Sequence[Path]) -> DataError:
    for match in matches:
        if match.is_dir() and is_dicom(match):
            find_series(match)  # raises an error of its own if the series is no volume
            return DataError(
                f"{match} is one DICOM series, and this model takes {', '.join(naming.channels)}. Name the folder "
                "above it, with one folder for each series."
            )
    content = listing(path) if path.is_dir() else first_names([match.name for match in matches])
    folder_text = "a folder with a file for each of " if len(naming.channels) > 1 else ""
    return DataError(
        f"No case in {path}: it holds {content}. Expected {folder_text}{', '.join(naming.channels)} (.nii.gz, .nii, "
        f".mha, .nrrd, or a folder with a DICOM series). {_advice([path, *left_out], naming)}".strip()
    )


def _advice(left_out: Sequence[Path], naming: Naming) -> str:
    """Return advice about files and folders that hold no case."""
    files = [file for entry in left_out for file in ([entry] if entry.is_file() else entry.glob("*"))]
    volumes = [file for file in files if file.name.lower().endswith(VOLUMES)]
    advice = []
    counts = ((file, count_volumes(file)) for file in volumes[:_SHOWN])
    if several := next(((file, count) for file, count in counts if count > 1), None):
        advice.append(
            f"{several[0].name} holds {several[1]} volumes. Name them in order, such as by "
            "--volumes flair,t1,t1ce,t2 for files of the Decathlon."
        )
    elif volumes or any(entry.is_dir() and is_dicom(entry) for entry in files + list(left_out)):
        advice.append(
            "If volumes, or folders with one DICOM series each, have other names, name them by --modality "
            f"{naming.channels[0]}=NAME."
        )
    if halves := [file for file in files if file.name.lower().endswith(HALVES)]:
        advice.append(f"{halves[0].name} is half of a volume in two files. Convert it to .nii.gz.")
    if any(file.suffix.lower() in PICTURES for file in files):
        advice.append(
            "This model takes volumes, not pictures. Pictures of slices do not have positions: convert them to NIfTI."
        )
    return " ".join(advice)


def _search(
    path: Path, naming: Naming, left_out: list[Path], named: bool = False, within: bool = False, depth: int = _DEPTH
) -> Iterator[Path]:
    """Yield the cases at or below a path. A path that the user named needs no modality in its name.

    Args:
        path: File or folder.
        naming: Assigns the files of a case to channels.
        left_out: List to which files and folders are added that may be inputs, but have no modality in their names.
        named: Whether the user named the path.
        within: Whether the path is in a case. The folders of a case may hold other files.
        depth: Levels of folders to search below the path.
    """
    if path.is_file():
        if path.name.lower().endswith(VOLUMES):
            yield path
        elif not is_hidden(path.name):
            left_out.append(path)
        return
    try:
        if (path / PREDICTIONS).is_file():
            return  # results of an earlier call
        is_series = named and is_dicom(path)
        if is_series and len(naming.channels) == 1 and naming.volumes is None:
            yield path
            return
        file_cases = naming.cases_among(path)
        cases = file_cases or ([path] if naming.is_case(path) else [])
        entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry.name))
        subfolders = [entry for entry in entries if entry.is_dir()]
        series = [entry for entry in subfolders if entry not in cases and is_dicom(entry)]
        volumes = [entry for entry in entries if entry not in subfolders and entry.name.lower().endswith(VOLUMES)]
        if file_cases:
            other_entries = [entry for entry in (*volumes, *series) if entry not in file_cases]
            left_out += [entry for entry in other_entries if naming.says_nothing(stem(entry))]
        elif not cases:
            left_out += [*volumes, *series, *([path] if is_series else [])]
            if entries and not (volumes or subfolders or within):
                left_out.append(path)
    except PermissionError:
        _log.warning("%s is left out, because it cannot be read: change its permissions.", path)
        return
    yield from cases
    if depth:
        for folder in subfolders:
            if folder not in cases and folder not in series:
                yield from _search(folder, naming, left_out, within=within or bool(cases), depth=depth - 1)
