"""Folders of pseudo masks of small data, and the data modules that read them."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.data import SyntheticDataModule
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.labels import LargestComponent, MaskRule, Plausible
from diffmedseg.data.labels.supervision import NOTHING as NOTHING
from diffmedseg.data.pseudo import PseudoMask, PseudoMaskDataModule
from diffmedseg.experiments import data_config
from diffmedseg.pseudo.proposers import Council, Luminance
from diffmedseg.pseudo.writing import Order, write_pseudo_masks
from helpers.tiny_run import tiny_data


def rule(**options: Any) -> MaskRule:
    """Return a rule for synthetic lesions, which can be anywhere."""
    settings: dict[str, Any] = {"polarity": "darker", "component": LargestComponent()}
    return MaskRule(**settings | {"plausible": Plausible((0.01, 0.6), 0.3, None)} | options)


def order(data: SegmentationDataModule, **options: Any) -> Order:
    """Return the settings of masks by luminance."""
    council = Council([Luminance(data.mask_rule, data.info)], data.mask_rule, None)
    settings: dict[str, Any] = {"council": council, "data": data, "facts": {}, "true_masks": 0, "seed": 0}
    return Order(**settings | {"settings": {}} | options)


def written(folder: Path, **options: Any) -> tuple[SyntheticDataModule, list[PseudoMask]]:
    """Write pseudo masks of synthetic lesions."""
    data = tiny_data(image_size=32, mask_rule=rule(), **options)
    return data, write_pseudo_masks(order(data), folder)


def picture(path: Path) -> NDArray[np.bool_]:
    """Read a mask."""
    return np.asarray(Image.open(path)) > 0


def content(folder: Path) -> dict[Path, bytes]:
    """Return the content of all files but those of settings, by path."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".json"}


def module(folder: Path) -> PseudoMaskDataModule:
    """Return the data module of `diffmedseg train MODEL FOLDER/data.yaml`."""
    data = build_data(yaml.safe_load((folder / "data.yaml").read_text())["data"])
    assert isinstance(data, PseudoMaskDataModule)
    return data


def folder_of_pictures(root: Path) -> SegmentationDataModule:
    """Return the data module of `diffmedseg train MODEL folder --data.root ROOT`."""
    config = data_config("folder")
    return build_data({**config, "init_args": config["init_args"] | {"root": str(root), "image_size": 32}})
