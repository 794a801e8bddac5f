"""The page of all commands, from their own help."""

import argparse
import os
from collections.abc import Iterator
from contextlib import suppress
from unittest.mock import patch

from diffmedseg.cli.main import COMMANDS, main

_HEAD = """# Commands

This page is made from the help of each command: `diffmedseg COMMAND --help` prints the same.

`diffmedseg fit`, `validate` and `test` take configuration files of [LightningCLI](https://lightning.ai/docs/pytorch/stable/cli/lightning_cli.html)
instead of names. `diffmedseg fit --help` lists every setting of a run; see
[Configuration](/reference/configuration.md).
"""


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, file: object = None) -> None:
        found.append(parser)

    with patch.object(argparse.ArgumentParser, "print_help", keep), suppress(SystemExit):
        main([command, "--help"])
    return found[0]


def _texts(parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    yield f"{'#' * depth} `{parser.prog}`\n\n```text\n{parser.format_help().rstrip()}\n```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _texts(inner, depth + 1)


def page() -> str:
    """Return the page, as Markdown."""
    with patch.dict(os.environ, {"COLUMNS": "84"}):
        sections = [text for name, command in COMMANDS.items() if command.listed for text in _texts(parser_of(name), 2)]
    return "\n".join([_HEAD, *sections])
