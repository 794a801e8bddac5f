"""The origin of a data set that a yaml file describes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Name, licence and origin of a data set.

    Attributes:
        name: Name on the command line and in the zoo.
        title: Name in prose.
        licence: Licence of images and masks.
        citation: Publication to cite.
        url: Page that describes the data set.
        download: Files to download, and their address.
        trained: Whether the project trained on real cases of the data set. If not, only the layout is tested.
    """

    name: str
    title: str
    licence: str
    citation: str
    url: str
    download: str
    trained: bool = False
