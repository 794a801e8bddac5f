"""Predictions of volumes: maps as NIfTI."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from diffmedseg.atomic import write_whole
from diffmedseg.prediction.folder import PredictionFolder, Row
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.volumes.segmenting import VolumeSegmentation
from diffmedseg.reading.volumes import read_stored

_STEPS = 2**14  # per unit of probability: digits below 6e-5 say nothing, and would make files thirty times larger


@dataclass(frozen=True)
class VolumeRow(Row):
    """What is said of one region of one case.

    Attributes:
        columns: Size of the maps along the first axis of their file.
        rows: Along the second.
        slices: Along the third.
        volume_ml: Volume of the mask, in millilitres.
        samples_ml_mean: Mean volume of the samples.
        samples_ml_std: Its standard deviation over the samples; NaN of a single one.
        samples_ml_min: Volume of the smallest sample.
        samples_ml_max: Volume of the largest sample.
        volume_ml_low: Of a calibrated model, the lower end of an interval that holds the true volume as often as its
            calibration says. NaN of others.
        volume_ml_high: The upper end.
    """

    columns: int
    rows: int
    slices: int
    volume_ml: float
    samples_ml_mean: float
    samples_ml_std: float
    samples_ml_min: float
    samples_ml_max: float
    volume_ml_low: float
    volume_ml_high: float


class VolumeFolder(PredictionFolder[VolumeRow]):
    """Writes maps that overlay the case's file exactly: its size, spacing, origin and direction."""

    row, suffix = VolumeRow, ".nii.gz"

    def check_map(self, path: Path, row: VolumeRow) -> bool:
        """Whether a map is readable and of the row's size."""
        size: tuple[int, ...] = read_stored(path)[0].GetSize()
        return size == (row.columns, row.rows, row.slices)

    def write_maps(self, name: str, volume: Volume, result: VolumeSegmentation) -> None:
        """Write mask (uint8, 0 or 1), probability and disagreement (float32, [0, 1] and [0, 0.5], in steps of 6e-5).

        Of a calibrated model the inner and the outer contour, filled, too (uint8, 0 or 1).

        Args:
            name: The case's name.
            volume: The case.
            result: Its segmentation.
        """
        import SimpleITK as sitk

        for k, region in enumerate(self.regions):
            soft = (np.round(values * _STEPS) / _STEPS for values in (result.probability[k], result.uncertainty[k]))
            contours = (one[k].astype(np.uint8) for one in (result.inner, result.outer) if one is not None)
            maps = (result.mask[k].astype(np.uint8), *soft, *contours)
            for kind, values in zip(self.kinds, maps, strict=True):
                image = volume.lay_over(values)
                write_whole(self.path(name, kind, region), partial(sitk.WriteImage, image, useCompression=True))
