"""Data sets."""

from diffmedseg.data.augmentation import Augmentation
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.isic import ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule
from diffmedseg.data.mri import BrainMRIDataModule, CaseFolders, FourDimensional, SliceFolders
from diffmedseg.data.pictures import FileNames, PictureDataModule
from diffmedseg.data.store import DataError, ImageStore
from diffmedseg.data.synthetic import SyntheticDataModule

__all__ = [
    "Augmentation",
    "BrainMRIDataModule",
    "CaseFolders",
    "DataError",
    "DatasetInfo",
    "FileNames",
    "FourDimensional",
    "ISIC2016DataModule",
    "ISIC2017DataModule",
    "ISIC2018DataModule",
    "ImageStore",
    "PictureDataModule",
    "SegmentationDataModule",
    "SliceFolders",
    "SyntheticDataModule",
]
