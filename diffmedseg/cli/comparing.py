"""``diffmedseg compare``: paired comparison of tests of the same cases, as a table for people, papers or programs."""

import csv
import glob
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from diffmedseg.cli.parsing import Parser, report_errors
from diffmedseg.errors import DataError, unknown
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    from diffmedseg.evaluation.comparison import Comparison
    from diffmedseg.metrics.scores import CaseScore

#: Special characters of LaTeX, and their escapes.
_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {sign: f"\\{sign}" for sign in "&%$#_{}"}
)


def compare(args: list[str]) -> None:
    """Run ``diffmedseg compare``."""
    parser = Parser(
        "diffmedseg compare",
        "Compare tests of the same cases with the first test, case by case: means, and differences from the first "
        "test, with 95 % intervals. Intervals are over patients if the tables name them, else over cases.",
    )
    parser.add_argument(
        "tests",
        nargs="+",
        metavar="TEST",
        help="A cases.csv, a folder with such a file (a run or a test), or a zoo entry. A quoted pattern such as "
        "'runs/lite.*/version_0' pools seeds (each case counts once, with its mean) and folds. NAME=TEST names a test.",
    )
    parser.add_argument("--format", choices=list(_FORMATS), default="table", help="Default: table.")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="Same as --format json.")
    parser.add_argument(
        "--scores", type=lambda text: text.split(","), metavar="A,B", help="Scores to show, such as dice,hd95_pixels."
    )
    parser.add_argument("--common", action="store_true", help="Compare only the cases that all tests have.")
    options = parser.parse_args(args)
    from diffmedseg.evaluation.comparison import compare_tests
    from diffmedseg.metrics.scores import TITLES

    scores = [score for score in TITLES if score != "seconds"]  # runs may be timed on different machines
    for score in options.scores or ():
        if score not in TITLES:
            parser.error(unknown("score", score, list(TITLES)))
    with report_errors():
        rows = compare_tests(_read_tests(options.tests), options.common, options.scores or scores)
    sys.stdout.write(_FORMATS[options.format](rows))


def _read_tests(arguments: Sequence[str]) -> "dict[str, list[list[CaseScore]]]":
    """Read the tables of each test.

    Raises:
        DataError: If there is no table, or two tests have the same name.
    """
    from diffmedseg.metrics.table import read_cases

    tests: dict[str, list[list[CaseScore]]] = {}
    for argument in arguments:
        name, files = _find(argument)
        if name in tests:
            raise DataError(f"Two tests are called {name}. Give one another name, such as first={argument}.")
        tests[name] = [read_cases(file) for file in files]
    return tests


def _find(argument: str) -> tuple[str, list[Path]]:
    """Return the name of a test, and its tables."""
    from diffmedseg.zoo.source import current_source

    name, equals, pattern = argument.partition("=")
    if Path(argument).exists() or not equals:
        name, pattern = argument, argument
    path = Path(pattern).expanduser()
    paths = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not paths and (source := current_source()).has(pattern):
        paths = [source.verified(pattern)[0]]
    if not paths:
        raise DataError(
            f"There is no file, folder or zoo entry {pattern}, and no match for it as a pattern. Check the name."
        )
    tables = [path / "cases.csv" if path.is_dir() else path for path in paths]
    if missing := [str(table.parent) for table in tables if not table.is_file()]:
        inside = [str(table.parent) for folder in missing for table in sorted(Path(folder).glob("*/cases.csv"))]
        hint = f" There are tests in it: {first_names(inside)}." if inside else ""
        raise DataError(f"{first_names(missing)} has no cases.csv. Name the folder of a finished run or test.{hint}")
    return name, tables


def _cells(rows: "Sequence[Comparison]") -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns and the text of each row."""
    from diffmedseg.metrics.scores import LOWER_IS_BETTER, TITLES

    first = rows[0].test
    regions, seeds = len({row.region for row in rows}) > 1, any(not math.isnan(row.deviation) for row in rows)
    heads = ["Score", "Test", "Mean", "95 % interval", f"less {first}", "95 % interval", f"above {first}", "Cases"]
    heads = (["Region"] if regions else []) + heads[:4] + (["SD of seeds"] if seeds else []) + heads[4:]
    lines = []
    for row in rows:
        title = TITLES[row.score] + (" (lower is better)" if row.score in LOWER_IS_BETTER else "")
        line = [title, row.test, f"{row.mean:.4f}", _interval(row.low, row.high, "")]
        line += [_number(row.deviation, ".4f")] if seeds else []
        line += [_number(row.difference, "+.4f"), _interval(row.difference_low, row.difference_high, "+")]
        line += [_number(row.above, ".0%"), str(row.cases)]
        lines.append(([row.region] if regions else []) + line)
    return heads, lines


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _interval(low: float, high: float, sign: str) -> str:
    return "" if math.isnan(low) else f"{low:{sign}.4f} to {high:{sign}.4f}"


def _table(rows: "Sequence[Comparison]") -> str:
    """Align columns by spaces. Nothing is cut, even in a narrow terminal."""
    heads, lines = _cells(rows)
    texts = 1 + heads.index("Test")  # columns of words
    previous: list[str] = []
    table = [heads]
    for line in lines:  # leave out words that repeat the line above
        same = previous[: texts - 1] == line[: texts - 1]
        table += [[], line] if previous and not same else [([""] * (texts - 1) + line[texts - 1 :]) if same else line]
        previous = line
    widths = [max(len(line[column]) for line in [heads, *lines]) for column in range(len(heads))]
    aligned = [
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in table
    ]
    aligned.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    caption = f"less {rows[0].test}: mean over the same cases; above: share of cases, ties count half"
    return "\n".join([*aligned, caption, ""])


def _markdown(rows: "Sequence[Comparison]") -> str:
    heads, lines = _cells(rows)
    marks = ["---" if column <= heads.index("Test") else "---:" for column in range(len(heads))]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in [heads, marks, *lines]
    )


def _latex(rows: "Sequence[Comparison]") -> str:
    """Make a tabular with the rules of the package booktabs."""
    heads, cells = _cells(rows)
    texts = 1 + heads.index("Test")
    body = [" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in [heads, *cells]]
    columns = "l" * texts + "r" * (len(heads) - texts)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def _csv(rows: "Sequence[Comparison]") -> str:
    """Return CSV with full precision. Missing values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(rows[0])]
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if value != value else value for value in asdict(row).values()])
    return text.getvalue()


def _json(rows: "Sequence[Comparison]") -> str:
    """Return JSON with full precision. Missing values are null."""
    records = [{name: None if value != value else value for name, value in asdict(row).items()} for row in rows]
    return json.dumps(records, indent=1) + "\n"


_FORMATS: "dict[str, Callable[[Sequence[Comparison]], str]]" = {
    "table": _table, "markdown": _markdown, "latex": _latex, "csv": _csv, "json": _json,
}  # fmt: skip
