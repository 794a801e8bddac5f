"""Find the files of cases, or explain what was found instead."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.reading.names import (
    HALVES,
    comparable,
    data_files,
    is_hidden,
    listing,
    mask_key,
    refuse_clashes,
    stem,
    volume_files,
)
from diffmedseg.wording import first_names

_DEPTH = 4  # levels of folders between the root and a case, such as the archive's folder and HGG or LGG

# Names of the cases of known data sets, by the name of the data set here. Errors suggest the right data set.
_KNOWN = {
    "brats": r"BraTS2021_\d{5}",
    "brats2015": r"OTMultiClass(\..+)?",
    "brats2018": r"Brats1[78]_\w+",
    "brats2019": r"BraTS19_\w+",
    "brats2020": r"BraTS20_Training_\d{3}",
    "brats2023": r"BraTS-GLI-\d{5}-\d{3}",
    "msd_brain": r"BRATS_\d{3}(\.nii\.gz)?",
    "lgg": r"TCGA_[A-Z]{2}_[A-Z0-9]{4}_\d{8}",
}

# Downloads that no data set here reads, by names of their files or folders: what they are, and what to do.
_UNREAD = {
    r"VSD\.Brain.*": "These are cases of BraTS 2012 to 2015 as published, with a folder for each .mha file. "
    "The data set brats2015 reads them as DeepMedic prepares them. Copy the .mha files of MR_Flair, MR_T1c and OT into "
    "the case's folder, as Flair_subtrMeanDivStd.mha, T1c_subtrMeanDivStd.mha and OTMultiClass.mha. There is no brain "
    "mask, so set --data.layout.brain_mask null.",
    r"BraTS20_Validation_\d{3}": "BraTS20_Validation_<number> has no segmentation: use the training set, "
    "BraTS20_Training_<number>.",
    r"(?i).+_(t1|t1ce|t1n|t1c|t2|t2w|t2f|flair|seg)_\d+(_w)?\.nii(\.gz)?": "These are 2-D slices exported from BraTS, "
    "in the form of MedSegDiff's own code. This data set reads volumes. Name the folder of the original volumes, and "
    "the data set of their year (brats is 2021).",
}
_NO_NAME = "\0"  # no file has this name
_SOME, _MOST = 100, 2000  # folders to search: within each folder, and in total

_log = logging.getLogger(__name__)


def chosen(what: str, wanted: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Return the wanted names, in order; all names if ``wanted`` is None.

    Raises:
        ValueError: If a name is not available, or is wanted twice.
    """
    names = list(available if wanted is None else wanted)
    if set(names) - set(available) or not names or len(set(names)) < len(names):
        raise ValueError(f"{what} are {names}; expected some of {', '.join(available)}, each at most once.")
    return names


def folders_below(root: Path) -> Iterator[Path]:
    """Yield folders below the root, the nearest first. Hidden and unreadable folders are left out."""
    level = [root] if root.is_dir() else []
    for _ in range(_DEPTH):
        inner: list[Path] = []
        for folder in level:
            try:
                inner += [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
            except PermissionError:
                _log.warning("No permission to read %s: left out.", folder)
        level = sorted(inner)
        yield from level


def folder_beside(folder: Path, name: str) -> Path:
    """Return the folder with a name beside another folder; case does not matter. The folder may not exist."""
    exact = folder.with_name(name)
    alike = (path for path in folder.parent.iterdir() if path.is_dir() and comparable(path.name) == comparable(name))
    return exact if exact.is_dir() else next(alike, exact)


def unique(cases: Sequence[Path]) -> list[Path]:
    """Drop copies of a case. Kaggle's lgg archive, for example, holds the whole tree twice.

    Args:
        cases: Files, or folders of files. Folders without files are left out.

    Returns:
        One case of each name, in the order of names.

    Raises:
        DataError: If two cases of the same name differ.
    """
    by_name: dict[str, list[Path]] = {}
    for case in cases:
        if case.is_file() or data_files(case):
            by_name.setdefault(case.name, []).append(case)
    empty = {case.name for case in cases} - by_name.keys()
    if empty and by_name:
        _log.warning("%d folders of cases have no files: left out: %s.", len(empty), first_names(empty))
    repeated = {name: copies for name, copies in by_name.items() if len(copies) > 1}
    for name, copies in repeated.items():
        if len({_digest(copy) for copy in copies}) > 1:
            places = ", ".join(map(str, copies))
            raise DataError(f"Different cases have the name {name}: {places}. Keep one of them.")
    if repeated:
        _log.warning(
            "%d cases occur more than once; one copy of each is used: %s.", len(repeated), first_names(repeated)
        )
    return [by_name[name][0] for name in sorted(by_name)]


def _digest(case: Path) -> str:
    digest = blake2b()
    for path in [case] if case.is_file() else data_files(case):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def patient_of(case: re.Pattern[str], name: str) -> str:
    """Return the patient in a case's name; the whole name if it contains no patient."""
    match = case.fullmatch(name)
    return match["patient"] if match and "patient" in case.groupindex else name


def with_suffix(folder: Path, pattern: str) -> Path | None:
    """Return the volume with a name; suffix, case and kind of accents do not matter. None without such a file."""
    name = pattern.format(case=folder.name)
    matches = [path for path in volume_files(folder) if comparable(stem(path)) == comparable(name)]
    return min(matches, key=lambda path: stem(path) != name, default=None)


def pair_volumes(images: Sequence[Path], masks: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """Find the mask of each image by its name. Case, kind of accents and endings such as ``_seg`` do not matter.

    Returns:
        Masks by image, for images with a mask; and the masks without an image.

    Raises:
        DataError: If two images have the same name, or an image has several masks; the message names the files.
    """
    refuse_clashes([(stem(path), path) for path in images], "images", "Rename one, or keep one.")
    names = {comparable(stem(path)): path for path in images}
    by_image: dict[Path, list[Path]] = {}
    unpaired = []
    for path in masks:
        image = names.get(comparable(stem(path))) or names.get(comparable(mask_key(path)))
        if image is None:
            unpaired.append(path)
        else:
            by_image.setdefault(image, []).append(path)
    for image, several in by_image.items():
        if len(several) > 1:
            raise DataError(f"{image} has several masks: {first_names(list(map(str, several)))}. Keep one.")
    return {image: mask for image, [mask] in by_image.items()}, unpaired


def no_case(root: Path, case: re.Pattern[str], expected: str, folders: Mapping[str, str] | None = None) -> DataError:
    """Return the error for a folder without a case: what was found, and which data set reads it.

    Args:
        root: The folder that was searched.
        case: Regular expression of the names of cases.
        expected: The expected names in words.
        folders: Names of the folders of files, by setting; None if each case is a folder.
    """
    if not root.is_dir():
        return DataError(f"No case in {root}: expected {expected}; there is no such folder.")
    below = _list_content(root)
    deepest = next((f" ({path.relative_to(root)})" for path in below if path.parent != root and path.is_file()), "")
    content = f"{listing(root)}{deepest}"
    advice = _advice(root, case, below, folders or {})
    return DataError(f"No case in {root}: expected {expected}; there is {content}. {advice}".strip())


def _list_content(root: Path) -> list[Path]:
    """List files and folders below a folder; of a large tree only enough to recognise it."""
    paths: list[Path] = []
    for folder, folders, files in islice(os.walk(root), _MOST):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        paths += [Path(folder, name) for name in (*folders, *sorted(files)) if not is_hidden(name)]
        del folders[_SOME:]
    return paths


def _advice(root: Path, case: re.Pattern[str], below: Sequence[Path], folders: Mapping[str, str]) -> str:
    """Name the data set that reads a folder, if it is known, or another fault."""
    if halves := [path for path in below if path.name.lower().endswith(HALVES)]:
        return f"{halves[0]} is half of a volume in two files. Such volumes are not read: convert it to .nii.gz."
    # A pattern that matches every name, as for the user's own volumes, cannot tell a case from another folder.
    if case.fullmatch(_NO_NAME):
        return _folders_advice(root, below, folders)
    if case.fullmatch(root.name):
        return f"The folder is itself a case: name the folder above it, {root.parent}."
    names = {root.name, *(path.name for path in below)}
    hollow = [path for path in below if case.fullmatch(path.name) and path.is_dir() and not data_files(path)]
    if hollow:
        remedy = _unread({path.name for path in hollow[0].iterdir()})
        remedy = remedy or "Put the files of each case directly into its folder."
        return f"{hollow[0]} has no files, only {listing(hollow[0])}. {remedy}"
    if any(case.fullmatch(name) or case.fullmatch(stem(Path(name))) for name in names):
        return "There are cases at another level: name a folder nearer to them, or the folder above."
    fits = [yaml for yaml, pattern in _KNOWN.items() if any(re.fullmatch(pattern, name) for name in names)]
    return f"This looks like the data set {' or '.join(fits)}." if fits else _unread(names)


def _folders_advice(root: Path, below: Sequence[Path], folders: Mapping[str, str]) -> str:
    """Name the folders that are missing or empty, and folders that may be meant."""
    missing = [
        name
        for name in folders.values()
        if not any(comparable(path.name) == comparable(name) and path.is_dir() for path in below)
    ]
    if root.name in folders.values() and all((root.parent / name).is_dir() for name in folders.values()):
        return f"The folder is itself {root.name}: name the folder with {' and '.join(folders.values())}."
    if not missing:
        return f"{' and '.join(folders.values())} have no volumes (.nii.gz, .nii, .mha, .nrrd)." if folders else ""
    holding = sorted({path.parent.name for path in below if path.parent != root and path in volume_files(path.parent)})
    settings = " and ".join(f"layout.{setting}" for setting in folders)
    meant = f" (such as {first_names(holding)})" if holding else ""
    return (
        f"There is no folder {' and no folder '.join(missing)}: rename the folders of volumes{meant}, or name them by "
        f"{settings}."
    )


def _unread(names: Collection[str]) -> str:
    """Explain known downloads that no data set reads, and what to do; empty for other names."""
    return next(
        (advice for pattern, advice in _UNREAD.items() if any(re.fullmatch(pattern, name) for name in names)), ""
    )
