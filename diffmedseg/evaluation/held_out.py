"""Whether a model was trained on the cases on which it is tested."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffmedseg.configurable import to_config
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)


def check_held_out(
    data: SegmentationDataModule, trained: Mapping[str, Mapping[str, Any]], trust: Collection[str] = ()
) -> None:
    """Refuse to test models on cases that they were trained on, as a fold's test cases are for the other folds.

    Models that were trained on another data set, or on another folder, are not looked at.

    Args:
        data: The data module of the test.
        trained: By model's name the configuration of the data module that it was trained with.
        trust: Packages whose classes these may name.

    Raises:
        DataError: Naming a model and some of the cases.
    """
    tested = to_config(data)
    for name, config in trained.items():
        own = config.get("init_args", {})
        if config.get("class_path") != tested["class_path"] or not _same_folder(own, tested["init_args"]):
            continue
        own = dict(own) | ({"root": tested["init_args"]["root"]} if "root" in own else {})
        try:
            before = build_data({"class_path": config["class_path"], "init_args": own}, trust)
            seen = set() if to_config(before) == tested else before.split_cases("train") & data.split_cases("test")
        except (DataError, OSError) as error:
            _log.warning("Whether %s was trained on test cases cannot be told: %s", name, error)
            continue
        if seen:
            test = data.split_cases("test")
            raise DataError(
                f"{name} was trained on {len(seen)} of the {count(len(test), 'test case')} ({first_names(seen)}). Test "
                "it on cases that it has not seen: on its own split, or on data that no member was trained on."
            )


def _same_folder(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations read the same folder; a folder that is gone is taken for the one that is there."""
    if "root" not in one or "root" not in other:
        return "root" not in one and "root" not in other
    own, tested = expand_home(Path(one["root"])), expand_home(Path(other["root"]))
    return own.resolve() == tested.resolve() or not own.is_dir()
