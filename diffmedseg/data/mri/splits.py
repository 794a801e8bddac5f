"""Splits by patient, drawn from a seed or read from a file."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from diffmedseg.atomic import write_whole
from diffmedseg.data.files import first_names
from diffmedseg.data.mri.layout import Case
from diffmedseg.data.store import DataError
from diffmedseg.diffusion import keyed_generator

SPLITS = ("train", "val", "test")


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
        raise DataError(f"{len(patients)} patients cannot be dealt to {folds} folds: set folds to {len(patients)}.")
    order = [patients[i] for i in torch.randperm(len(patients), generator=keyed_generator(seed, "patients")).tolist()]
    test, others = order[fold::folds], [patient for n, patient in enumerate(order) if n % folds != fold]
    number = round(val_fraction * len(others))
    groups = {"train": others[number:], "val": others[:number] or others, "test": test}
    return {name: [case.id for case in cases if case.patient in group] for name, group in groups.items()}


def read_splits(path: Path, cases: Sequence[Case]) -> dict[str, list[str]]:
    """Read the ids of each split; cases that the file does not name are left out.

    Raises:
        DataError: If the file is damaged, names a case that is not there, or tests on a patient that is trained on.
    """
    try:
        splits = {name: list(map(str, yaml.safe_load(path.read_text())[name])) for name in SPLITS}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): expected lists of cases under {', '.join(SPLITS)}.") from error
    patients = {case.id: case.patient for case in cases}
    missing = [case for ids in splits.values() for case in ids if case not in patients]
    if missing:
        raise DataError(f"{path} names {len(missing)} cases that are not there: {first_names(missing)}. Download them.")
    tested = {patients[case] for case in splits["test"]}
    shared = tested & {patients[case] for name in ("train", "val") for case in splits[name]}
    if shared:
        raise DataError(f"{path} tests patients that it also trains or chooses on: {first_names(shared)}.")
    return splits


def write_splits(path: Path, splits: dict[str, list[str]]) -> None:
    """Write the ids of each split, to be committed and read again."""
    write_whole(path, lambda temporary: temporary.write_text(yaml.safe_dump(splits, sort_keys=False)))
