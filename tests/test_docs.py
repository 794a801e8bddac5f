"""README and docs: their commands exist, their links lead somewhere, and what is generated is complete."""

import argparse
import importlib
import inspect
import re
import shlex
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from lightning import Trainer
from torch.optim import AdamW

from diffmedseg.cli import pseudo, train
from diffmedseg.cli.main import COMMANDS, main
from diffmedseg.experiments import list_datasets, list_models, list_parts, list_presets
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.zoo.source import list_pretrained

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(path for path in DOCS.rglob("*.md") if not {"_build", "generated"} & set(path.relative_to(DOCS).parts)),
]
PLACEHOLDER = re.compile(r"[A-Z_]+$|\$|.*\.ya?ml$|pseudo|TASK")
#: Settings of LightningCLI itself, and of early stopping.
GENERAL = {
    "seed_everything",
    "ckpt_path",
    "early_stopping",
    "print_config",
    "experiment",
    "runs",
    "c",
    "config",
    "verbose",
}


class Parsed(Exception):
    """Raised where a command has read its arguments and would begin to work."""


def commands_of(text):
    """Yield the arguments of each ``diffmedseg`` command in blocks of code; one may go on in the next lines."""
    lines = iter(re.sub(r"\\\n\s*", "", text).splitlines())
    for line in lines:
        if not (found := re.match(r"(?:    +|!|\$ )?(diffmedseg .+)$", line)) or "..." in line:
            continue
        command = found[1]
        while True:
            try:
                yield shlex.split(command, comments=True)[1:]
                break
            except ValueError:  # a quotation is still open
                command += f" {next(lines).strip()}"


COMMAND_LINES = sorted(
    {(path.relative_to(ROOT).as_posix(), *args) for path in WRITTEN for args in commands_of(path.read_text())}
)


@pytest.fixture
def stop_after_parsing(monkeypatch):
    parse, parse_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def parse_args(parser, args=None, namespace=None):
        parse(parser, args, namespace)
        raise Parsed

    def parse_known_args(parser, args=None, namespace=None):
        parse_known(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(pseudo, "Parser", type("Parser", (pseudo.Parser,), {"parse_known_args": parse_known_args}))


@cache
def parameters():
    """Return the names of all arguments of public classes, which settings may name."""
    names = set(inspect.signature(Trainer).parameters) | set(inspect.signature(AdamW).parameters)
    for package in ("models", "data", "diffusion", "callbacks"):
        module = importlib.import_module(f"diffmedseg.{package}")
        for value in (getattr(module, name) for name in module.__all__):
            for cls in value.__mro__ if inspect.isclass(value) else ():
                names |= set(inspect.signature(cls.__init__).parameters)
    return names


def check_settings(settings):
    known = parameters()
    for setting in (one.partition("=")[0].lstrip("-") for one in settings if one.startswith("-")):
        first, *others = [part for part in setting.split(".") if part != "init_args"]
        if first in {"teacher", "student"}:
            first, *others = others
        assert first in GENERAL if not others else first in {"trainer", "model", "data", "ema", "logger"}, setting
        assert (
            first in {"ema", "logger"}
            or not others
            or others[-1] in known
            or others[0] in {"layout", "augment", "ranges"}
        ), setting


def check_train(args):
    if args[:1] and args[0] in list_parts("chain"):
        model, data, rest = *args[:2], args[2:]
    else:
        names = train._leading(args, 2)
        model, data = (
            [*names, "medsegdiff-lite", "synthetic"][0],
            [*names, *("medsegdiff-lite", "synthetic")[len(names) :]][1],
        )
        rest = args[len(names) :]
    options, settings = train._train_parser().parse_known_args(rest)
    train._check_order([one for one in settings if "$" not in one])
    assert model in [*list_models(), *list_parts("chain")] or PLACEHOLDER.match(model), model
    assert data in list_datasets() or PLACEHOLDER.match(data), data
    assert options.preset is None or options.preset in list_presets(), options.preset
    check_settings([one for one in settings if "$" not in one])


@pytest.mark.parametrize("line", COMMAND_LINES, ids=lambda line: " ".join(line)[:100])
def test_every_command_of_the_pages_parses(line, stop_after_parsing):
    _, command, *args = line
    if command in {"--help", "--version", "COMMAND"}:
        return
    assert command in COMMANDS
    if command == "train":
        check_train(args)
    elif command in {"fit", "test"}:
        assert all((ROOT / name).is_file() for name in args if name.startswith("experiments/"))
    elif command == "evaluate":
        named = [one for one in args if not one.startswith("-")]
        assert named
        check_settings([one for one in args if one.startswith(("--model.", "--data.", "--trainer."))])
    else:
        with pytest.raises(Parsed):
            main([command, *args])


def test_a_command_that_does_not_exist_would_be_noticed(stop_after_parsing):
    for line in ("diffmedseg predict a b --out c --no_such_option", "diffmedseg zoo nonesuch"):
        [args] = commands_of(f"    {line}\n")
        with pytest.raises(SystemExit):
            main(args)
    with pytest.raises(AssertionError):
        check_train(["medsegdiff-lite", "isic2017", "--model.no_such_setting", "1"])
    with pytest.raises(AssertionError):
        check_train(["medsegdiff-lite", "nonesuch"])


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_and_figures_are_there(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#", "mailto:")):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scripts_and_targets_that_pages_name_are_there(path):
    text = path.read_text()
    for script in re.findall(r"experiments/[\w/+-]+\.(?:py|yaml|sbatch|png)\b", text):
        assert (ROOT / script).is_file(), script
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_the_readme_is_short_and_begins_with_what_sets_everything_up():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    screen = "\n".join(lines[:12])
    assert "make train" in screen
    assert "make test" in screen
    table = {line.split("`")[1] for line in lines if line.startswith("| `")}
    assert table == set(list_models())


@pytest.fixture
def generated(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    yield importlib.import_module
    for name in ("lists", "commands", "api"):
        sys.modules.pop(name, None)


def test_the_page_of_commands_has_them_all(generated):
    page = generated("commands").page()
    for name, command in COMMANDS.items():
        assert (f"## `diffmedseg {name}`" in page) is command.listed
    assert "### `diffmedseg zoo verify`" in page
    assert "--num_samples" in page


def test_the_page_of_scores_says_what_each_means(generated):
    page = generated("lists").scores()
    for column in fields(CaseScore):
        assert f"| `{column.name}` | " in page


def test_the_page_of_the_zoo_has_every_entry(generated):
    """`python -m diffmedseg zoo table` prints its table."""
    page = generated("lists").zoo()
    assert all(f"## {name}\n" in page and f"| `{name}` |" in page for name in list_pretrained())


def test_the_pages_of_the_api_have_every_public_name(generated):
    api = generated("api")
    for name in api.PACKAGES.values():
        page = api.page(name)
        for public in importlib.import_module(name).__all__:
            value = getattr(importlib.import_module(name), public)
            if callable(value) and (public, name) not in api.ELSEWHERE:
                assert f":: {name}.{public}\n" in page
