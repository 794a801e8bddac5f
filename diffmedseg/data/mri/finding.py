"""Finding the files of cases, and saying what was found instead."""

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

_DEPTH = 4  # folders between the root and a case: an archive's own, HGG or LGG, ...

# What the cases of the known data sets are called, by the yaml that reads them: to name the right one.
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

# What no yaml reads, by what its files or folders are called: what it is, and what to do.
_UNREAD = {
    r"VSD\.Brain.*": "These are cases of BraTS 2012 to 2015 as published, with a folder for each .mha file. "
    "The data set brats2015 reads them as DeepMedic prepares them: copy the .mha files of MR_Flair, MR_T1c and OT into "
    "the case's folder, as Flair_subtrMeanDivStd.mha, T1c_subtrMeanDivStd.mha and OTMultiClass.mha; as there is no "
    "brain mask, set --data.layout.brain_mask null.",
    r"BraTS20_Validation_\d{3}": "BraTS20_Validation_<number> has no segmentation: use the training set, "
    "BraTS20_Training_<number>.",
    r"(?i).+_(t1|t1ce|t1n|t1c|t2|t2w|t2f|flair|seg)_\d+(_w)?\.nii(\.gz)?": "These are 2-D slices exported from BraTS, "
    "as MedSegDiff's own code takes them. Volumes are read here: name the folder of those that the slices were made "
    "from, with the data set of their year (brats is 2021).",
}
_NO_NAME = "\0"  # what nothing is called
_SOME, _MOST = 100, 2000  # folders that are looked into: of each folder, and in all

_log = logging.getLogger(__name__)


def chosen(what: str, wanted: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Return what is wanted, in order; everything where nothing is said.

    Raises:
        ValueError: If some is not available, or wanted twice.
    """
    names = list(available if wanted is None else wanted)
    if set(names) - set(available) or not names or len(set(names)) < len(names):
        raise ValueError(f"{what} are {names}; there are {', '.join(available)}, each at most once.")
    return names


def folders_below(root: Path) -> Iterator[Path]:
    """Yield folders below the root, nearer ones first, without hidden ones and those that may not be read."""
    level = [root] if root.is_dir() else []
    for _ in range(_DEPTH):
        found = []
        for folder in level:
            try:
                found += [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
            except PermissionError:
                _log.warning("%s may not be read, and is left out.", folder)
        level = sorted(found)
        yield from level


def folder_beside(folder: Path, name: str) -> Path:
    """Return the folder of a name beside another, whatever its case; one that is not there where there is none."""
    exact = folder.with_name(name)
    alike = (path for path in folder.parent.iterdir() if path.is_dir() and comparable(path.name) == comparable(name))
    return exact if exact.is_dir() else next(alike, exact)


def unique(cases: Sequence[Path]) -> list[Path]:
    """Drop copies of a case; Kaggle's lgg archive holds the whole tree twice, and some unpack a folder into its like.

    Args:
        cases: Files, or folders of files; folders without files do not count.

    Returns:
        One of each name, in their order.

    Raises:
        DataError: If two of the same name differ.
    """
    by_name: dict[str, list[Path]] = {}
    for case in cases:
        if case.is_file() or data_files(case):
            by_name.setdefault(case.name, []).append(case)
    empty = {case.name for case in cases} - by_name.keys()
    if empty and by_name:
        _log.warning("%d folders of cases hold no files, and are left out: %s.", len(empty), first_names(empty))
    repeated = {name: copies for name, copies in by_name.items() if len(copies) > 1}
    for name, copies in repeated.items():
        if len({_digest(copy) for copy in copies}) > 1:
            places = ", ".join(map(str, copies))
            raise DataError(f"There are different cases called {name}: {places}. Keep one of them.")
    if repeated:
        _log.warning(
            "%d cases are there more than once; one of each is used: %s.", len(repeated), first_names(repeated)
        )
    return [by_name[name][0] for name in sorted(by_name)]


def _digest(case: Path) -> str:
    digest = blake2b()
    for path in [case] if case.is_file() else data_files(case):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def patient_of(case: re.Pattern[str], name: str) -> str:
    """Return the patient that a case's name holds, else the name."""
    match = case.fullmatch(name)
    return match["patient"] if match and "patient" in case.groupindex else name


def with_suffix(folder: Path, pattern: str) -> Path | None:
    """Return the volume of a name, whatever its suffix, case and kind of accents; None where there is none."""
    name = pattern.format(case=folder.name)
    named = [path for path in volume_files(folder) if comparable(stem(path)) == comparable(name)]
    return min(named, key=lambda path: stem(path) != name, default=None)


def pair_volumes(images: Sequence[Path], masks: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """Give each image its mask: that of its name, whatever its case and kind of accents, or with an ending as ``_seg``.

    Returns:
        Masks by image, where there is one, and the masks without an image.

    Raises:
        DataError: If two images have the same name, or an image has several masks; names the files.
    """
    refuse_clashes([(stem(path), path) for path in images], "images", "Rename one, or keep one.")
    names = {comparable(stem(path)): path for path in images}
    found: dict[Path, list[Path]] = {}
    alone = []
    for path in masks:
        image = names.get(comparable(stem(path))) or names.get(comparable(mask_key(path)))
        if image is None:
            alone.append(path)
        else:
            found.setdefault(image, []).append(path)
    for image, several in found.items():
        if len(several) > 1:
            raise DataError(f"{image} has several masks: {first_names(list(map(str, several)))}. Keep one.")
    return {image: mask for image, [mask] in found.items()}, alone


def no_case(root: Path, case: re.Pattern[str], expected: str, folders: Mapping[str, str] | None = None) -> DataError:
    """Say that there is no case, what there is, and which yaml reads it.

    Args:
        root: Where cases were looked for.
        case: What they should be called.
        expected: The same in words.
        folders: By setting, what the folders are called that cases lie in; None where each case is a folder.
    """
    if not root.is_dir():
        return DataError(f"No case in {root}: expected {expected}; there is no such folder.")
    below = _below(root)
    deepest = next((f" ({path.relative_to(root)})" for path in below if path.parent != root and path.is_file()), "")
    there = f"{listing(root)}{deepest}"
    return DataError(
        f"No case in {root}: expected {expected}; there is {there}. {_advice(root, case, below, folders or {})}".strip()
    )


def _below(root: Path) -> list[Path]:
    """List what lies below a folder; in a large tree enough to tell what it is."""
    found = []
    for folder, folders, files in islice(os.walk(root), _MOST):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [Path(folder, name) for name in (*folders, *sorted(files)) if not is_hidden(name)]
        del folders[_SOME:]
    return found


def _advice(root: Path, case: re.Pattern[str], below: Sequence[Path], folders: Mapping[str, str]) -> str:
    """Name the yaml that reads what lies in a folder, where it is known, or what else is wrong."""
    if halves := [path for path in below if path.name.lower().endswith(HALVES)]:
        return f"{halves[0]} is half of a volume in two files, which is not read: convert it to .nii.gz."
    # A pattern that fits every name, as that of one's own volumes does, tells no case from another folder.
    if case.fullmatch(_NO_NAME):
        return _folders_advice(root, below, folders)
    if case.fullmatch(root.name):
        return f"It is a case itself: name the folder that holds it, {root.parent}."
    names = {root.name, *(path.name for path in below)}
    hollow = [path for path in below if case.fullmatch(path.name) and path.is_dir() and not data_files(path)]
    if hollow:
        remedy = _unread({path.name for path in hollow[0].iterdir()})
        remedy = remedy or "Put the files of each case directly into its folder."
        return f"{hollow[0]} holds no files, only {listing(hollow[0])}. {remedy}"
    if any(case.fullmatch(name) or case.fullmatch(stem(Path(name))) for name in names):
        return "There are some elsewhere in it: name a folder nearer to them, or the one above."
    fits = [yaml for yaml, known in _KNOWN.items() if any(re.fullmatch(known, name) for name in names)]
    return f"This looks like the data set {' or '.join(fits)}." if fits else _unread(names)


def _folders_advice(root: Path, below: Sequence[Path], folders: Mapping[str, str]) -> str:
    """Say which folders are missing or empty, and which may be meant."""
    missing = [
        name
        for name in folders.values()
        if not any(comparable(path.name) == comparable(name) and path.is_dir() for path in below)
    ]
    if root.name in folders.values() and all((root.parent / name).is_dir() for name in folders.values()):
        return f"It is the folder {root.name} itself: name the one that holds {' and '.join(folders.values())}."
    if not missing:
        return f"{' and '.join(folders.values())} hold no volumes (.nii.gz, .nii, .mha, .nrrd)." if folders else ""
    holding = sorted({path.parent.name for path in below if path.parent != root and path in volume_files(path.parent)})
    settings = " and ".join(f"layout.{setting}" for setting in folders)
    meant = f" (such as {first_names(holding)})" if holding else ""
    return (
        f"There is no folder {' and no folder '.join(missing)}: rename the folders of volumes{meant}, or name them by "
        f"{settings}."
    )


def _unread(names: Collection[str]) -> str:
    """Say what files or folders of these names are and what to do, where no yaml reads them but it is known."""
    return next((what for known, what in _UNREAD.items() if any(re.fullmatch(known, name) for name in names)), "")
