"""Helpers for messages to people."""

import re
from collections.abc import Collection


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 case`` and ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_names(names: Collection[str], most: int = 3) -> str:
    """List the first names and the number of further names: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def plain_pattern(pattern: str) -> str:
    r"""Return a regular expression of names in a form for people, as an example of the names that it matches.

    ``images/(?P<id>.+)`` becomes ``images/<name>``, and ``BraTS2021_\d{5}`` becomes ``BraTS2021_<number>``. Optional
    groups are left out.
    """
    text = re.sub(r"\(\?P=\w+\)", "<name>", pattern)
    text = re.sub(r"(?:\\d(?:[+*]|\{[\d,]+\})?)+", "<number>", text)
    text = re.sub(r"(?:\\w|\[[^\]]*\]|(?<!\\)\.)(?:[+*]\??|\{[\d,]+\})", "<name>", text)
    while group := re.search(r"(?<!\\)\((\?:|\?P<\w+>|\?!|)([^()]*)\)(\??)", text):
        kind, inner, optional = group.groups()
        alternatives = "|" in re.sub(r"\[[^\]]*\]", "", inner)
        replacement = "" if optional or kind == "?!" else f"[{inner}]" if alternatives else inner
        text = text[: group.start()] + replacement + text[group.end() :]
    return re.sub(r"\\(\W)", r"\1", text).replace("<name><name>", "<name>")


def innermost(message: str) -> str:
    """Return the message of the class that refused its arguments, from a message of jsonargparse."""
    boilerplate = r"(?:Expected a|Problem with|Parser key|Does not validate)"
    reasons = [line for line in re.findall(r"^\s*- (.+)", message, re.MULTILINE) if not re.match(boilerplate, line)]
    return reasons[-1] if reasons else message
