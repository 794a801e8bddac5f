"""The splits of a raw data set of nnU-Net."""

from collections.abc import Collection, Sequence
from pathlib import Path

from diffmedseg.data.splits import Case, check_splits, hold_out
from diffmedseg.errors import DataError
from diffmedseg.files import read_json
from diffmedseg.wording import count, first_names


def splits_of_fold(
    path: Path, cases: Sequence[Case], tests: Collection[str], fold: int, val_fraction: float, seed: int
) -> dict[str, list[str]]:
    """Return the splits of a fold of splits_final.json.

    If there are test cases, they are ``test``, and the lists of the fold are ``train`` and ``val``. If there are none,
    the fold's ``val`` is ``test``, as nnU-Net reports it, and ``val`` is drawn from the training patients of the fold.

    Args:
        path: The file.
        cases: All cases.
        tests: Ids of the test cases.
        fold: Number of the fold, from 0.
        val_fraction: Fraction of the patients in ``val``, if ``val`` is drawn.
        seed: Seed of the draw.

    Raises:
        DataError: If the file is damaged, or does not fit the cases.
    """
    try:
        folds = [{name: [str(case) for case in entry[name]] for name in ("train", "val")} for entry in read_json(path)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error!r}): expected a list of folds with train and val.") from error
    if not 0 <= fold < len(folds):
        raise DataError(f"{path} has folds 0 to {len(folds) - 1}, but no fold {fold}. Set data.fold.")
    splits: dict[str, list[str]] = folds[fold]
    case_ids = {case.id for case in cases}
    if missing := [case for ids in splits.values() for case in ids if case not in case_ids]:
        raise DataError(
            f"{path} names {count(len(missing), 'case')} that the data set does not have: {first_names(missing)}.",
            missing,
        )
    if tests:
        return check_splits(path, {**splits, "test": sorted(tests)}, cases)
    trained = [case for case in cases if case.id in splits["train"]]
    return check_splits(path, {**hold_out(trained, val_fraction, seed), "test": splits["val"]}, cases)
