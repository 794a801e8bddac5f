"""Tiny brains in the official layouts of the data sets."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

if TYPE_CHECKING:
    from diffmedseg.data.base import SegmentationDataModule

SIZE = (6, 20, 16)  # slices, rows, columns
SPACING = (2.0, 1.0, 1.5)  # mm, in the same order


def brain() -> NDArray[np.bool_]:
    z, y, x = np.mgrid[tuple(slice(n) for n in SIZE)]
    return ((z - 2.5) / 2.4) ** 2 + ((y - 9.5) / 8) ** 2 + ((x - 7.5) / 6) ** 2 < 1


def labels(values: Sequence[int] = (2, 1, 4)) -> NDArray[np.uint8]:
    """Oedema around a core around enhancing tumour, off the middle: the values in that order."""
    z, y, x = np.mgrid[tuple(slice(n) for n in SIZE)]
    distance = np.sqrt((z - 2.5) ** 2 + (y - 6) ** 2 + (x - 5) ** 2)
    found = np.zeros(SIZE, dtype=np.uint8)
    for value, radius in zip(values, (2.4, 1.7, 1.0), strict=True):
        found[distance < radius] = value
    return found


def modality(number: int, background: float = 0.0) -> NDArray[np.float32]:
    """Another contrast for each number."""
    rng = np.random.default_rng(number)
    tissue = 100 + 40 * number + 300 * (labels() > 0) * (number % 2) + rng.normal(0, 5, SIZE)
    return np.where(brain(), tissue, background).astype(np.float32)


def write_nifti(
    path: Path,
    values: NDArray[Any],
    dtype: DTypeLike = np.int16,
    spacing: Sequence[float] = SPACING,
    direction: Sequence[float] | None = None,
    origin: Sequence[float] = (0, -239, 0),
) -> None:
    """Write slices, rows, columns (or volumes of these) with the affine of BraTS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = []
    for volume in values.astype(dtype) if values.ndim == 4 else [values.astype(dtype)]:
        image = sitk.GetImageFromArray(volume)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin(origin)
        if direction is not None:
            image.SetDirection(direction)
        images.append(image)
    sitk.WriteImage(sitk.JoinSeries(images) if values.ndim == 4 else images[0], str(path))


def write_dicom(
    folder: Path,
    values: NDArray[Any],
    uid: str = "1.2.3",
    patient: str = "p1",
    skip: Collection[int] = (),
    slope: float = 1.0,
    places: Sequence[float] | None = None,
    shift: float = 0.0,
    **tags: Any,
) -> None:
    """A series: a file per slice, in no order, axes and spacing as the volumes above have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, slice_ in enumerate(values):
        if number in skip:
            continue
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = MRImageStorage
        file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
        file.SeriesInstanceUID, file.StudyInstanceUID, file.PatientID, file.Modality = uid, "1.2", patient, "MR"
        place = number * SPACING[0] if places is None else places[number]
        file.ImagePositionPatient = [number * shift, -239, place]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.PixelSpacing, file.SliceThickness = list(SPACING[1:]), SPACING[0]
        file.Rows, file.Columns = slice_.shape
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
        file.RescaleIntercept, file.RescaleSlope = 0, slope
        file.PixelData = (slice_ / slope).round().astype(np.int16).tobytes()
        for tag, value in tags.items():
            if value is None:
                del file[tag]
            else:
                setattr(file, tag, value)
        file.save_as(folder / f"IM{(number * 7) % 100:03d}.dcm", enforce_file_format=True)


def write_brats(
    root: Path,
    names: Iterable[str],
    suffixes: Sequence[str] = ("t1", "t1ce", "t2", "flair"),
    sep: str = "_",
    ext: str = ".nii.gz",
    values: Sequence[int] = (2, 1, 4),
    seg: str | None = "seg",
) -> None:
    """Folders with a file per modality."""
    for name in names:
        for number, suffix in enumerate(suffixes):
            write_nifti(root / name / f"{name.split('/')[-1]}{sep}{suffix}{ext}", modality(number))
        if seg is not None:
            dtype = np.uint8 if len(name) % 2 else np.int16  # it differs between cases
            write_nifti(root / name / f"{name.split('/')[-1]}{sep}{seg}{ext}", labels(values), dtype)


def write_brats2015(root: Path, names: Iterable[str]) -> None:
    """Two modalities, scored and stripped in an order that leaves a negative background, and a mask."""
    for name in names:
        for number, file in enumerate(("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd")):
            write_nifti(root / name / f"{file}.nii.gz", modality(number, background=-3.2), np.float32)
        write_nifti(root / name / "OTMultiClass.nii.gz", labels((2, 3, 4)), np.float32)
        write_nifti(root / name / "brainmask.nii.gz", brain(), np.float32)


def write_msd(root: Path, names: Iterable[str]) -> None:
    for name in names:
        volumes = np.stack([modality(number) for number in range(4)])
        write_nifti(root / "Task01_BrainTumour" / "imagesTr" / f"{name}.nii.gz", volumes, np.float32)
        write_nifti(root / "Task01_BrainTumour" / "labelsTr" / f"{name}.nii.gz", labels((1, 2, 3)), np.uint8)
        (root / "Task01_BrainTumour" / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"macOS")


def write_own(root: Path, names: Iterable[str]) -> None:
    for name in names:
        write_nifti(root / "images" / f"{name}.nii.gz", modality(3), np.int16)
        write_nifti(root / "masks" / f"{name}.nii.gz", labels((1, 1, 1)), np.uint8)


def write_lgg(root: Path, names: Iterable[str], noise: float = 0.0) -> None:
    """Pictures of slices; with noise around the head, as the real ones have it, which leaves a blank rim."""
    air = np.random.default_rng(9).uniform(0, noise, SIZE)
    air[:, [0, -1]], air[:, :, [0, -1]] = 0, 0
    for name in names:
        folder = root / "kaggle_3m" / name
        folder.mkdir(parents=True)
        colours = np.stack([np.where(brain(), modality(number), air) for number in range(3)], -1)
        colours = (colours / colours.max() * 255).astype(np.uint8)
        for number in range(SIZE[0]):
            Image.fromarray(colours[number]).save(folder / f"{name}_{number + 8}.tif")  # 8 to 13: not padded
            Image.fromarray((labels()[number] > 0).astype(np.uint8) * 255).save(
                folder / f"{name}_{number + 8}_mask.tif"
            )
    (root / "kaggle_3m" / "data.csv").write_text("Patient\n")


def data_module(name: str, root: Path, **options: Any) -> "SegmentationDataModule":
    """What experiments/data/<name>.yaml describes, with other settings."""
    from diffmedseg.data.configured import build_data
    from diffmedseg.experiments import data_config

    config = data_config(name)
    for setting in {"modalities", "brain_mask"} & options.keys():
        config["init_args"]["layout"]["init_args"][setting] = options.pop(setting)
    config["init_args"] |= {"root": str(root), "image_size": 16, "folds": 2} | options
    return build_data(config)


#: By yaml: what writes its layout, and three names of cases.
LAYOUTS: dict[str, tuple[Callable[[Path, Iterable[str]], None], list[str]]] = {
    "brats": (write_brats, ["BraTS2021_00000", "BraTS2021_00002", "BraTS2021_01666"]),
    "brats2015": (write_brats2015, ["brats_2013_pat0003_1", "brats_2013_pat0004_1", "brats_2013_pat0105_1"]),
    "brats2018": (write_brats, ["HGG/Brats18_TCIA02_226_1", "LGG/Brats18_2013_0_1", "HGG/Brats17_CBICA_AAB_1"]),
    "brats2019": (write_brats, ["HGG/BraTS19_CBICA_AAB_1", "LGG/BraTS19_TMC_09043_1", "HGG/BraTS19_2013_10_1"]),
    "brats2020": (
        lambda root, names: write_brats(root, names, ext=".nii"),
        [f"MICCAI_BraTS2020_TrainingData/BraTS20_Training_{number:03d}" for number in (1, 2, 355)],
    ),
    "brats2023": (
        lambda root, names: write_brats(root, names, ("t1n", "t1c", "t2w", "t2f"), "-", values=(2, 1, 3)),
        ["BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000"],
    ),
    "msd_brain": (write_msd, ["BRATS_001", "BRATS_002", "BRATS_010"]),
    "volumes": (write_own, ["anna", "bo scan.2", "c-3"]),
    "lgg": (write_lgg, ["TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405", "TCGA_HT_A61A_20000127"]),
}


def write_layout(name: str, root: Path) -> list[str]:
    writer, names = LAYOUTS[name]
    writer(root, names)
    return [case.split("/")[-1] for case in names]
