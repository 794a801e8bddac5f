"""The pages of data sets, zoo entries and scores, from the tables of the code."""

import inspect
import re
import textwrap

from diffmedseg.data.catalogue import dataset_info, described, markdown_table as data_table
from diffmedseg.experiments import data_config, list_datasets
from diffmedseg.metrics.scores import SCORES, CaseScore
from diffmedseg.zoo.card import markdown_table as zoo_table
from diffmedseg.zoo.source import current_source


def data_sets() -> str:
    """Return the page of the data sets."""
    head = """# Data sets

`diffmedseg data list` prints this table, and `diffmedseg data list NAME` one of the sections below it.
*Trained* means that a model was trained on real cases. *Layout-tested* means that the tests read files that they wrote
in this layout; no real file was at hand.
"""
    sections = [
        f"## {name}\n\n" + described(dataset_info(data_config(name))).replace("\n", "\n\n") + "\n"
        for name in list_datasets()
    ]
    return "\n".join([head, data_table(), "", *sections])


def zoo() -> str:
    """Return the page of the zoo."""
    entries = current_source().entries()
    head = """# Zoo

`diffmedseg zoo table` prints this table. The score is the mean Dice over the test cases with its 95 % interval.
A *recipe* is a configuration that nobody has trained yet. `diffmedseg zoo show NAME` prints the card of an entry.
"""
    sections = []
    for name, entry in entries.items():
        facts = {
            "Finds": ", ".join(entry.regions),
            "In": f"{entry.data} ({', '.join(entry.input.channels)}; {' x '.join(map(str, entry.input.size))} pixels)",
            "Learned from": entry.learned_from,
            "Version": entry.version,
            "Weights": f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "none",
            "Tested on": f"{entry.metrics.split}, {entry.metrics.cases} cases" if entry.metrics else "nothing",
            "Use": entry.intended_use,
        }
        rows = "\n".join(f"- **{key}:** {value}" for key, value in facts.items() if value)
        sections.append(f"## {name}\n\n{rows}\n")
    return "\n".join([head, zoo_table(entries), "", *sections])


def facts() -> dict[str, str]:
    """Return what each column of ``cases.csv`` that is no score means, as the docstring of its class says it."""
    text = inspect.getdoc(CaseScore) or ""
    block = textwrap.dedent(text.partition("Attributes:\n")[2])
    found: dict[str, str] = {}
    for line in block.splitlines():
        if match := re.match(r"(\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif line.strip():
            found[name] += f" {line.strip()}"
    return {name: re.sub(r"``(.+?)``", r"`\1`", meaning) for name, meaning in found.items()}


def scores() -> str:
    """Return the page of the scores."""
    head = """# Scores

The columns of `cases.csv`. A test reports the mean of each score.
[How scores are taken](/concepts/scores.md) explains averages, empty masks and intervals.

| column | title | meaning | better |
|---|---|---|---|"""
    rows = [
        f"| `{name}` | {score.title} | {score.meaning} | {score.better or 'neither'} |"
        for name, score in SCORES.items()
    ]
    more = ["", "Columns that are no scores:", "", "| column | meaning |", "|---|---|"]
    more += [f"| `{name}` | {meaning} |" for name, meaning in facts().items()]
    return "\n".join([head, *rows, *more, ""])
