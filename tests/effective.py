"""What a run's configuration builds, in plain data: whatever the form of the files that it comes from."""

import inspect
from hashlib import blake2b
from pathlib import PurePath

import torch
from torch import nn


def effective(cli):
    """Return trainer, ema and data as resolved, and the model as built."""
    config = cli.config
    return {
        "trainer": _set(config.trainer.as_dict()),
        "ema": _set(config.ema.as_dict()),
        "data": _set(config.data.as_dict()),
        "model": _model(cli.model),
    }


#: Settings of data that change nothing where there are no pseudo masks.
_BESIDE = {"mask_rule", "unsure"}
#: Settings that data took on later, at the value that they had always meant.
_MEANT = [("split_by", "folds"), ("min_nonempty", 0), ("name", "{id}"), ("complete", False), ("context", 0)]
#: Arguments that models and losses took on later, at the values that change nothing.
_LATER = {
    "value_range": [None], "slice_input": [None],
    "familiarity": [None], "encoder_lr": [1], "dice_over": ["image", None], "tta": ["none"],
    "fitted_tta": ["none"], "raters": ["one"], "energy_weight": [0], "energy_samples": [2], "energy_steps": [None],
}  # fmt: skip
#: What settings were called when digests were stored.
_CALLED = {"val/score": "val/dice"}


def _set(value):
    """Drop what is null, and what a class took on later without a change."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None and key not in _BESIDE}
        return {key: _set(item) for key, item in kept.items() if (key, item) not in _MEANT}
    if isinstance(value, list | tuple):
        return [_set(item) for item in value]
    return _CALLED.get(value, value) if isinstance(value, str) else str(value) if isinstance(value, PurePath) else value


def _model(model):
    names = {
        name
        for cls in type(model).__mro__
        if issubclass(cls, nn.Module)
        for name in inspect.signature(cls.__init__).parameters
        if hasattr(model, name) and getattr(model, name) not in _LATER.get(name, [])
    }
    built = {name: _plain(getattr(model, name)) for name in sorted(names)}
    optimizer = model.optimizer([nn.Parameter(torch.zeros(1))])
    built["optimizer"] = [type(optimizer).__name__, _plain(optimizer.defaults)]
    shapes = [(name, list(value.shape)) for name, value in model.denoiser.state_dict().items()]
    built["denoiser"] = [type(model.denoiser).__name__, _digest(shapes)]
    return built


def _plain(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 13 and 13.0 are one setting
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in sorted(value.items(), key=str)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value] if len(value) < 50 else _digest(list(value))
    public = {
        name: item
        for name, item in vars(value).items()
        if not name.startswith("_") and name != "training" and item not in _LATER.get(name, [])
    }
    return [type(value).__name__, _plain(public)]


def _digest(value):
    return blake2b(repr(value).encode(), digest_size=8).hexdigest()
