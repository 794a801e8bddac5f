"""The parser of LightningCLI's settings, with short errors that suggest similar names."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from diffmedseg.configurable import Configurable, init_parameters
from diffmedseg.errors import RecipeError, suggest

_UNKNOWN = re.compile(r"Option '(\w+)' is not accepted")
_UNRECOGNISED = re.compile(r"unrecognized arguments: (--[\w.]+)")
_EXPECTED = re.compile(
    r"Expected an? (?:<class '(?P<kind>[\w.]+)'>|typing\.(?P<values>Literal\[[^\]]*\])|(?P<said>[^.\n]+))"
)
_GIVEN = re.compile(r"(?:Given value|Got value): (?:NestedArg\(key='[^']*', val='(?P<text>[^']*)'\)|(?P<value>.+))")
_PLACE = re.compile(r'Parser key "([\w.]+)"')


class SettingsParser(LightningArgumentParser):
    """A parser that takes no abbreviations and raises an error that a user can act on."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})  # type: ignore[arg-type]  # as Lightning's

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return a configuration as text, without checking it again: the check is slow, and parsing did it."""
        return str(super().dump(*args, **{"skip_validation": True, **kwargs}))

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Write a configuration; see :meth:`dump`."""
        super().save(*args, **{"skip_validation": True, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an error that names the wrong setting, and similar settings.

        Raises:
            RecipeError: Always.
        """
        if not self.exit_on_error:  # a parser of a part of the configuration: the main parser reports the error
            super().error(message, ex)
        raise RecipeError(f"{_shortened(message)}\n`diffmedseg fit --help` lists all settings.") from ex


def _shortened(message: str) -> str:
    if match := _UNRECOGNISED.search(message):
        given = match[1]
        names = [f"--{part}.{name}" for part in ("data", "model", "trainer") for name in _names(part)]
        return f"There is no setting {given}. {suggest(given, names) if '.' in given else _suggest_option(given)}"
    if match := _UNKNOWN.search(message):
        places = _places(message)
        return f"There is no setting --{'.'.join([*places, match[1]])}. {suggest(match[1], _names(places[0]))}"
    kinds = [match.group(match.lastgroup or 0) for match in _EXPECTED.finditer(message)]
    kinds = [kind.replace("Literal", "one of ") for kind in dict.fromkeys(kinds) if kind != "NoneType"]
    if kinds and (given := _GIVEN.search(message)):
        value = given.group(given.lastgroup or 0)
        return f"--{'.'.join(_places(message))} is {value}; expected {' or '.join(kinds)}."
    return message


def _places(message: str) -> list[str]:
    return list(dict.fromkeys(_PLACE.findall(message))) or ["model"]


def _suggest_option(given: str) -> str:
    options = [
        *("--preset", "--name", "--encoder", "--encoder_weights", "--pretrained", "--trust", "--logger", "--callbacks"),
        *("--runs", "--ckpt_path", "--ema"),
    ]
    return suggest(given, options)


def _names(part: str) -> list[str]:
    """Return the settings of the Trainer, or of all classes that are allowed under model or data."""
    if part == "trainer":
        return sorted(set(inspect.signature(Trainer.__init__).parameters) - {"self"})
    return sorted({name for cls in _subclasses(Configurable) for name in init_parameters(cls)})


def _subclasses(cls: type) -> Iterator[type]:
    derived: list[type] = cls.__subclasses__()
    for sub in derived:
        yield sub
        yield from _subclasses(sub)
