"""Predictions of volumes: maps as NIfTI."""

import math
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch

from diffmedseg.prediction.folder import PredictionFolder
from diffmedseg.prediction.rows import Row
from diffmedseg.prediction.volumes.compact import PackedMasks
from diffmedseg.prediction.volumes.nifti_writing import write_nifti
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.volumes.segmenting import VolumeSegmentation
from diffmedseg.reading.dicom_elements import check_elements
from diffmedseg.reading.label_maps import draw_labels
from diffmedseg.reading.volumes import read_stored


@dataclass(frozen=True, kw_only=True)
class VolumeRow(Row):
    """The results of a region of a case.

    Attributes:
        columns: Size of the maps along the first axis of their file.
        rows: Size of the maps along the second axis.
        slices: Size of the maps along the third axis.
        volume_ml: Volume of the mask, in ml.
        samples_ml_mean: Mean volume of the samples, in ml.
        samples_ml_std: Standard deviation of the samples' volumes, in ml. NaN if there is a single sample.
        samples_ml_min: Volume of the smallest sample, in ml. The mask is not a sample: fusing, calibration and the
            threshold decide voxel by voxel. Its volume may be outside of the range of the samples.
        samples_ml_max: Volume of the largest sample, in ml.
        volume_ml_low: Lower end of the interval of the volume, in ml. The interval contains the true volume as often as
            the calibration states. NaN if the model is not calibrated.
        volume_ml_high: Upper end of this interval, in ml.
    """

    columns: int
    rows: int
    slices: int
    volume_ml: float
    samples_ml_mean: float
    samples_ml_std: float = field(default=math.nan, metadata={"of": "several"})
    samples_ml_min: float
    samples_ml_max: float
    volume_ml_low: float = field(default=math.nan, metadata={"of": "calibrated"})
    volume_ml_high: float = field(default=math.nan, metadata={"of": "calibrated"})

    @property
    def outside_samples(self) -> bool:
        """Whether the mask is smaller than the smallest sample, or larger than the largest."""
        return not self.samples_ml_min <= self.volume_ml <= self.samples_ml_max


class VolumeFolder(PredictionFolder[VolumeRow]):
    """Writes maps with the size, spacing, origin and direction of the case's file."""

    row, suffix, samples_suffix = VolumeRow, ".nii.gz", ".nii.gz"

    def check_map(self, path: Path, row: VolumeRow) -> bool:
        """Return whether a map is readable and has the row's size."""
        size: tuple[int, ...] = read_stored(path)[0].GetSize()
        return size == (row.columns, row.rows, row.slices)

    def check_samples(self, path: Path, row: VolumeRow) -> bool:
        """Return whether a file has a readable volume of the row's size for each sample."""
        sizes = [volume.GetSize() for volume in read_stored(path)]
        return sizes == [(row.columns, row.rows, row.slices)] * self.num_samples

    def check_dicom(self, path: Path, row: VolumeRow) -> bool:
        """Return whether a DICOM object is complete. A segmentation also has to have the row's columns and rows."""
        import pydicom

        check_elements(path)
        header = pydicom.dcmread(path)
        size = header.get("Columns", row.columns), header.get("Rows", row.rows)
        return size == (row.columns, row.rows)

    def shape(self, row: VolumeRow) -> tuple[int, ...]:
        """Return slices, rows and columns: the order of the axes in an array of SimpleITK."""
        return row.slices, row.rows, row.columns

    def write_maps(self, name: str, volume: Volume, result: VolumeSegmentation) -> None:
        """Write the chosen maps, the label map and the samples.

        Mask and filled contours are uint8, 0 or 1. Probability and disagreement are float32 in [0, 1] and [0, 0.5], in
        steps of 1/256. The label map is uint8. Samples are uint8, 0 or 1, along the fourth axis of a NIfTI file, or
        bool in an ``npz``.

        Args:
            name: The case's name.
            volume: The case.
            result: Segmentation of the case.
        """
        stored, frame = volume.as_stored, volume.stored
        masks = {"mask": result.mask, "inner": result.inner, "outer": result.outer}
        maps = {"probability": result.probability, "disagreement": result.uncertainty}
        for kind, (k, region) in product(self.kinds, enumerate(self.regions)):
            path = self.path(name, kind, region)
            if (mask := masks.get(kind)) is not None:
                write_nifti(path, frame, np.uint8, stored(mask[k]))
            elif (soft := maps.get(kind)) is not None:
                write_nifti(path, frame, np.float32, map(soft.values_of, stored(soft.levels[k])))
        if self.labels is not None:
            labels = draw_labels(torch.from_numpy(result.mask), self.labels, self.nested).numpy()
            write_nifti(self.path(name, "labels"), frame, np.uint8, stored(labels))
        if result.full_samples is not None:
            self._write_samples(name, volume, result.full_samples)

    def _write_samples(self, name: str, volume: Volume, samples: PackedMasks) -> None:
        """Write samples (S, K, D, H, W)."""
        numbers = range(self.num_samples)
        if self.outputs.samples == "npz":
            columns, rows, slices = volume.stored.size
            masks = (volume.as_stored(samples[s, k]) for s, k in product(numbers, range(len(self.regions))))
            self.write_archive(name, (slices, rows, columns), masks)
            return
        for k, region in enumerate(self.regions):
            masks = (volume.as_stored(samples[s, k]) for s in numbers)
            write_nifti(self.path(name, "samples", region), volume.stored, np.uint8, masks, self.num_samples)
