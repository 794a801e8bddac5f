"""Faults and possible faults of a data set."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """A fault or possible fault of a data set.

    Attributes:
        kind: A word or two, for programs.
        text: A description, for people.
        names: Names of the items concerned.
        serious: Whether the fault makes training fail or its results worthless.
    """

    kind: str
    text: str
    names: list[str] = field(default_factory=list)
    serious: bool = True
