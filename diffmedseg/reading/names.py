"""Names of pictures and volumes: what they end in, and what they say."""

import re
from pathlib import Path

from PIL import features

from diffmedseg.wording import first_names

VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd")
# A header whose voxels lie in a file of their own: not read.
HALVES = (".hdr", ".img", ".img.gz", ".mhd", ".nhdr")
PICTURES = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"),
    *([".jp2"] if features.check("jpg_2000") else []),  # Pillow may have been built without
    *([".webp"] if features.check("webp") else []),
)
# What tools and data sets append to an image's name.
_ENDINGS = re.compile(
    r"[_-](?:segmentations?|segm?|predictions?|pred|masks?|labels?|lbl|gt|ground[_-]?truth|truth|output|out)$",
    re.IGNORECASE,
)


def mask_key(path: Path) -> str:
    """Return what a mask is a mask of: its name without suffix, and without endings such as ``_segmentation_mask``."""
    name = path.name
    suffix = next((one for one in (*VOLUMES, *PICTURES) if name.lower().endswith(one)), "")
    name = name[: len(name) - len(suffix)]
    while shorter := _ENDINGS.sub("", name):
        if shorter == name:
            break
        name = shorter
    return name


def stem(path: Path) -> str:
    """Return a volume's name without its suffix."""
    suffix = next((suffix for suffix in VOLUMES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def data_files(folder: Path) -> list[Path]:
    """List the files directly in a folder, but for hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def volume_files(folder: Path) -> list[Path]:
    """List volumes; macOS leaves files called ._ beside them in archives."""
    return [path for path in data_files(folder) if path.name.lower().endswith(VOLUMES)]


def listing(folder: Path) -> str:
    """Name the first files and folders in a folder."""
    return first_names([path.name for path in folder.iterdir() if not path.name.startswith(".")], 6) or "nothing"
