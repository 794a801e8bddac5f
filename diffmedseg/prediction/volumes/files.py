"""Finding the cases that are to be segmented, and their files."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

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

_DEPTH = 8  # folders between the one that is named and a case
_SHOWN = 6  # files that are named in a message

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumeCase:
    """A case to be segmented.

    Attributes:
        path: A folder with a file or series for each modality, or a file.
        name: What its results are called; the last part keys its noise, as the name of a test case does.
        naming: Tells its files apart.
    """

    path: Path
    name: str
    naming: Naming

    def channels(self) -> list[Path]:
        """Name the file, or the folder of a series, of each channel; one file where it is four-dimensional.

        Raises:
            DataError: If there is none, or more than one.
        """
        channels = self.naming.channels
        if self.path.is_file():
            if len(channels) > 1 and self.naming.volumes is None:
                raise DataError(
                    f"This model takes {', '.join(channels)}, and this is one file: name the folder with a file for "
                    "each, or say by --volumes what the volumes of a four-dimensional file are, in their order"
                )
            return [self.path]
        if len(channels) == 1 and is_dicom(self.path):
            return [self.path]
        found = [self._one(self.naming.entries(self.path, channel), channel) for channel in channels]
        if len(set(found)) < len(found):
            raise DataError(f"one file would serve several modalities: {first_names([one.name for one in found], 6)}")
        return found

    def brain_mask(self) -> Path | None:
        """Name the brain mask; None where there is none, and none is asked for.

        That of a file begins as the file does before it says its modality: masks of several patients may lie beside it.
        """
        folder, wanted = self.path.parent if self.path.is_file() else self.path, self.naming.brain_mask
        masks = volume_files(folder)
        if self.path.is_file():
            before = _before_modality(stem(self.path))
            masks = [path for path in masks if path != self.path and stem(path).startswith(before)]
        if wanted is not None:
            named = [path for path in masks if stem(path) == wanted or fnmatch(stem(path), wanted)]
            return self._one(named, "brain mask")
        found = [path for path in masks if "brainmask" in re.sub("[^a-z]", "", stem(path).lower())]
        return self._one(found, "brain mask") if found else None

    def _one(self, found: Sequence[Path], what: str) -> Path:
        if len(found) == 1:
            return found[0]
        option = "--brain_mask NAME" if what == "brain mask" else f"--modality {what}=NAME"
        if found:
            there = f"{len(found)} could be its {what}: {first_names([path.name for path in found])}"
        else:
            there = f"it has no {what}; there is {listing(self.path if self.path.is_dir() else self.path.parent)}"
        raise DataError(f"{there}. Say which by {option} (a case has a folder of its own)")

    def files(self) -> list[Path]:
        """Name all files that it is read from."""
        parts = [*self.channels(), *([mask] if (mask := self.brain_mask()) else [])]
        return [file for part in parts for file in (find_series(part).files if part.is_dir() else [part])]


def _before_modality(name: str) -> str:
    """Return what stands before the word that says the modality; all where none does."""
    for word in re.finditer("[A-Za-z0-9]+", name):
        if modality(word[0]):
            return name[: word.start()]
    return name


def find_cases(sources: Sequence[str | Path], naming: Naming) -> list[VolumeCase]:
    """Find cases, in the order of their paths; a warning names what is left out.

    Args:
        sources: Files, folders (cases, or folders with cases below them) and patterns of these.
        naming: Tells the files of a case apart.

    Raises:
        DataError: If a source holds no case, or two cases would have results of the same name.
    """
    found: dict[str, VolumeCase] = {}
    left: dict[Path, str] = {}
    for source in sources:
        path = Path(os.path.abspath(expand_home(source)))
        places = [path] if path.exists() else _fitting(path)
        if not places:
            raise DataError(f"{source} is no file, no folder, and a pattern that fits nothing.")
        unknown: list[Path] = []
        cases = [case for place in places for case in _search(place, naming, unknown, named=True)]
        if not cases:
            raise _no_case(path, places, naming, unknown)
        common = Path(os.path.commonpath([place.parent for place in places]))
        below = {one: one.relative_to(path if path.is_dir() and one != path else common) for one in [*cases, *unknown]}
        for case in cases:
            name = below[case].with_name(stem(case)).as_posix()
            found.setdefault(str(case), VolumeCase(case, name, naming))
        left |= {one: below[one].as_posix() for one in unknown}
    if unknown := [path for path in left if str(path) not in found]:
        _log.warning(
            "Left out (%d), for no volume there is called by %s: %s. %s",
            len(unknown),
            " or ".join(naming.channels),
            first_names([left[path] for path in unknown], _SHOWN),
            _advice(unknown, naming),
        )
    cases_found = sorted(found.values(), key=lambda case: case.path)
    by_name: dict[str, list[str]] = {}
    for one in cases_found:
        by_name.setdefault(comparable(one.name), []).append(str(one.path))
    clashes = [" and ".join(paths) for paths in by_name.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{len(clashes)} results would have the same name: {first_names(clashes)}. Predict them into folders of "
            "their own, or name the folder above them."
        )
    return cases_found


def _fitting(pattern: Path) -> list[Path]:
    """List what fits a pattern, but for what is hidden and not named by it."""
    found = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    return [path for path in found if not any(map(is_hidden, set(path.parts) - set(pattern.parts)))]


def _no_case(path: Path, places: Sequence[Path], naming: Naming, left: Sequence[Path]) -> DataError:
    for place in places:
        if place.is_dir() and is_dicom(place):
            find_series(place)  # says so where it is no volume
            return DataError(
                f"This model takes {', '.join(naming.channels)}, and {place} is one DICOM series: name the folder "
                "above it, with a folder for each."
            )
    there = listing(path) if path.is_dir() else first_names([place.name for place in places])
    each = "a folder with a file for each of " if len(naming.channels) > 1 else ""
    return DataError(
        f"No case in {path}: expected {each}{', '.join(naming.channels)} (.nii.gz, .nii, .mha, .nrrd, or a folder "
        f"with a DICOM series); there is {there}. {_advice([path, *left], naming)}".strip()
    )


def _advice(left: Sequence[Path], naming: Naming) -> str:
    """Say what may be done about files and folders that hold no case."""
    files = [file for one in left for file in ([one] if one.is_file() else one.glob("*"))]
    volumes = [file for file in files if file.name.lower().endswith(VOLUMES)]
    advice = []
    held = ((file, count_volumes(file)) for file in volumes[:_SHOWN])
    if several := next(((file, count) for file, count in held if count > 1), None):
        advice.append(
            f"{several[0].name} holds {several[1]} volumes: say what they are, in their order, as by "
            "--volumes flair,t1,t1ce,t2 (that of the Decathlon)."
        )
    elif volumes or any(one.is_dir() and is_dicom(one) for one in files + list(left)):
        advice.append(
            "Volumes, or folders with one DICOM series each, that are called otherwise are named by --modality "
            f"{naming.channels[0]}=NAME."
        )
    if halves := [file for file in files if file.name.lower().endswith(HALVES)]:
        advice.append(f"{halves[0].name} is half of a volume in two files, which is not read: convert it to .nii.gz.")
    if any(file.suffix.lower() in PICTURES for file in files):
        advice.append(
            "This model takes volumes, not pictures; slices saved as pictures have no geometry: convert them to NIfTI."
        )
    return " ".join(advice)


def _search(
    path: Path, naming: Naming, left: list[Path], named: bool = False, within: bool = False, depth: int = _DEPTH
) -> Iterator[Path]:
    """Yield the cases at or below a path; what the user named need not be called by a modality.

    Args:
        path: File or folder.
        naming: Tells the files of a case apart.
        left: Gets what may have been meant, but is not called by a modality.
        named: Whether the user named it.
        within: Whether it lies in a case, which may hold anything.
        depth: Folders to go down.
    """
    if path.is_file():
        if path.name.lower().endswith(VOLUMES):
            yield path
        elif not is_hidden(path.name):
            left.append(path)
        return
    try:
        if (path / PREDICTIONS).is_file():
            return  # results of an earlier call
        series_here = named and is_dicom(path)
        if series_here and len(naming.channels) == 1 and naming.volumes is None:
            yield path
            return
        among = naming.cases_among(path)
        here = among or ([path] if naming.is_case(path) else [])
        entries = sorted(one for one in path.iterdir() if not is_hidden(one.name))
        below = [one for one in entries if one.is_dir()]
        series = [one for one in below if one not in here and is_dicom(one)]
        volumes = [one for one in entries if one not in below and one.name.lower().endswith(VOLUMES)]
        if among:
            others = [one for one in (*volumes, *series) if one not in among]
            left += [one for one in others if naming.says_nothing(stem(one))]
        elif not here:
            left += [*volumes, *series, *([path] if series_here else [])]
            if entries and not (volumes or below or within):
                left.append(path)
    except PermissionError:
        _log.warning("%s may not be read, and is left out.", path)
        return
    yield from here
    if depth:
        for folder in below:
            if folder not in here and folder not in series:
                yield from _search(folder, naming, left, within=within or bool(here), depth=depth - 1)
