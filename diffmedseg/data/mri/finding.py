"""Finding the files of cases, and saying what was found instead."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffmedseg.data.files import first_names
from diffmedseg.data.store import DataError

_SUFFIXES = (".nii.gz", ".nii", ".mha")
_DEPTH = 4  # folders between the root and a case: an archive's own, HGG or LGG, ...

# What the cases of the known data sets are called, by the yaml that reads them: to name the right one.
_KNOWN = {
    "brats": r"BraTS2021_\d{5}",
    "brats2015": r"brats_2013_pat\d+_\d+",
    "brats2018": r"Brats1[78]_\w+",
    "brats2019": r"BraTS19_\w+",
    "brats2020": r"BraTS20_(Training|Validation)_\d{3}",
    "brats2023": r"BraTS-[A-Z]+-\d{5}-\d{3}",
    "msd_brain": r"BRATS_\d{3}(\.nii\.gz)?",
    "lgg": r"TCGA_[A-Z]{2}_[A-Z0-9]{4}_\d{8}",
}

_log = logging.getLogger(__name__)


def chosen(modalities: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Return the modalities that are read, in order."""
    chosen = list(available if modalities is None else modalities)
    unknown = sorted(set(chosen) - set(available))
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"modalities are {chosen}; there are {', '.join(available)}, each at most once.")
    return chosen


def folders_below(root: Path) -> Iterator[Path]:
    """Yield folders below the root, nearer ones first at each level, without hidden ones."""
    level = [root] if root.is_dir() else []
    for _ in range(_DEPTH):
        level = sorted(p for folder in level for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        yield from level


def unique_cases(folders: Sequence[Path]) -> list[Path]:
    """Drop copies of a case; Kaggle's lgg archive holds the whole tree twice.

    Raises:
        DataError: If two folders of the same name hold different files.
    """
    by_name: dict[str, list[Path]] = {}
    for folder in folders:
        by_name.setdefault(folder.name, []).append(folder)
    for name, copies in by_name.items():
        contents = {tuple(sorted((p.name, p.stat().st_size) for p in copy.iterdir() if p.is_file())) for copy in copies}
        if len(contents) > 1:
            raise DataError(
                f"There are different cases called {name}: {', '.join(map(str, copies))}. Keep one of them."
            )
    repeated = [name for name, copies in by_name.items() if len(copies) > 1]
    if repeated:
        _log.warning(
            "%d cases are there more than once; one copy of each is used: %s.", len(repeated), first_names(repeated)
        )
    return [by_name[name][0] for name in sorted(by_name)]


def patient_of(case: re.Pattern[str], name: str) -> str:
    """Return the patient that a case's name holds, else the name."""
    match = case.fullmatch(name)
    return match["patient"] if match and "patient" in case.groupindex else name


def stem(path: Path) -> str:
    """Return a volume's name without its suffix."""
    return next(path.name.removesuffix(suffix) for suffix in (*_SUFFIXES, "") if path.name.endswith(suffix))


def volume_files(folder: Path) -> list[Path]:
    """List volumes; macOS leaves files called ._ beside them in archives."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(_SUFFIXES) and not p.name.startswith("."))


def with_suffix(folder: Path, pattern: str) -> Path | None:
    """Return the volume of a name, whatever its suffix; None where there is none."""
    name = pattern.format(case=folder.name)
    return next((path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def named_as_modality(path: Path) -> bool:
    """Whether a file is named as a modality in any of the years."""
    return bool(re.search(r"[_-](t1|t1ce|t1c|t1n|t2|t2w|t2f|flair)$", stem(path), re.IGNORECASE))


def listing(folder: Path) -> str:
    """Name the first files and folders in a folder."""
    return first_names([path.name for path in folder.iterdir() if not path.name.startswith(".")], 6) or "nothing"


def advice(place: Path) -> str:
    """Name the yaml that reads what lies in a place, where it is known."""
    paths = [place, *place.rglob("*")] if place.is_dir() else []
    fits = [yaml for yaml, name in _KNOWN.items() if any(re.fullmatch(name, path.name) for path in paths[:20_000])]
    return f"This looks like DATA={' or '.join(fits)}." if fits else ""


def no_case(root: Path, expected: str) -> DataError:
    """Say that there is no case, what there is, and which yaml reads it."""
    there = listing(root) if root.is_dir() else "no such folder"
    return DataError(f"No case in {root}: expected {expected}; there is {there}. {advice(root)}".strip())
