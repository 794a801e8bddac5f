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
    """What is said of one region of one picture.

    Attributes:
        width: Width of the maps, in pixels.
        height: Height of the maps, in pixels.
        area: Pixels of the mask.
        area_fraction: The same as a fraction of the whole picture, dark borders around the field of view included: of
            vessels not the density that tests report inside the field of view.
        samples_area_min: Pixels of the smallest sample. The mask is no sample: fusing, calibration and the threshold
            decide pixel by pixel, so that its area may lie outside of this range.
        samples_area_max: Pixels of the largest sample.
        area_low: Of a calibrated model, the lower end of an interval that holds the true area as often as its
            calibration says.
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
        """Name the areas in mm2, where the size of a pixel is known."""
        return [f"{name}_mm2" for name in _AREAS if name in columns and outputs.pixel_size is not None]

    def more(self, outputs: Outputs) -> dict[str, float]:
        """Return the areas in mm2, of six digits."""
        if outputs.pixel_size is None:
            return {}
        pixel = math.prod(outputs.pixel_size)
        return {f"{name}_mm2": float(f"{getattr(self, name) * pixel:.6g}") for name in _AREAS}


class PictureFolder(PredictionFolder[PictureRow]):
    """Writes maps in the size and orientation of each picture's file."""

    row, suffix, samples_suffix = PictureRow, ".png", ".tif"

    def check_map(self, path: Path, row: PictureRow) -> bool:
        """Whether a map is readable and of the row's size."""
        with open_image(path) as image:
            fits = image.size == (row.width, row.height)
            image.verify()
        return fits

    def check_samples(self, path: Path, row: PictureRow) -> bool:
        """Whether there is a readable page of the right size for each sample."""
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) != self.num_samples:
                return False
            for page in range(self.num_samples):
                image.seek(page)
                image.load()
                # Pillow turns TIFF upright as it loads.
                if image.size not in {(row.width, row.height), (row.height, row.width)}:
                    return False
        return True

    def shape(self, row: PictureRow) -> tuple[int, ...]:
        """Return height and width."""
        return row.height, row.width

    def draw_maps(self, name: str, result: Segmentation) -> dict[Path, NDArray[np.uint8]]:
        """Draw what is written of each region: the maps that were chosen, and the label map.

        Mask and contours (filled) are 0 or 255, probability 0 to 255, disagreement 255 at an even split.

        Args:
            name: The picture's name.
            result: Its segmentation, laid out as its file.
        """
        sources = {"mask": result.mask, "probability": result.probability, "disagreement": result.uncertainty}
        sources |= {kind: one for kind, one in (("inner", result.inner), ("outer", result.outer)) if one is not None}
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
            maps: By file, (h, w).
            orientation: EXIF orientation of the picture's file, handed on, so that viewers turn both alike.
        """
        exif = Image.Exif()
        if orientation != 1:
            exif[Base.Orientation] = orientation
        for path, levels in maps.items():
            write_whole(path, partial(Image.fromarray(levels).save, format="PNG", exif=exif))

    def write_samples(
        self, name: str, result: Segmentation, orientation: int, window: CropWindow | None, size: tuple[int, int]
    ) -> None:
        """Write the samples, thresholded at the size of the picture's file, one at a time.

        As images: of each region a TIFF with a page per sample, 0 or 255. As ``npz``: see :meth:`write_archive`.

        Args:
            name: The picture's name.
            result: Its segmentation, or that of its window, laid out as its file.
            orientation: EXIF orientation of the picture's file.
            window: The part of the picture that was segmented; None for all.
            size: Height and width of the picture.
        """
        seen = int(result.mask.shape[-2]), int(result.mask.shape[-1])

        def samples() -> Iterator[NDArray[np.bool_]]:
            for sample in full_size_samples(result.samples, seen):
                yield (sample if window is None else window.place(sample, size))[0].numpy()

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
