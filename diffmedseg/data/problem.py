"""What is wrong with a data set, or may be."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a data set, or that may be.

    Attributes:
        kind: One word or two, for programs.
        text: For people.
        names: All items that it is about.
        serious: Whether training on the data as it is would go wrong or be worth nothing.
    """

    kind: str
    text: str
    names: list[str] = field(default_factory=list)
    serious: bool = True
