"""Number of pixels or voxels of a file, from its header alone."""

import math
from pathlib import Path

from PIL import Image, ImageSequence

from diffmedseg.errors import DataError
from diffmedseg.reading.dicom import count_pixels, is_dicom_file
from diffmedseg.reading.itk_files import count_voxels
from diffmedseg.reading.names import VOLUMES
from diffmedseg.reading.nifti import read_header
from diffmedseg.reading.opening import image_size
from diffmedseg.reading.stacks import is_stack


def announced_size(path: Path) -> int:
    """Return the number of pixels or voxels that a picture, a volume or a DICOM slice has by its header.

    No pixel is decoded. The number is 0 if the file cannot be read; reading the file then raises the error.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            header = read_header(path)
            return math.prod(header.size) * header.volumes
        if is_dicom_file(path):
            return count_pixels(path)
        if is_stack(path):
            with Image.open(path) as image:
                return sum(math.prod(page.size) for page in ImageSequence.Iterator(image))
        return count_voxels(path) if name.endswith(VOLUMES) else math.prod(image_size(path))
    except (DataError, OSError):
        return 0
