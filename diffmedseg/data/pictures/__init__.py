"""Pictures with masks of one or several raters, found by their file names."""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.data.pictures.cases import PictureCase as PictureCase, PictureLayout as PictureLayout
    from diffmedseg.data.pictures.datamodule import PictureDataModule as PictureDataModule
    from diffmedseg.data.pictures.layout import FileNames as FileNames

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.data.pictures.cases": ["PictureCase", "PictureLayout"],
        "diffmedseg.data.pictures.datamodule": ["PictureDataModule"],
        "diffmedseg.data.pictures.layout": ["FileNames"],
    },
)
