"""Words for people."""

from collections.abc import Collection


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 case`` and ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_names(names: Collection[str], most: int = 3) -> str:
    """List the first names, and say how many there are beyond: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more
