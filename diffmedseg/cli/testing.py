"""What ``diffmedseg evaluate`` runs for zoo entries and ensembles; :mod:`diffmedseg.cli.train` has its parser."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from diffmedseg.cli.parsing import open_share, positive_integer
from diffmedseg.cli.training import Tested, run
from diffmedseg.cli.trusting import check_run
from diffmedseg.errors import DataError, ZooError
from diffmedseg.files import expand_home
from diffmedseg.models.loading import RUN_CONFIG, read_settings
from diffmedseg.zoo.loading import load_model
from diffmedseg.zoo.registry import RUN
from diffmedseg.zoo.source import current_source

#: Settings of a model that a test of an ensemble or an entry takes, and what reads them.
_TAKEN: dict[str, Callable[[str], Any]] = {
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
        settings: What the command line says of data and Trainer, and some settings of the model.
        parts: Files that the options name.
        trust: Packages besides diffmedseg whose classes may be named.

    Raises:
        DataError: If a setting of the model is not one that a trained model can take.
        ZooError: If a member cannot be loaded, or nothing says what the first one was trained on.
    """
    files = {member: settings_file(member) for member in members}
    trained = {name: _checked(file, trust) for name, file in files.items() if file is not None}
    if (first := files[members[0]]) is None:
        raise ZooError(f"{members[0]} is a checkpoint without a run: nothing says which data it is tested on.")
    for name in members:
        if name not in trained:
            said = f"note: nothing says what {name} was trained on: make sure that it has not seen the test cases."
            print(said, file=sys.stderr)
    own, others = _split(settings)
    model = load_model(members, trust)
    for name, value in own.items():
        setattr(model, name, value)
    model.count_samples(own.get("num_samples"))
    name = "ensemble" if len(members) > 1 else Path(members[0]).name
    size = f"--data.image_size=[{model.image_size[0]},{model.image_size[1]}]"
    command = ["test", "-c", str(first), f"--experiment={name}", "--verbose=false", size, *parts, *others]
    run(command, Tested(model, trained, trust))


def settings_file(member: str) -> Path | None:
    """Return the file with the settings of an entry or of the run that a checkpoint is in; None where there is none."""
    path = expand_home(member)
    if not path.exists():
        return current_source().verified(member)[0] / RUN
    file = (path if path.is_dir() else path.parent.parent) / RUN_CONFIG
    return file if file.is_file() else None


def _checked(file: Path, trust: Collection[str]) -> dict[str, Any]:
    """Return the configuration of the data in a file of settings that names no class of a package without trust."""
    settings = read_settings(file, ["data"])
    check_run(settings, trust)
    data: dict[str, Any] = settings["data"]
    return data


def _split(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the model, and all others."""
    own: dict[str, Any] = {}
    others = []
    waiting = iter(settings)
    for setting in waiting:
        if not setting.startswith("--model"):
            others.append(setting)
            continue
        option, given, value = setting.partition("=")
        name, value = option.removeprefix("--model."), value if given else next(waiting, "")
        if name not in _TAKEN:
            raise DataError(
                f"{option} is no setting of an ensemble or a zoo entry, whose networks are trained: it takes "
                f"{', '.join(f'--model.{one}' for one in _TAKEN)}."
            )
        try:
            own[name] = _TAKEN[name](value)
        except (ValueError, ArgumentTypeError) as error:
            raise DataError(f"{option}: {error}.") from error
    return own, others
