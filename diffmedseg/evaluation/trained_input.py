"""Check that test data is given to a model as its training data was."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from diffmedseg.data.info import DatasetInfo
from diffmedseg.errors import DataError
from diffmedseg.reading.slice_input import SliceInput

_log = logging.getLogger(__name__)
#: Settings of the data module by the attribute of :class:`~diffmedseg.reading.slice_input.SliceInput`.
_SETTINGS = {"distance": "context_distance"}


def check_input(trained: Mapping[str, Any], info: DatasetInfo) -> None:
    """Refuse test data with channels or regions in another order, or with slices shown in another way.

    Channels and regions with other names are only warned of, because data sets name the same things differently.

    Args:
        trained: ``channels``, ``regions`` and ``slice_input`` of the trained model, as far as they are known.
        info: Facts of the test data.

    Raises:
        DataError: The message names both values and the setting to change.
    """
    for name, tested in (("channels", info.channels), ("regions", info.regions)):
        if trained.get(name):
            _check_order(name, trained[name], tested)
    if "slice_input" not in trained:
        return
    before, now = as_slice_input(trained["slice_input"]), info.slice_input or SliceInput()
    for name in (field.name for field in fields(SliceInput)):
        values = [getattr(slice_input, name) for slice_input in (before, now)]
        if values[0] != values[1]:
            texts = ["null" if value is None else str(value) for value in values]
            raise DataError(
                f"The model was trained with {_SETTINGS.get(name, name)} {texts[0]}, and the test data has {texts[1]}. "
                f"Give --data.{_SETTINGS.get(name, name)} as in training."
            )


def as_slice_input(stored: SliceInput | Mapping[str, Any] | None) -> SliceInput:
    """Return the slice input that a model or a checkpoint stores; None stands for the default."""
    return stored if isinstance(stored, SliceInput) else SliceInput(**(stored or {}))


def _check_order(name: str, trained: Sequence[str], tested: Sequence[str]) -> None:
    if list(trained) == list(tested):
        return
    texts = f"The {name} of the model are {', '.join(trained)}, and those of the test data {', '.join(tested)}"
    if sorted(trained) == sorted(tested):
        raise DataError(f"{texts}. Give the {name} of the test data in the order of the model.")
    _log.warning("%s: make sure that they are the same.", texts)
