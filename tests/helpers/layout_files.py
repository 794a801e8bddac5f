"""Small data sets in the real formats of thyroid ultrasound, multi-rater fundus, QUBIQ and IMA++."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from helpers.picture_files import SIZE, lesion, save, save_mask


def texture(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A smooth grey image, unlike that of any other seed."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(60, 160, (5, 6), dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def photo(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.dstack([texture(3 * seed + channel, size) for channel in range(3)])


Outline = list[dict[str, int]]

# DDTI: <patient>.xml beside <patient>_<number>.jpg.


def circle(x: float, y: float, radius: float, share: float = 1.0, points: int = 40) -> Outline:
    """Points as a hand draws them, closed or up to a share of the way."""
    angles = np.linspace(0, 2 * np.pi * share, points, endpoint=False)
    return [{"x": round(x + radius * np.cos(a)), "y": round(y + radius * np.sin(a))} for a in angles]


def svg(*outlines: Outline) -> str:
    regions = [{"points": points, "annotation": {}, "regionType": "freehand"} for points in outlines]
    return json.dumps(regions)


def xml(number: int, marks: Iterable[tuple[int, str]]) -> str:
    """The text of a patient's file; ``marks`` are pairs of a picture's number and its svg."""
    inner = "".join(f"<mark><image>{image}</image><svg>{content}</svg></mark>" for image, content in marks)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><case><number>{number}</number><age>43</age><sex>F</sex>'
        f"<composition>solid</composition><tirads>4a</tirads>{inner}</case>"
    )


def write_ddti(root: Path, patients: Iterable[int] = range(1, 9)) -> None:
    """Two images of each patient: one nodule in the first, two in the second."""
    for number in patients:
        root.mkdir(parents=True, exist_ok=True)
        for image in (1, 2):
            save(root / f"{number}_{image}.jpg", texture(10 * number + image))
        marks = [(1, svg(circle(12, 12, 5))), (2, svg(circle(8, 8, 4), circle(21, 15, 4)))]
        (root / f"{number}.xml").write_text(xml(number, marks))


# TN3K.


def write_tn3k(root: Path, trainval: int = 10, test: int = 3) -> None:
    for part, number in (("trainval", trainval), ("test", test)):
        for index in range(number):
            save(root / f"{part}-image" / f"{index:04d}.jpg", photo(index + 50 * (part == "test")))
            path = root / f"{part}-mask" / f"{index:04d}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(lesion(index).astype(np.uint8) * 255).save(path, quality=90)
    for fold in range(5):
        val = [index for index in range(trainval) if index % 5 == fold]
        lists = {"train": [index for index in range(trainval) if index not in val], "val": val}
        (root / f"tn3k-trainval-fold{fold}.json").write_text(json.dumps(lists))


# Drishti-GS1.


def agreement(seed: int, scale: float = 1.0) -> NDArray[np.uint8]:
    """A map of four experts, from the largest outline to the smallest."""
    votes = np.sum([lesion(seed, scale * size) for size in (1.2, 1.1, 1.0, 0.9)], axis=0)
    return np.array([0, 64, 128, 191, 255], np.uint8)[votes]


def write_drishti(root: Path, training: int = 6, test: int = 3) -> None:
    for part, truth, number in (("Training", "GT", training), ("Test", "Test_GT", test)):
        for index in range(number):
            name = f"drishtiGS_{index + 1:03d}"
            folder = root / "Drishti-GS1_files" / part
            save(folder / "Images" / f"{name}.png", photo(index + 50 * (part == "Test")))
            for region, scale in (("ODseg", 1.0), ("cupseg", 0.5)):
                path = folder / truth / name / "SoftMap" / f"{name}_{region}Softmap.png"
                save(path, agreement(index, scale))
            (folder / truth / name / "AvgBoundary").mkdir()
            (folder / truth / name / "AvgBoundary" / f"{name}_diskCenter.txt").write_text("12 15 ")


# RIGA: outlines drawn into copies.

RIGA_SIZE = (90, 110)
RIGA_SETS = {
    "BinRushed/BinRushed1-Corrected": "jpg", "BinRushed/BinRushed2": "jpg", "MESSIDOR": "tif",
    "Magrabia/MagrabiaMale": "tif", "Magrabia/MagrabiFemale": "tif",
}  # fmt: skip


def draw(
    image: NDArray[np.uint8],
    radii: Iterable[float],
    middle: tuple[int, int] = (55, 45),
    width: int = 2,
    arc: float = 360,
) -> Image.Image:
    """Draw black circles into an image."""
    drawn = Image.fromarray(image)
    for radius in radii:
        box = [middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius]
        ImageDraw.Draw(drawn).arc(box, 0, arc, (0, 0, 0), width)
    return drawn


def filled(radius: float, middle: tuple[int, int] = (55, 45), size: tuple[int, int] = RIGA_SIZE) -> NDArray[np.bool_]:
    y, x = np.mgrid[: size[0], : size[1]]
    return (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2


def write_riga(root: Path, each: int = 2) -> None:
    number = 0
    for folder, suffix in RIGA_SETS.items():
        for index in range(1, each + 1):
            number += 1
            image = photo(number, RIGA_SIZE)
            options: dict[str, Any] = {"quality": 95} if suffix == "jpg" else {}
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / folder / f"image{index}prime.{suffix}", **options)
            for rater in range(1, 7):
                # Real names of the first rater's files begin with a capital in one folder.
                name = f"{'Image' if rater == 1 and folder.endswith('Male') else 'image'}{index}-{rater}.{suffix}"
                draw(image, (24 + rater, 10 + rater)).save(root / folder / name, **options)


# QUBIQ: slices in NIfTI files.


def write_slice(path: Path, values: NDArray[Any]) -> None:
    """Write (rows, columns[, modalities]) as QUBIQ does: columns are the first axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.swapaxes(values, 0, 1), np.eye(4)), path)


def write_qubiq(
    root: Path,
    image_set: str = "brain-growth",
    raters: int = 7,
    tasks: int = 1,
    modalities: int = 1,
    training: int = 5,
    validation: int = 2,
) -> None:
    """The last case has one rater less."""
    places = [("training_data_v3_QC", "Training", range(1, training + 1))]
    places += [("validation_data_qubiq2021_QC", "Validation", range(training + 1, training + validation + 1))]
    for outer, part, numbers in places:
        for number in numbers:
            folder = root / outer / image_set / part / f"case{number:02d}"
            slices = [texture(10 * number + m).astype(np.float32) * 9 - 200 for m in range(modalities)]
            write_slice(folder / "image.nii.gz", slices[0] if modalities == 1 else np.dstack(slices))
            for task in range(1, tasks + 1):
                for rater in range(1, raters + 1 - (number == numbers[-1])):
                    mask = lesion(number, (0.8 + rater / 20) / task)
                    write_slice(folder / f"task{task:02d}_seg{rater:02d}.nii.gz", mask.astype(np.uint8))


# IMA++.


def write_imapp(root: Path, raters: Sequence[int] = (1, 2, 3, 5, 2, 1, 2, 4)) -> None:
    """Images in a folder, masks in another, with fused masks beside them and the table of patients."""
    rows = ["isic_id,attribution,copyright_license,lesion_id,patient_id"]
    for number, masks in enumerate(raters):
        name = f"ISIC_{number:07d}"
        path = root / "images" / f"{name}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(number)).save(path, "JPEG")
        for rater in range(masks):
            file = f"{name}_A{rater:02d}_T1_S2_54ea8ac3bae47871b5e00c{rater:02d}.png"
            save_mask(root / "segs" / file, lesion(number, 0.8 + rater / 10))
        if masks > 1:
            for fused in ("ST", "MV"):
                save_mask(root / "segs" / f"{name}_{'_'.join([fused] * 4)}.png", lesion(number))
        rows.append(f"{name},Anonymous,CC-0,,{'IP_1' if number < 2 else ''}")
    (root / "IMAplusplus_img_metadata.csv").write_text("\n".join(rows))
