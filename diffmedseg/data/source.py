"""Where a data set that is configuration comes from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        name: Name on the command line and in the zoo.
        title: Name in prose.
        licence: Licence of images and masks.
        citation: What to cite.
        url: Where it is described.
        download: What to download, and from where.
        trained: Whether the project trained on its real cases; of others only the layout is tested.
    """

    name: str
    title: str
    licence: str
    citation: str
    url: str
    download: str
    trained: bool = False
