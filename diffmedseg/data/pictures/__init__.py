"""Pictures with masks, of one rater or several, in any layout that file names can tell."""

from diffmedseg.data.pictures.datamodule import PictureDataModule
from diffmedseg.data.pictures.layout import FileNames, PictureCase

__all__ = ["FileNames", "PictureCase", "PictureDataModule"]
