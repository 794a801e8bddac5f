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
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


class Case(Protocol):
    """A case, and the patient it is of."""

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
    """Deal cases to the splits of a publication; without a ``val`` there, as many training patients as are asked for.

    Args:
        cases: All cases; those that fit no pattern are left out.
        patterns: By split, the regular expression of the ids that belong to it.
        val_fraction: Fraction of the training patients that are ``val``, where there is no pattern for it.
        seed: Seed of their choice.
        lists: By split, the names of its cases: of those that fit its pattern only cases whose group ``listed`` is
            among them belong to it. A pattern without such a group needs no list.

    Raises:
        DataError: If nothing is left to train on or to test, a patient would be tested and trained on, or a list names
            a case that is not there.
    """
    groups = {name: _members(cases, pattern, name, (lists or {}).get(name)) for name, pattern in patterns.items()}
    for name in ("train", "test"):
        if not groups.get(name):
            raise DataError(
                f"None of the {len(cases)} cases is of the published {name} set, {patterns.get(name)!r}: download it, "
                "or deal the cases that are there to folds, by --data.split_by folds."
            )
    patients = {name: {case.patient for case in group} for name, group in groups.items()}
    shared = patients["test"] & (patients["train"] | patients.get("val", set()))
    if shared:
        raise DataError(f"The published split tests patients that it also trains on: {first_names(shared)}.")
    splits = {name: [case.id for case in group] for name, group in groups.items()}
    splits |= {} if "val" in groups else hold_out(groups["train"], val_fraction, seed)
    return {name: splits[name] for name in SPLITS}


def hold_out(cases: Sequence[Case], val_fraction: float, seed: int) -> dict[str, list[str]]:
    """Deal cases to ``train`` and ``val`` by patient; where none can be spared, ``val`` is the training set itself.

    Args:
        cases: The cases that may be trained on.
        val_fraction: Fraction of the patients that are ``val``, rounded.
        seed: Seed of their choice.
    """
    order = sorted({case.patient for case in cases})
    drawn = torch.randperm(len(order), generator=keyed_generator(seed, "patients")).tolist()
    chosen = {order[i] for i in drawn[: round(val_fraction * len(order))]}
    train = [case.id for case in cases if case.patient not in chosen]
    return {"train": train, "val": [case.id for case in cases if case.patient in chosen] or train}


def _members(cases: Sequence[Case], pattern: str, split: str, listed: Collection[str] | None) -> list[Case]:
    """Return the cases of a split."""
    if listed is None and "listed" in re.compile(pattern).groupindex:
        raise DataError(f"There is no list of the {split} set: download it again, or set split_by.")
    matches = [(case, match) for case in cases if (match := re.fullmatch(pattern, case.id))]
    if listed is None:
        return [case for case, _ in matches]
    wanted = {_bare(name) for name in listed}
    found = [(case, _bare(match["listed"])) for case, match in matches]
    if missing := wanted - {name for _, name in found}:
        raise DataError(
            f"The list of the {split} set names {count(len(missing), 'case')} not there: {first_names(missing)}. "
            "Download them again.",
            missing,
        )
    return [case for case, name in found if name in wanted]


def _bare(name: str) -> str:
    """Return a name in a list without its suffix and, of a number, without leading zeros."""
    stem = name.rpartition(".")[0] or name
    return str(int(stem)) if stem.isdecimal() else composed(stem)


def read_lists(root: Path, name: str) -> dict[str, list[str]]:
    """Read the lists of the cases of each split, as a data set has them: JSON with numbers or file names.

    Args:
        root: Folder that holds the file, at any depth.
        name: Name of the file.

    Raises:
        DataError: If the file is missing or damaged, or names a case twice; names it.
    """
    paths = [path for path in files_below(root) if path.name == name]
    if len(paths) != 1:
        found = "is not there" if not paths else f"is there {len(paths)} times"
        raise DataError(
            f"{name} {found} in {root}: it says which cases are of which set. Download it, or set split_by."
        )
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
    """Deal patients to folds, one of which is the test set; of the others a fraction is ``val``, the rest ``train``.

    Args:
        cases: All cases; those of one patient stay together.
        folds: Number of folds.
        fold: The fold that is tested, from 0.
        val_fraction: Fraction of the other patients, rounded. Where that is none, ``val`` is the training set itself.
        seed: Seed of the order of patients.

    Returns:
        Ids of the cases of each split.

    Raises:
        DataError: If there are fewer patients than folds.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < folds:
        n = len(patients)
        how = f"--data.folds {n}; for data check --set folds={n}"
        advice = f"set folds to {n} ({how})" if n > 1 else "one to train on and one to test are needed"
        raise DataError(f"{count(n, 'patient')} cannot be dealt to {folds} folds: {advice}.")
    order = [patients[i] for i in torch.randperm(len(patients), generator=keyed_generator(seed, "patients")).tolist()]
    test, others = order[fold::folds], [patient for n, patient in enumerate(order) if n % folds != fold]
    number = round(val_fraction * len(others))
    groups = {"train": others[number:], "val": others[:number] or others, "test": test}
    return {name: [case.id for case in cases if case.patient in group] for name, group in groups.items()}


def read_splits(path: Path, cases: Sequence[Case], drawn: Mapping[str, float | str]) -> dict[str, list[str]]:
    """Read the ids of each split; cases that the file does not name are left out, with a warning.

    Args:
        path: The file.
        cases: The cases that are there.
        drawn: The settings by which splits would be drawn now. A file that :func:`write_splits` wrote has to agree with
            them; one written by hand need not name any.

    Raises:
        DataError: If the file is damaged, was drawn by other settings, names a case that is not there, tests nothing,
            or has a patient both in the test set and elsewhere.
    """
    try:
        # Ids are text, as written: elsewhere in YAML 010 is 8, and yes is True.
        content = read_yaml(path, as_text=True)
        splits = {name: _ids(content[name]) for name in SPLITS}
        written = (content.get("drawn") or {}).items()
        before = {key: value if isinstance(drawn.get(key), str) else yaml.safe_load(value) for key, value in written}
        before = before or dict(drawn)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): expected lists of cases under {', '.join(SPLITS)}.") from error
    if before != drawn:
        raise DataError(f"{path} was drawn with {before}, and now {drawn} are set: name another file, or set the same.")
    return check_splits(path, splits, cases)


def check_splits(path: Path, splits: Mapping[str, Sequence[str]], cases: Sequence[Case]) -> dict[str, list[str]]:
    """Check the ids of each split that a file gives; a warning names cases of no split.

    Args:
        path: The file, for messages.
        splits: Ids of ``train``, ``val`` and ``test``.
        cases: The cases that are there.

    Returns:
        The ids as the cases have them.

    Raises:
        DataError: As :func:`read_splits`.
    """
    patients, known = {case.id: case.patient for case in cases}, {composed(case.id): case.id for case in cases}
    splits = {name: [known.get(case, case) for case in ids] for name, ids in splits.items()}
    missing = [case for ids in splits.values() for case in ids if case not in patients]
    if missing:
        raise DataError(
            f"{path} names {count(len(missing), 'case')} not there: {first_names(missing)}. Download them, or delete "
            "the file to draw splits of what is there."
        )
    if not splits["test"] or not splits["train"]:
        raise DataError(f"{path} has no case to {'train on' if splits['test'] else 'test'}.")
    if twice := [case for ids in splits.values() for case, times in Counter(ids).items() if times > 1]:
        raise DataError(f"{path} names cases twice in a split: {first_names(twice)}. Keep one line of each.", twice)
    tested = {patients[case] for case in splits["test"]}
    shared = tested & {patients[case] for name in ("train", "val") for case in splits[name]}
    if shared:
        raise DataError(f"{path} tests patients that it also trains or chooses on: {first_names(shared)}.")
    unnamed = set(patients) - {case for ids in splits.values() for case in ids}
    if unnamed:
        _log.warning("%d cases are in no split of %s, and left out: %s.", len(unnamed), path, first_names(unnamed))
    return {name: list(ids) for name, ids in splits.items()}


def _ids(found: object) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError(f"{found!r} is no list of ids")
    return [composed(one) for one in found]


def write_splits(path: Path, splits: dict[str, list[str]], drawn: Mapping[str, float | str]) -> None:
    """Write the ids of each split and how they were drawn, to be committed and read again."""
    text = yaml.safe_dump({"drawn": dict(drawn), **splits}, sort_keys=False, allow_unicode=True)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
