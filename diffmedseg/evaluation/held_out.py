"""Check that a model is not tested on its training cases."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffmedseg.configurable import to_config
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.metrics.table import read_cases
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)


def check_held_out(
    data: SegmentationDataModule,
    trained: Mapping[str, Mapping[str, Any]],
    trust: Collection[str] = (),
    tables: Mapping[str, Path] | None = None,
) -> None:
    """Refuse to test models on their training cases. The test cases of a fold are training cases of the other folds.

    Models that were trained on another data set, or on another folder, are not checked. The split of the training is
    drawn again from the present cases. A warning is logged if the training had other cases, so another split.

    Args:
        data: The data module of the test.
        trained: Configuration of the training data module of each model, by name of the model.
        trust: Packages whose classes these configurations may name.
        tables: The table of test cases that each model's training wrote, by name of the model; it may be missing.

    Raises:
        DataError: If a model was trained on test cases; the message names the model and some of the cases.
    """
    tested = to_config(data)
    for name, config in trained.items():
        init_args = config.get("init_args", {})
        if config.get("class_path") != tested["class_path"] or not _same_folder(init_args, tested["init_args"]):
            continue
        init_args = dict(init_args) | ({"root": tested["init_args"]["root"]} if "root" in init_args else {})
        try:
            trained_data = build_data({"class_path": config["class_path"], "init_args": init_args}, trust)
            shared_cases = (
                set()
                if to_config(trained_data) == tested
                else trained_data.split_cases("train") & data.split_cases("test")
            )
            unknown_cases = _not_tested_before(data, trained_data, (tables or {}).get(name))
        except (DataError, OSError) as error:
            _log.warning("It is not known whether %s was trained on test cases: %s", name, error)
            continue
        if shared_cases:
            test = data.split_cases("test")
            raise DataError(
                f"{name} was trained on {len(shared_cases)} of the {count(len(test), 'test case')} "
                f"({first_names(shared_cases)}). Test it on its own split, or on data that no member was trained on."
            )
        if unknown_cases:
            _log.warning(
                "%s may have been trained on %d of the %s (%s): its training had other cases, so another split. The "
                "cases of its own test are in %s; name a split with them by --data.splits.",
                name, len(unknown_cases), count(len(data.split_cases("test")), "test case"), first_names(unknown_cases),
                (tables or {})[name],
            )  # fmt: skip


def _not_tested_before(
    data: SegmentationDataModule, trained_data: SegmentationDataModule, table: Path | None
) -> set[str]:
    """Return the test cases that are not in the table of the model's own test, if its split differed from today's.

    A table with a part of today's test cases is of a shorter test, and says nothing about the split.
    """
    if table is None or not table.is_file():
        return set()
    recorded = {row.case for row in read_cases(table)}
    return data.split_cases("test") - recorded if recorded - trained_data.split_cases("test") else set()


def _same_folder(trained_args: Mapping[str, Any], tested_args: Mapping[str, Any]) -> bool:
    """Return whether two configurations read the same folder. A folder that no longer exists counts as the same."""
    if "root" not in trained_args or "root" not in tested_args:
        return "root" not in trained_args and "root" not in tested_args
    trained_folder, tested_folder = expand_home(Path(trained_args["root"])), expand_home(Path(tested_args["root"]))
    return trained_folder.resolve() == tested_folder.resolve() or not trained_folder.is_dir()
