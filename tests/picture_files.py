"""Pictures and masks on disk."""

import numpy as np
import yaml
from PIL import Image
from tiny_run import EXPERIMENTS

from diffmedseg.data.configured import build_data

SIZE = (24, 30)


def lesion(seed, scale=1.0):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    middle = np.random.default_rng(seed).uniform(9, 15, 2)
    return (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < (6 * scale) ** 2


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_mask(path, mask):
    save(path, mask.astype(np.uint8) * 255)


def yaml_module(name, root, **options):
    config = yaml.safe_load((EXPERIMENTS / "data" / f"{name}.yaml").read_text())
    config["init_args"] |= {"root": str(root), "image_size": 16} | options
    return build_data(config)
