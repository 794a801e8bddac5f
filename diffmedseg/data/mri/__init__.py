"""Brain MRI in the layouts that people have on disk."""

from diffmedseg.data.mri.datamodule import BrainMRIDataModule
from diffmedseg.data.mri.layout import Case, Layout, RawCase
from diffmedseg.data.mri.layouts import CaseFolders, FourDimensional, SliceFolders

__all__ = [
    "BrainMRIDataModule",
    "Case",
    "CaseFolders",
    "FourDimensional",
    "Layout",
    "RawCase",
    "SliceFolders",
]
