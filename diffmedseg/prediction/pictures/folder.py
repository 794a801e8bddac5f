"""Predictions of pictures: maps as PNG."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from PIL.ExifTags import Base

from diffmedseg.atomic import write_whole
from diffmedseg.prediction.folder import PredictionFolder, Row
from diffmedseg.reading.opening import open_image
from diffmedseg.segmentation import Segmentation


@dataclass(frozen=True)
class PictureRow(Row):
    """What is said of one region of one picture.

    Attributes:
        width: Width of the maps, in pixels.
        height: Height of the maps, in pixels.
        area: Pixels of the mask.
        area_fraction: The same as a fraction of the whole picture, dark borders around the field of view included: of
            vessels not the density that tests report inside the field of view.
        samples_area_min: Pixels of the smallest sample.
        samples_area_max: Pixels of the largest sample.
        area_low: Of a calibrated model, the lower end of an interval that holds the true area as often as its
            calibration says. NaN of others.
        area_high: The upper end.
        vertical_ratio: Where regions nest, the height of this one as a share of that of the one around it, in the
            upright picture: of cup and disc the vertical cup-to-disc ratio. NaN for the outermost.
        vertical_ratio_low: The 5th percentile of the same over the samples.
        vertical_ratio_high: The 95th.
    """

    width: int
    height: int
    area: int
    area_fraction: float
    samples_area_min: int
    samples_area_max: int
    area_low: float
    area_high: float
    vertical_ratio: float
    vertical_ratio_low: float
    vertical_ratio_high: float


class PictureFolder(PredictionFolder[PictureRow]):
    """Writes maps in the size and orientation of each picture's file."""

    row, suffix = PictureRow, ".png"

    def check_map(self, path: Path, row: PictureRow) -> bool:
        """Whether a map is readable and of the row's size."""
        with open_image(path) as image:
            fits = image.size == (row.width, row.height)
            image.verify()
        return fits

    def write_maps(self, name: str, result: Segmentation, orientation: int) -> None:
        """Write mask (0 or 255), probability (0 to 255) and disagreement (255: an even split) of each region.

        Of a calibrated model the inner and the outer contour, filled, too (0 or 255).

        Args:
            name: The picture's name.
            result: Its segmentation, laid out as its file.
            orientation: EXIF orientation of the file, handed on, so that viewers turn both alike.
        """
        exif = Image.Exif()
        if orientation != 1:
            exif[Base.Orientation] = orientation
        for k, region in enumerate(self.regions):
            maps = [result.mask, result.probability, 2 * result.uncertainty]
            maps += [contour for contour in (result.inner, result.outer) if contour is not None]
            for kind, values in zip(self.kinds, maps, strict=True):
                levels = Image.fromarray((values[0, k].float() * 255).round().byte().numpy())
                write_whole(self.path(name, kind, region), partial(levels.save, format="PNG", exif=exif))
