"""``diffmedseg evaluate`` for zoo entries and ensembles; :mod:`diffmedseg.cli.train` has the parser."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from diffmedseg.cli.lightning_cli import Tested
from diffmedseg.cli.parsing import open_share, positive_integer
from diffmedseg.cli.training import run
from diffmedseg.cli.trusting import check_run
from diffmedseg.errors import DataError, ZooError
from diffmedseg.files import expand_home
from diffmedseg.metrics.table import CASES
from diffmedseg.models.loading import RUN_CONFIG, read_settings
from diffmedseg.zoo.loading import load_model
from diffmedseg.zoo.registry import RUN
from diffmedseg.zoo.source import current_source

#: Settings of a trained model that a test may change, and the type of each.
_SETTINGS: dict[str, Callable[[str], Any]] = {
    "num_samples": positive_integer,
    "num_steps": positive_integer,
    "seed": int,
    "threshold": open_share,
    "tta": str,
}


def evaluate_together(members: Sequence[str], settings: Sequence[str], parts: Sequence[str], trust: list[str]) -> None:
    """Test an ensemble, or one entry of the zoo, on the data of its first member.

    Args:
        members: Entries, runs or checkpoints, of :func:`~diffmedseg.zoo.members.find_members`.
        settings: Settings of data, Trainer and model from the command line.
        parts: Configuration files of the options, as arguments.
        trust: Packages besides diffmedseg whose classes may be named.

    Raises:
        DataError: If a setting of the model cannot be changed after training.
        ZooError: If a member cannot be loaded, or the data of the first member is not known.
    """
    files = {member: settings_file(member) for member in members}
    trained = {name: _checked(file, trust) for name, file in files.items() if file is not None}
    if (first := files[members[0]]) is None:
        raise ZooError(
            f"{members[0]} is a checkpoint without a run, so its data is not known. Name a run or a zoo entry first."
        )
    for name in members:
        if name not in trained:
            note = f"note: the training data of {name} is not known: make sure that it has not seen the test cases."
            print(note, file=sys.stderr)
    model_settings, other_settings = _split(settings)
    model = load_model(members, trust)
    for name, value in model_settings.items():
        setattr(model, name, value)
    model.count_samples(model_settings.get("num_samples"))
    name = "ensemble" if len(members) > 1 else Path(members[0]).name
    size = f"--data.image_size=[{model.image_size[0]},{model.image_size[1]}]"
    command = ["test", "-c", str(first), f"--experiment={name}", "--verbose=false", size, *parts, *other_settings]
    tables = {name: file.with_name(CASES) for name, file in files.items() if file is not None}
    run(command, Tested(model, trained, trust, tables))


def settings_file(member: str) -> Path | None:
    """Return the settings file of a zoo entry, a run, or the run of a checkpoint; None for a single checkpoint."""
    path = expand_home(member)
    if not path.exists():
        return current_source().verified(member)[0] / RUN
    file = (path if path.is_dir() else path.parent.parent) / RUN_CONFIG
    return file if file.is_file() else None


def _checked(file: Path, trust: Collection[str]) -> dict[str, Any]:
    """Return the data configuration of a settings file; refuse classes of untrusted packages."""
    settings = read_settings(file, ["data"])
    check_run(settings, trust)
    data: dict[str, Any] = settings["data"]
    return data


def _split(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the model, and all other settings."""
    model_settings: dict[str, Any] = {}
    other_settings = []
    waiting = iter(settings)
    for setting in waiting:
        if not setting.startswith("--model"):
            other_settings.append(setting)
            continue
        option, equals, value = setting.partition("=")
        name, value = option.removeprefix("--model."), value if equals else next(waiting, "")
        if name not in _SETTINGS:
            raise DataError(
                f"{option} cannot be changed in a trained ensemble or zoo entry. Settings that can: "
                f"{', '.join(f'--model.{setting}' for setting in _SETTINGS)}."
            )
        try:
            model_settings[name] = _SETTINGS[name](value)
        except (ValueError, ArgumentTypeError) as error:
            raise DataError(f"{option}: {error}.") from error
    return model_settings, other_settings
