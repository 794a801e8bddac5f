"""Splits by patient, drawn from a seed or read from a file."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
import yaml

from diffmedseg.atomic import write_whole
from diffmedseg.errors import DataError
from diffmedseg.files import read_json, read_yaml
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.reading.names import composed, files_below
from diffmedseg.wording import count, first_names, plain_pattern

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


class Case(Protocol):
    """A case and its patient."""

    @property
    def id(self) -> str: ...  # noqa: D102

    @property
    def patient(self) -> str: ...  # noqa: D102


def published_splits(
    cases: Sequence[Case],
    patterns: Mapping[str, str],
    val_fraction: float,
    seed: int,
    lists: Mapping[str, Collection[str]] | None = None,
) -> dict[str, list[str]]:
    """Split cases as a publication did. If it has no ``val``, some of its training patients become ``val``.

    Args:
        cases: All cases; cases that match no pattern are left out.
        patterns: Regular expression of the case ids of each split.
        val_fraction: Fraction of the training patients that become ``val`` if there is no pattern for ``val``.
        seed: Seed of the choice of these patients.
        lists: Names of the cases of each split. A case belongs to a split if its id matches the pattern and the list
            has the group ``listed`` of the match. A pattern without such a group needs no list.

    Raises:
        DataError: If training or test set is empty, a patient is in both, or a list names a missing case.
    """
    groups = {name: _members(cases, pattern, name, (lists or {}).get(name)) for name, pattern in patterns.items()}
    for name in ("train", "test"):
        if not groups.get(name):
            raise DataError(
                f"None of the {len(cases)} cases belongs to the published {name} set, with names such as "
                f"{plain_pattern(patterns.get(name, ''))}. Download the set, or split the available cases into folds: "
                "--data.split_by folds."
            )
    patients = {name: {case.patient for case in group} for name, group in groups.items()}
    shared = patients["test"] & (patients["train"] | patients.get("val", set()))
    if shared:
        raise DataError(
            f"The published test set shares {count(len(shared), 'patient')} with its training or validation set: "
            f"{first_names(shared)}. Use --data.split_by folds."
        )
    splits = {name: [case.id for case in group] for name, group in groups.items()}
    splits |= {} if "val" in groups else hold_out(groups["train"], val_fraction, seed)
    return {name: splits[name] for name in SPLITS}


def hold_out(cases: Sequence[Case], val_fraction: float, seed: int) -> dict[str, list[str]]:
    """Split cases by patient into ``train`` and ``val``. If ``val`` would be empty, it is the training set itself.

    Args:
        cases: The cases to split.
        val_fraction: Fraction of the patients in ``val``, rounded.
        seed: Seed of the choice of these patients.
    """
    order = sorted({case.patient for case in cases})
    positions = torch.randperm(len(order), generator=keyed_generator(seed, "patients")).tolist()
    held_out = {order[i] for i in positions[: round(val_fraction * len(order))]}
    train = [case.id for case in cases if case.patient not in held_out]
    return {"train": train, "val": [case.id for case in cases if case.patient in held_out] or train}


def _members(cases: Sequence[Case], pattern: str, split: str, listed: Collection[str] | None) -> list[Case]:
    """Return the cases of a split."""
    if listed is None and "listed" in re.compile(pattern).groupindex:
        raise DataError(f"There is no list of the {split} set. Download the data set again, or set split_by.")
    matches = [(case, match) for case in cases if (match := re.fullmatch(pattern, case.id))]
    if listed is None:
        return [case for case, _ in matches]
    listed_names = {_bare(name) for name in listed}
    named_cases = [(case, _bare(match["listed"])) for case, match in matches]
    if missing := listed_names - {name for _, name in named_cases}:
        raise DataError(
            f"The list of the {split} set names {count(len(missing), 'missing case')}: {first_names(missing)}. "
            "Download them again.",
            missing,
        )
    return [case for case, name in named_cases if name in listed_names]


def _bare(name: str) -> str:
    """Return a name of a list without suffix, and a number without leading zeros."""
    stem = name.rpartition(".")[0] or name
    return str(int(stem)) if stem.isdecimal() else composed(stem)


def read_lists(root: Path, name: str) -> dict[str, list[str]]:
    """Read a data set's own lists of the cases of each split: JSON with numbers or file names.

    Args:
        root: Folder that holds the file, at any depth.
        name: Name of the file.

    Raises:
        DataError: If the file is missing or damaged, or names a case twice; the message names the file.
    """
    paths = [path for path in files_below(root) if path.name == name]
    if len(paths) != 1:
        occurs, remedy = (f"occurs {len(paths)} times", "Keep one copy") if paths else ("is missing", "Download it")
        raise DataError(f"{name} {occurs} in {root}. The file lists the cases of each set. {remedy}, or set split_by.")
    [path] = paths
    try:
        lists = {str(split): [str(case) for case in names] for split, names in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): expected lists of cases. Download it again.", [name]) from error
    times = Counter(_bare(case) for names in lists.values() for case in names)
    if twice := [case for case, number in times.items() if number > 1]:
        raise DataError(f"{path} names cases twice: {first_names(twice)}. Download it again.", twice)
    return lists


def draw_splits(cases: Sequence[Case], folds: int, fold: int, val_fraction: float, seed: int) -> dict[str, list[str]]:
    """Split patients into folds. One fold is ``test``; a fraction of the other patients is ``val``, the rest ``train``.

    Args:
        cases: All cases; cases of one patient stay together.
        folds: Number of folds.
        fold: The test fold, from 0.
        val_fraction: Fraction of the other patients in ``val``, rounded. If it rounds to none, ``val`` is the training
            set itself.
        seed: Seed of the order of patients.

    Returns:
        Ids of the cases of each split.

    Raises:
        DataError: If there are fewer patients than folds.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < folds:
        n = len(patients)
        flag = f"--data.folds {n}; for data check --set folds={n}"
        advice = (
            f"Set folds to {n} ({flag})" if n > 1 else "At least one patient to train on and one to test are needed"
        )
        raise DataError(f"{count(n, 'patient')} cannot be split into {folds} folds. {advice}.")
    order = [patients[i] for i in torch.randperm(len(patients), generator=keyed_generator(seed, "patients")).tolist()]
    test, remaining = order[fold::folds], [patient for n, patient in enumerate(order) if n % folds != fold]
    number = round(val_fraction * len(remaining))
    groups = {"train": remaining[number:], "val": remaining[:number] or remaining, "test": test}
    return {name: [case.id for case in cases if case.patient in group] for name, group in groups.items()}


def read_splits(path: Path, cases: Sequence[Case], drawn: Mapping[str, float | str]) -> dict[str, list[str]]:
    """Read the ids of each split. Cases that the file does not name are left out, with a warning.

    Args:
        path: The file.
        cases: The available cases.
        drawn: The present settings of the splits. A file of :func:`write_splits` records its settings, which have to
            be the same. A file written by hand needs no settings.

    Raises:
        DataError: If the file is damaged, has other settings, names a missing case, has no test case, or has a patient
            both in the test set and elsewhere.
    """
    try:
        # Ids are text, as written: elsewhere in YAML 010 is 8, and yes is True.
        content = read_yaml(path, as_text=True)
        splits = {name: _ids(content[name]) for name in SPLITS}
        written = (content.get("drawn") or {}).items()
        recorded = {key: value if isinstance(drawn.get(key), str) else yaml.safe_load(value) for key, value in written}
        recorded = recorded or dict(drawn)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): expected lists of cases under {', '.join(SPLITS)}.") from error
    if recorded != drawn:
        raise DataError(
            f"{path} was drawn with {recorded}; the present settings are {drawn}. Name another file, or use the same "
            "settings."
        )
    return check_splits(path, splits, cases)


def check_splits(path: Path, splits: Mapping[str, Sequence[str]], cases: Sequence[Case]) -> dict[str, list[str]]:
    """Check the splits of a file. A warning names the cases that are in no split.

    Args:
        path: The file, for messages.
        splits: Ids of ``train``, ``val`` and ``test``.
        cases: The available cases.

    Returns:
        The ids of each split, spelled as the cases spell them.

    Raises:
        DataError: As :func:`read_splits`.
    """
    patients, exact_ids = {case.id: case.patient for case in cases}, {composed(case.id): case.id for case in cases}
    splits = {name: [exact_ids.get(case, case) for case in ids] for name, ids in splits.items()}
    missing = [case for ids in splits.values() for case in ids if case not in patients]
    if missing:
        raise DataError(
            f"{path} names {count(len(missing), 'missing case')}: {first_names(missing)}. Download them, or delete the "
            "file to split the available cases."
        )
    if not splits["test"] or not splits["train"]:
        raise DataError(f"{path} has no case under {'train' if splits['test'] else 'test'}. Add at least one.")
    if twice := [case for ids in splits.values() for case, times in Counter(ids).items() if times > 1]:
        raise DataError(f"{path} names cases twice in a split: {first_names(twice)}. Keep one line of each.", twice)
    tested = {patients[case] for case in splits["test"]}
    shared = tested & {patients[case] for name in ("train", "val") for case in splits[name]}
    if shared:
        raise DataError(
            f"{path} has {count(len(shared), 'patient')} both in the test set and in training or validation: "
            f"{first_names(shared)}. Move each patient to one of them."
        )
    unnamed = set(patients) - {case for ids in splits.values() for case in ids}
    if unnamed:
        _log.warning("%d cases are in no split of %s, and left out: %s.", len(unnamed), path, first_names(unnamed))
    return {name: list(ids) for name, ids in splits.items()}


def _ids(content: object) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise TypeError(f"{content!r} is no list of ids")
    return [composed(name) for name in content]


def write_splits(path: Path, splits: dict[str, list[str]], drawn: Mapping[str, float | str]) -> None:
    """Write the ids and the settings of the splits, for :func:`read_splits`."""
    text = yaml.safe_dump({"drawn": dict(drawn), **splits}, sort_keys=False, allow_unicode=True)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
