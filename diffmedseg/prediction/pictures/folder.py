"""Predictions of pictures: maps as PNG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from diffmedseg.atomic import write_whole
from diffmedseg.prediction.folder import PredictionFolder
from diffmedseg.prediction.outputs import Outputs
from diffmedseg.prediction.rows import Row
from diffmedseg.reading.label_maps import draw_labels
from diffmedseg.reading.opening import open_image
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import Segmentation, full_size_samples

_AREAS = ("area", "samples_area_min", "samples_area_max", "area_low", "area_high")


@dataclass(frozen=True, kw_only=True)
class PictureRow(Row):
    """The results of a region of a picture.

    Attributes:
        width: Width of the maps, in pixels.
        height: Height of the maps, in pixels.
        area: Area of the mask, in pixels.
        area_fraction: Area of the mask as a fraction of the whole picture, with dark borders around the field of view.
            Tests report vessel density inside the field of view, which is another number.
        samples_area_min: Area of the smallest sample, in pixels. The mask is not a sample: fusing, calibration and the
            threshold decide pixel by pixel. Its area may be outside of the range of the samples.
        samples_area_max: Area of the largest sample, in pixels.
        area_low: Lower end of the interval of the area, in pixels. The interval contains the true area as often as the
            calibration states. NaN if the model is not calibrated.
        area_high: Upper end of this interval, in pixels.
        vertical_ratio: Height of the region divided by the height of the region around it, in the upright picture. For
            cup and disc, this is the vertical cup-to-disc ratio. NaN for the outermost region, if the region around is
            empty, and if the model's regions are not nested.
        vertical_ratio_low: 5th percentile of the vertical ratio over the samples.
        vertical_ratio_high: 95th percentile of the vertical ratio over the samples.
    """

    width: int
    height: int
    area: int
    area_fraction: float
    samples_area_min: int
    samples_area_max: int
    area_low: float = field(default=math.nan, metadata={"of": "calibrated"})
    area_high: float = field(default=math.nan, metadata={"of": "calibrated"})
    vertical_ratio: float = field(default=math.nan, metadata={"of": "nested"})
    vertical_ratio_low: float = field(default=math.nan, metadata={"of": "nested"})
    vertical_ratio_high: float = field(default=math.nan, metadata={"of": "nested"})

    @property
    def outside_samples(self) -> bool:
        """Whether the mask is smaller than the smallest sample, or larger than the largest."""
        return not self.samples_area_min <= self.area <= self.samples_area_max

    @classmethod
    def more_columns(cls, columns: Sequence[str], outputs: Outputs) -> list[str]:
        """Return the names of the areas in mm2; none if the size of a pixel is unknown."""
        return [f"{name}_mm2" for name in _AREAS if name in columns and outputs.pixel_size is not None]

    def more(self, outputs: Outputs) -> dict[str, float]:
        """Return the areas in mm2, with six significant digits."""
        if outputs.pixel_size is None:
            return {}
        pixel = math.prod(outputs.pixel_size)
        return {f"{name}_mm2": float(f"{getattr(self, name) * pixel:.6g}") for name in _AREAS}


class PictureFolder(PredictionFolder[PictureRow]):
    """Writes maps with the size and orientation of the picture's file."""

    row, suffix, samples_suffix = PictureRow, ".png", ".tif"

    def check_map(self, path: Path, row: PictureRow) -> bool:
        """Return whether a map is readable and has the row's size."""
        with open_image(path) as image:
            fits = image.size == (row.width, row.height)
            image.verify()
        return fits

    def check_samples(self, path: Path, row: PictureRow) -> bool:
        """Return whether a TIFF has a readable page of the row's size for each sample."""
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) != self.num_samples:
                return False
            for page in range(self.num_samples):
                image.seek(page)
                image.load()
                # Pillow turns a TIFF upright when it loads it.
                if image.size not in {(row.width, row.height), (row.height, row.width)}:
                    return False
        return True

    def shape(self, row: PictureRow) -> tuple[int, ...]:
        """Return height and width of a map."""
        return row.height, row.width

    def draw_maps(self, name: str, result: Segmentation) -> dict[Path, NDArray[np.uint8]]:
        """Return the chosen maps of each region, and the label map, by file.

        Mask and filled contours are 0 or 255. The probability is scaled from [0, 1] to 0 to 255. The disagreement is
        255 where half of the samples have foreground.

        Args:
            name: The picture's name.
            result: Segmentation of the picture, with the orientation of the file.
        """
        sources = {"mask": result.mask, "probability": result.probability, "disagreement": result.uncertainty}
        sources |= {
            kind: contour for kind, contour in (("inner", result.inner), ("outer", result.outer)) if contour is not None
        }
        maps = {}
        for k, region in enumerate(self.regions):
            for kind in self.kinds:
                values = sources[kind][0, k].float() * (2 * 255 if kind == "disagreement" else 255)
                maps[self.path(name, kind, region)] = values.round_().byte().numpy()
        if self.labels:
            maps[self.path(name, "labels")] = draw_labels(result.mask[0], self.labels, self.nested).numpy()
        return maps

    @staticmethod
    def write_maps(maps: dict[Path, NDArray[np.uint8]], orientation: int) -> None:
        """Write maps as PNG.

        Args:
            maps: Maps (h, w), by file.
            orientation: EXIF orientation of the picture's file. The maps get the same orientation, so that viewers turn
                picture and maps in the same way.
        """
        exif = Image.Exif()
        if orientation != 1:
            exif[Base.Orientation] = orientation
        for path, levels in maps.items():
            write_whole(path, partial(Image.fromarray(levels).save, format="PNG", exif=exif))

    def write_samples(
        self, name: str, result: Segmentation, orientation: int, window: CropWindow | None, size: tuple[int, int]
    ) -> None:
        """Write the thresholded samples at the size of the picture's file, one at a time.

        The form ``image`` is a TIFF for each region, with a page of 0 and 255 for each sample. For ``npz``, see
        :meth:`write_archive`.

        Args:
            name: The picture's name.
            result: Segmentation of the picture or of its window, with the orientation of the file.
            orientation: EXIF orientation of the picture's file.
            window: The window that was segmented; None for the whole picture.
            size: Height and width of the picture.
        """

        def samples() -> Iterator[NDArray[np.bool_]]:
            for sample in full_size_samples(result.samples, size, window):
                yield sample[0].numpy()

        if self.outputs.samples == "npz":
            self.write_archive(name, size, samples())
            return
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[Base.Orientation] = orientation

        for k, region in enumerate(self.regions):

            def save(temporary: Path, k: int = k) -> None:
                with TiffImagePlugin.AppendingTiffWriter(str(temporary), True) as pages:
                    for sample in samples():
                        page = Image.fromarray(np.where(sample[k], 255, 0).astype(np.uint8))
                        page.save(pages, format="TIFF", compression="tiff_adobe_deflate", tiffinfo=tags)
                        pages.newFrame()

            write_whole(self.path(name, "samples", region), save)
