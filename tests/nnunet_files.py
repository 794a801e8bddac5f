"""Small raw data sets in the format of nnU-Net v2."""

import json

import numpy as np
import SimpleITK as sitk
from mri_files import SIZE, brain, labels, modality, write_nifti
from picture_files import lesion, photo, save
from PIL import Image

REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
CASES = ("case_0001", "case_0002", "b_3", "c-4", "d_0000_e", "f_6")


def write_json(root, channels, labels, ending=".nii.gz", order=None, **facts):
    """Write dataset.json; channels are numbered in their order."""
    root.mkdir(parents=True, exist_ok=True)
    said = {"channel_names": {str(n): name for n, name in enumerate(channels)}, "labels": labels}
    said |= {"numTraining": len(CASES), "file_ending": ending}
    said |= {} if order is None else {"regions_class_order": order}
    (root / "dataset.json").write_text(json.dumps(said | facts))


def write_volume(path, values, dtype=np.float32):
    """Write a volume by its ending, with the axes of BraTS."""
    if path.name.endswith(".tif"):
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = [Image.fromarray(page.astype(np.uint8 if dtype == np.uint8 else np.float32)) for page in values]
        pages[0].save(path, save_all=True, append_images=pages[1:])
        return
    write_nifti(path, values, dtype)


def write_volumes(root, cases=CASES, channels=("FLAIR", "T1"), labels_of=REGIONS, order=(1, 2, 3), ending=".nii.gz"):
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


def hounsfield(number):
    """CT: air, tissue, and a lesion that is brighter in each case."""
    rng = np.random.default_rng(number)
    values = np.where(brain(), 40 + rng.normal(0, 10, SIZE), -1000)
    return np.where(labels() > 0, 100 + 20 * number + rng.normal(0, 5, SIZE), values).astype(np.float32)


def write_ct(root, cases=CASES):
    write_json(root, ["CT"], {"background": 0, "liver": 1, "tumor": 2})
    for number, case in enumerate(cases):
        write_volume(root / "imagesTr" / f"{case}_0000.nii.gz", hounsfield(number))
        write_volume(root / "labelsTr" / f"{case}.nii.gz", labels((1, 1, 2)), np.uint8)
    return root


def write_pictures(root, cases=CASES, grey=False, ignore=None, part="Tr"):
    """Write PNG with a disc of value 1 and a smaller one of 2 in it; optionally a corner of the ignore label."""
    said = {"background": 0, "disc": [1, 2], "cup": 2} | ({} if ignore is None else {"ignore": ignore})
    if part == "Tr":
        write_json(root, ["grey"] if grey else ["R", "G", "B"], said, ".png", [1, 2])
    for number, case in enumerate(cases):
        image = photo(number)
        save(root / f"images{part}" / f"{case}_0000.png", image[..., 0] if grey else image)
        save(root / f"labels{part}" / f"{case}.png", picture_labels(number, ignore))
    return root


def picture_labels(number, ignore=None):
    values = lesion(number).astype(np.uint8) + lesion(number, 0.5)
    if ignore is not None:
        values[:5, :5] = ignore
    return values


def nnunet_label_map(probabilities, order):
    """Draw regions as nnU-Net does (LabelManager.convert_probabilities_to_segmentation)."""
    drawn = np.zeros(probabilities.shape[1:], np.uint16)
    for region, value in enumerate(order):
        drawn[probabilities[region] > 0.5] = value
    return drawn


def read_labels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
