"""Write any data set as a raw data set of nnU-Net v2, with the same splits."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from diffmedseg.atomic import temporary_folder
from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.mri.volumes import find_brain
from diffmedseg.data.native import Native
from diffmedseg.data.nnunet.description import DATASET_JSON, SPLITS_FINAL
from diffmedseg.data.nnunet.files import TEST, TRAINING
from diffmedseg.data.nnunet.labels import LabelScheme, count_patterns, label_scheme
from diffmedseg.errors import DataError
from diffmedseg.reading.names import refuse_clashes
from diffmedseg.segmentation import majority

#: nnU-Net's names of the channels of colour pictures.
_COLOURS: Mapping[tuple[str, ...], Sequence[str]] = {("red", "green", "blue"): ("R", "G", "B")}
_log = logging.getLogger(__name__)


def write_nnunet(data: SegmentationDataModule, out: Path, raters: Literal["majority"] | None = None) -> dict[str, Any]:
    """Write a data set as a raw data set of nnU-Net v2.

    Volumes become NIfTI files of float32 with axes nearest to LPS, and pictures PNG. ``train`` and ``val`` go to
    imagesTr and labelsTr, and are the one fold of splits_final.json; ``test`` goes to imagesTs and labelsTs.

    Args:
        data: The data set.
        out: A new folder with a name of nnU-Net's form, ``Dataset<3 digits>_<name>``.
        raters: How several raters become one label map. ``majority`` is the majority of the raters; with two raters it
            is the first rater. None refuses several raters.

    Returns:
        The content of dataset.json.

    Raises:
        DataError: If the name of the folder has another form, the folder exists, there are several raters and
            ``raters`` is None, or a case cannot be read.
    """
    if not re.fullmatch(r"Dataset\d{3}_[\w-]+", out.name):
        raise DataError(
            f"{out.name} is no name of nnU-Net. Name the folder Dataset<3 digits>_<name>, such as Dataset501_Eyes."
        )
    if out.exists():
        raise DataError(f"{out} exists already. Name a new folder.")
    if data.info.raters > 1 and raters is None:
        raise DataError(
            f"{data.info.title} has {data.info.raters} raters; nnU-Net takes one label map per case. Fuse the raters "
            "by --raters majority. With two raters it takes the first."
        )
    if data.info.cropped:
        raise DataError(
            f"{data.info.title} shows windows of its pictures. Leave data.windows out, to convert whole pictures."
        )
    data.prepare_data()
    ids = {split: sorted(data.split_cases(split)) for split in ("train", "val", "test")}
    scheme = _scheme(data)
    test_store = data.dataset("test")
    if scheme.ignore is None and test_store.field_of_view(0) is not None:
        _log.warning("nnU-Net has no field of view: its scores count pixels outside it as background.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out) as folder:
        folder.mkdir()
        endings = _write_cases(data, folder, scheme, set(ids["val"]) <= set(ids["train"]))
        facts = _facts(data, scheme, endings.pop(), len({*ids["train"], *ids["val"]}))
        (folder / DATASET_JSON).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        fold = {name: ids[name] for name in ("train", "val")}
        (folder / SPLITS_FINAL).write_text(json.dumps([fold], indent=1), encoding="utf-8")
        folder.rename(out)
    return facts


def _splits(skip_val: bool) -> tuple[tuple[Split, str], ...]:
    """Return each split with its part of the raw data set."""
    training: tuple[tuple[Split, str], ...] = (
        (("train", TRAINING),) if skip_val else (("train", TRAINING), ("val", TRAINING))
    )
    return (*training, ("test", TEST))


def _fused(masks: Tensor) -> NDArray[np.uint8]:
    """Fuse masks (R, K, ...) to (K, ...), by the majority if there are several raters."""
    fused: NDArray[np.uint8] = (masks[0] if len(masks) == 1 else majority(masks)).numpy()
    return fused


def _scheme(data: SegmentationDataModule) -> LabelScheme:
    """Find which regions share pixels. If the labels state it, no case is read."""
    patterns = data.mask_patterns()
    if patterns is not None:
        # Regions with more labels are larger, and are drawn first.
        ignored = data.dataset("train").unsure(0) is not None
        return label_scheme(data.info.regions, Counter(dict.fromkeys(patterns, 1)), ignored)
    unsure: list[bool] = []

    def masks() -> Iterator[NDArray[np.uint8]]:
        for split in get_args(Split):
            store = data.dataset(split)
            for index in track(range(len(store)), f"Reading masks: {split}", disable=len(store) < 100):
                unsure.append(store.unsure(index) is not None)
                yield _fused(store.reference(index))

    counts = count_patterns(masks())
    return label_scheme(data.info.regions, counts, any(unsure))


def _write_cases(data: SegmentationDataModule, folder: Path, scheme: LabelScheme, skip_val: bool) -> set[str]:
    """Write all cases; return the ending of their files."""
    endings, names = set(), []
    for split, part in _splits(skip_val):
        total = len(data.split_cases(split))
        for case in track(data.native_cases(split), f"Writing {split}", total, disable=total < 20):
            names.append((case.id, folder / case.id))
            endings.add(_write_case(case, folder, part, scheme))
    refuse_clashes(names, "cases", "Rename one.")
    return endings


def _write_case(case: Native, folder: Path, part: str, scheme: LabelScheme) -> str:
    """Write a case, and return the ending of its files."""
    labels = scheme.draw(_fused(torch.from_numpy(case.masks)), case.unsure)
    images, maps = folder / f"images{part}", folder / f"labels{part}"
    for subfolder in (images, maps):
        subfolder.mkdir(exist_ok=True)
    if case.grid is None:
        colours = case.image[0] if len(case.image) == 1 else case.image.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(colours)).save(images / f"{case.id}_0000.png")
        Image.fromarray(labels).save(maps / f"{case.id}.png")
        return ".png"
    for number, channel in enumerate(_without_air(case)):
        _write_volume(case, channel, images / f"{case.id}_{number:04d}.nii.gz")
    _write_volume(case, labels, maps / f"{case.id}.nii.gz")
    return ".nii.gz"


def _without_air(case: Native) -> NDArray[np.float32]:
    """Return the channels of a volume with 0 outside its brain mask, because nnU-Net has no brain masks."""
    if case.outside is None:
        return case.image
    channels = np.where(case.outside, np.float32(0), case.image)
    differs = int((find_brain(channels) == case.outside).sum())
    if differs:
        _log.warning("%s: %d voxels of its brain mask cannot be found from the image.", case.id, differs)
    return channels


def _write_volume(case: Native, values: NDArray[Any], path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values)
    if case.grid is not None:
        case.grid.give(image)
    sitk.WriteImage(image, str(path), useCompression=True)


def _facts(data: SegmentationDataModule, scheme: LabelScheme, ending: str, training: int) -> dict[str, Any]:
    """Return the content of dataset.json."""
    info = data.info
    ranges = {} if info.slice_input is None else info.slice_input.ranges
    # nnU-Net chooses its normalisation by the names of channels. Channels with a range are clipped, as CT is.
    names = _COLOURS.get(info.channels) or ["CT" if name in ranges else name for name in info.channels]
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        **scheme.as_dict(),
        "numTraining": training,
        "file_ending": ending,
        "name": info.title,
        "reference": info.citation,
        "licence": info.licence,
        "converted_by": "diffmedseg data convert",
    }
