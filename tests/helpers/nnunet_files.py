"""Small raw data sets in the format of nnU-Net v2."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from helpers.mri_files import SIZE, brain, labels, modality, write_nifti
from helpers.picture_files import lesion, photo, save

Labels = Mapping[str, int | list[int]]

REGIONS: Labels = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
CASES = ("case_0001", "case_0002", "b_3", "c-4", "d_0000_e", "f_6")


def write_json(
    root: Path,
    channels: Sequence[str],
    labels: Labels,
    ending: str = ".nii.gz",
    order: Sequence[int] | None = None,
    **facts: Any,
) -> None:
    """Write dataset.json; channels are numbered in their order."""
    root.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {"channel_names": {str(n): name for n, name in enumerate(channels)}, "labels": labels}
    said |= {"numTraining": len(CASES), "file_ending": ending}
    said |= {} if order is None else {"regions_class_order": order}
    (root / "dataset.json").write_text(json.dumps(said | facts))


def write_volume(path: Path, values: NDArray[Any], dtype: DTypeLike = np.float32) -> None:
    """Write a volume by its ending, with the axes of BraTS."""
    if path.name.endswith(".tif"):
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = [Image.fromarray(page.astype(np.uint8 if dtype == np.uint8 else np.float32)) for page in values]
        pages[0].save(path, save_all=True, append_images=pages[1:])
        return
    write_nifti(path, values, dtype)


def write_volumes(
    root: Path,
    cases: Sequence[str] = CASES,
    channels: Sequence[str] = ("FLAIR", "T1"),
    labels_of: Labels = REGIONS,
    order: Sequence[int] | None = (1, 2, 3),
    ending: str = ".nii.gz",
) -> Path:
    """Write volumes whose label map is 1 oedema, 2 core, 3 enhancing; each case has intensities of its own."""
    write_json(root, channels, labels_of, ending, None if order is None else list(order))
    for number, case in enumerate(cases):
        for channel in range(len(channels)):
            values = np.where(brain(), modality(channel) * (1 + number / 10), 0)
            write_volume(root / "imagesTr" / f"{case}_{channel:04d}{ending}", values)
        write_volume(root / "labelsTr" / f"{case}{ending}", labels((1, 2, 3)), np.uint8)
        if ending == ".tif":
            for folder in ("imagesTr", "labelsTr"):
                (root / folder / f"{case}.json").write_text('{"spacing": [2.0, 1.0, 1.5]}')
    return root


def hounsfield(number: int) -> NDArray[np.float32]:
    """CT: air, tissue, and a lesion that is brighter in each case."""
    rng = np.random.default_rng(number)
    values = np.where(brain(), 40 + rng.normal(0, 10, SIZE), -1000)
    return np.where(labels() > 0, 100 + 20 * number + rng.normal(0, 5, SIZE), values).astype(np.float32)


def write_ct(root: Path, cases: Sequence[str] = CASES) -> Path:
    write_json(root, ["CT"], {"background": 0, "liver": 1, "tumor": 2})
    for number, case in enumerate(cases):
        write_volume(root / "imagesTr" / f"{case}_0000.nii.gz", hounsfield(number))
        write_volume(root / "labelsTr" / f"{case}.nii.gz", labels((1, 1, 2)), np.uint8)
    return root


def write_pictures(
    root: Path, cases: Sequence[str] = CASES, grey: bool = False, ignore: int | None = None, part: str = "Tr"
) -> Path:
    """Write PNG with a disc of value 1 and a smaller one of 2 in it; optionally a corner of the ignore label."""
    said: dict[str, int | list[int]] = {"background": 0, "disc": [1, 2], "cup": 2}
    said |= {} if ignore is None else {"ignore": ignore}
    if part == "Tr":
        write_json(root, ["grey"] if grey else ["R", "G", "B"], said, ".png", [1, 2])
    for number, case in enumerate(cases):
        image = photo(number)
        save(root / f"images{part}" / f"{case}_0000.png", image[..., 0] if grey else image)
        save(root / f"labels{part}" / f"{case}.png", picture_labels(number, ignore))
    return root


def picture_labels(number: int, ignore: int | None = None) -> NDArray[np.uint8]:
    values = lesion(number).astype(np.uint8) + lesion(number, 0.5)
    if ignore is not None:
        values[:5, :5] = ignore
    return values


def nnunet_label_map(probabilities: NDArray[Any], order: Sequence[int]) -> NDArray[np.uint16]:
    """Draw regions as nnU-Net does (LabelManager.convert_probabilities_to_segmentation)."""
    drawn = np.zeros(probabilities.shape[1:], np.uint16)
    for region, value in enumerate(order):
        drawn[probabilities[region] > 0.5] = value
    return drawn


def read_labels(path: Path) -> NDArray[Any]:
    values: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return values
