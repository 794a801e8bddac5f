"""Brain MRI in the layouts of common downloads."""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.data.mri.datamodule import BrainMRIDataModule as BrainMRIDataModule
    from diffmedseg.data.mri.layout import Case as Case, Layout as Layout, RawCase as RawCase
    from diffmedseg.data.mri.layouts import (
        CaseFolders as CaseFolders,
        FourDimensional as FourDimensional,
        SliceFolders as SliceFolders,
    )

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.data.mri.datamodule": ["BrainMRIDataModule"],
        "diffmedseg.data.mri.layout": ["Case", "Layout", "RawCase"],
        "diffmedseg.data.mri.layouts": ["CaseFolders", "FourDimensional", "SliceFolders"],
    },
)
