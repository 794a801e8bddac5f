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


def innermost(message: str) -> str:
    """Return the message of the class that refused its arguments, from a message of jsonargparse."""
    boilerplate = r"(?:Expected a|Problem with|Parser key|Does not validate)"
    reasons = [line for line in re.findall(r"^\s*- (.+)", message, re.MULTILINE) if not re.match(boilerplate, line)]
    return reasons[-1] if reasons else message
