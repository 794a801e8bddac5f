"""Finding the cases that are to be segmented, and telling their files apart."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from diffmedseg.data.files import first_names
from diffmedseg.data.mri.finding import SUFFIXES, listing, stem, volume_files
from diffmedseg.data.store import DataError
from diffmedseg.prediction.volumes.dicom import is_dicom, series_files

_DEPTH = 4  # folders between the one that is named and a case

# What the modalities are called in the names of files, beside their own names: BraTS of all years, MSD and BIDS.
_ALIASES = {
    "t1": ("t1n", "t1w"),
    "t1ce": ("t1c", "t1gd", "t1post", "cet1w"),
    "t2": ("t2w",),
    "flair": ("t2f", "t2flair"),
}


@dataclass(frozen=True)
class Naming:
    """How the files of a case are told apart.

    A file (or a folder with a DICOM series) is that of a channel if a word of its name is the channel's, such as
    ``flair`` in ``sub-01_FLAIR.nii.gz``, or another common word for it.

    Attributes:
        channels: The model's channels, in order.
        names: By channel, what its file (without suffix) or folder is called instead; wildcards are allowed.
        volumes: What the volumes of four-dimensional files are, in their order.
        brain_mask: What the brain mask is called; None takes a file with ``brainmask`` in its name where there is one.
    """

    channels: tuple[str, ...]
    names: Mapping[str, str]
    volumes: tuple[str, ...] | None = None
    brain_mask: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that the model knows nothing of."""
        unknown = [name for name in self.names if name not in self.channels]
        missing = [name for name in self.channels if self.volumes and name not in self.volumes]
        if unknown:
            raise DataError(f"This model takes {', '.join(self.channels)}; there is no {unknown[0]}.")
        if missing:
            volumes, takes = ", ".join(self.volumes or ()), ", ".join(self.channels)
            raise DataError(f"This model takes {takes}; the volumes {volumes} lack {', '.join(missing)}.")

    def entries(self, folder: Path, channel: str) -> list[Path]:
        """List what may be a channel's file or series, in a folder."""
        wanted = self.names.get(channel)
        words = {channel.lower(), *_ALIASES.get(channel, ())}
        return [
            path
            for path in _entries(folder)
            if (fnmatch(stem(path), wanted) if wanted else words & set(re.split("[^a-z0-9]+", stem(path).lower())))
        ]

    def is_case(self, folder: Path) -> bool:
        """Whether a folder holds something of a case."""
        alone = len(self.channels) == 1 and self.volumes is None
        return (alone and is_dicom(folder)) or any(self.entries(folder, channel) for channel in self.channels)

    def cases_among(self, folder: Path) -> list[Path]:
        """List the files (or series) in a folder that are each a case: all their channels lie in them."""
        if self.volumes is not None:
            return volume_files(folder)
        found = self.entries(folder, self.channels[0]) if len(self.channels) == 1 else []
        return found if len(found) > 1 else []


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
        return [self._one(self.naming.entries(self.path, channel), channel) for channel in channels]

    def brain_mask(self) -> Path | None:
        """Name the brain mask; None where there is none, and none is asked for."""
        folder, wanted = self.path.parent if self.path.is_file() else self.path, self.naming.brain_mask
        if wanted is not None:
            return self._one([path for path in volume_files(folder) if fnmatch(stem(path), wanted)], "brain mask")
        if self.path.is_file():
            return None
        found = [path for path in volume_files(folder) if "brainmask" in re.sub("[^a-z]", "", stem(path).lower())]
        return self._one(found, "brain mask") if found else None

    def _one(self, found: Sequence[Path], what: str) -> Path:
        if len(found) == 1:
            return found[0]
        option = "--brain_mask NAME" if what == "brain mask" else f"--modality {what}=NAME"
        there = (
            f"{len(found)} could be its {what}: {first_names([path.name for path in found])}"
            if found
            else (f"it has no {what}; there is {listing(self.path if self.path.is_dir() else self.path.parent)}")
        )
        raise DataError(f"{there}. Say which by {option} (a case has a folder of its own)")

    def files(self) -> list[Path]:
        """Name all files that it is read from."""
        parts = [*self.channels(), *([mask] if (mask := self.brain_mask()) else [])]
        return [file for part in parts for file in (series_files(part) if part.is_dir() else [part])]


def _entries(folder: Path) -> list[Path]:
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [*volume_files(folder), *(path for path in below if is_dicom(path))]


def find_cases(sources: Sequence[str | Path], naming: Naming) -> list[VolumeCase]:
    """Find cases, in the order of their paths.

    Args:
        sources: Files, folders (cases, or folders with cases at any level) and patterns of these.
        naming: Tells the files of a case apart.

    Raises:
        DataError: If a source holds no case, or two cases would have results of the same name.
    """
    found: dict[Path, VolumeCase] = {}
    for source in sources:
        path = Path(os.path.abspath(Path(source).expanduser()))
        places = [path] if path.exists() else [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]
        if not places:
            raise DataError(f"{source} is no file, no folder, and a pattern that fits nothing.")
        cases = [case for place in places for case in _search(place, naming)]
        if not cases:
            raise _no_case(path, places, naming)
        common = Path(os.path.commonpath([place.parent for place in places]))
        for case in cases:
            relative = case.relative_to(path if path.is_dir() and case != path else common)
            name = relative.with_name(stem(relative)).as_posix()
            found.setdefault(case.resolve(), VolumeCase(case, name, naming))
    cases_found = sorted(found.values(), key=lambda case: case.path)
    by_name: dict[str, list[str]] = {}
    for one in cases_found:
        by_name.setdefault(one.name.casefold(), []).append(str(one.path))
    clashes = [" and ".join(paths) for paths in by_name.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{len(clashes)} results would have the same name: {first_names(clashes)}. Predict them into folders of "
            "their own."
        )
    return cases_found


def _no_case(path: Path, places: Sequence[Path], naming: Naming) -> DataError:
    there = listing(path) if path.is_dir() else first_names([place.name for place in places])
    if any(place.suffix.lower() in {".tif", ".tiff", ".png", ".jpg"} for place in (path, *path.glob("*"))):
        hint = "Slices saved as pictures have no geometry: convert them to NIfTI."
    else:
        hint = f"Name volumes that are called otherwise by --modality {naming.channels[0]}=NAME."
    each = "a folder with a file for each of " if len(naming.channels) > 1 else ""
    return DataError(
        f"No case in {path}: expected {each}{', '.join(naming.channels)} (.nii.gz, .nii, .mha, or a folder with a "
        f"DICOM series); there is {there}. {hint}"
    )


def _search(path: Path, naming: Naming, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the cases at or below a path."""
    if path.is_file():
        if path.name.lower().endswith(SUFFIXES):
            yield path
    elif many := naming.cases_among(path):
        yield from many
    elif naming.is_case(path):
        yield path
    elif depth:
        for folder in sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")):
            yield from _search(folder, naming, depth - 1)
