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

    Where there are test cases they are ``test``, and the fold's lists are ``train`` and ``val``. Where there are none
    the fold's own ``val`` is ``test``, as nnU-Net reports it, and ``val`` is drawn from the patients trained on.

    Args:
        path: The file.
        cases: All cases.
        tests: Ids of the test cases.
        fold: Which fold, from 0.
        val_fraction: Fraction of the patients that are ``val``, where they are drawn.
        seed: Seed of their choice.

    Raises:
        DataError: If the file is damaged, or does not fit the cases.
    """
    try:
        folds = [{name: [str(case) for case in one[name]] for name in ("train", "val")} for one in read_json(path)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error!r}): expected a list of folds with train and val.") from error
    if not 0 <= fold < len(folds):
        raise DataError(f"{path} has folds 0 to {len(folds) - 1}; there is no fold {fold}: set data.fold.")
    splits: dict[str, list[str]] = folds[fold]
    known = {case.id for case in cases}
    if missing := [case for ids in splits.values() for case in ids if case not in known]:
        raise DataError(f"{path} names {count(len(missing), 'case')} not there: {first_names(missing)}.", missing)
    if tests:
        return check_splits(path, {**splits, "test": sorted(tests)}, cases)
    trained = [case for case in cases if case.id in splits["train"]]
    return check_splits(path, {**hold_out(trained, val_fraction, seed), "test": splits["val"]}, cases)
