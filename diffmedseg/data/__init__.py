"""Data sets. Each name is imported when it is first used: reading the facts of a data set needs no torch."""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.data.augmentation import (
        Augmentation as Augmentation,
        DermoscopyAugmentation as DermoscopyAugmentation,
        UltrasoundAugmentation as UltrasoundAugmentation,
    )
    from diffmedseg.data.base import SegmentationDataModule as SegmentationDataModule
    from diffmedseg.data.info import DatasetInfo as DatasetInfo
    from diffmedseg.data.isic import (
        ISIC2016DataModule as ISIC2016DataModule,
        ISIC2017DataModule as ISIC2017DataModule,
        ISIC2018DataModule as ISIC2018DataModule,
    )
    from diffmedseg.data.mri.datamodule import BrainMRIDataModule as BrainMRIDataModule
    from diffmedseg.data.mri.layouts import (
        CaseFolders as CaseFolders,
        FourDimensional as FourDimensional,
        SliceFolders as SliceFolders,
    )
    from diffmedseg.data.nnunet.datamodule import NnUNetDataModule as NnUNetDataModule
    from diffmedseg.data.nnunet.layouts import (
        NnUNetPictures as NnUNetPictures,
        NnUNetVolumes as NnUNetVolumes,
    )
    from diffmedseg.data.pictures.agreement import AgreementMaps as AgreementMaps
    from diffmedseg.data.pictures.cases import PictureLayout as PictureLayout
    from diffmedseg.data.pictures.datamodule import PictureDataModule as PictureDataModule
    from diffmedseg.data.pictures.drawn import DrawnOutlines as DrawnOutlines
    from diffmedseg.data.pictures.layout import FileNames as FileNames
    from diffmedseg.data.pictures.outlines import XMLOutlines as XMLOutlines
    from diffmedseg.data.pictures.qubiq import QUBIQSlices as QUBIQSlices
    from diffmedseg.data.pictures.rater_files import RaterFiles as RaterFiles
    from diffmedseg.data.pseudo import PseudoMaskDataModule as PseudoMaskDataModule
    from diffmedseg.data.store import ImageStore as ImageStore
    from diffmedseg.data.synthetic import SyntheticDataModule as SyntheticDataModule
    from diffmedseg.errors import DataError as DataError

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.data.augmentation": ["Augmentation", "DermoscopyAugmentation", "UltrasoundAugmentation"],
        "diffmedseg.data.base": ["SegmentationDataModule"],
        "diffmedseg.data.info": ["DatasetInfo"],
        "diffmedseg.data.isic": ["ISIC2016DataModule", "ISIC2017DataModule", "ISIC2018DataModule"],
        "diffmedseg.data.mri.datamodule": ["BrainMRIDataModule"],
        "diffmedseg.data.mri.layouts": ["CaseFolders", "FourDimensional", "SliceFolders"],
        "diffmedseg.data.nnunet.datamodule": ["NnUNetDataModule"],
        "diffmedseg.data.nnunet.layouts": ["NnUNetPictures", "NnUNetVolumes"],
        "diffmedseg.data.pictures.agreement": ["AgreementMaps"],
        "diffmedseg.data.pictures.cases": ["PictureLayout"],
        "diffmedseg.data.pictures.datamodule": ["PictureDataModule"],
        "diffmedseg.data.pictures.drawn": ["DrawnOutlines"],
        "diffmedseg.data.pictures.layout": ["FileNames"],
        "diffmedseg.data.pictures.outlines": ["XMLOutlines"],
        "diffmedseg.data.pictures.qubiq": ["QUBIQSlices"],
        "diffmedseg.data.pictures.rater_files": ["RaterFiles"],
        "diffmedseg.data.pseudo": ["PseudoMaskDataModule"],
        "diffmedseg.data.store": ["ImageStore"],
        "diffmedseg.data.synthetic": ["SyntheticDataModule"],
        "diffmedseg.errors": ["DataError"],
    },
)
