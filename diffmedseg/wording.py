"""Words for people."""


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 case`` and ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
