"""Prints how many bytes per voxel the peak of this process rises when a file is segmented, after a small one."""

import math
import resource
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from helpers.dark_disc import bright_segmenter

from diffmedseg.prediction import Naming, Outputs, Settings, find_cases, predict_volumes

SMALL, LARGE = (8, 32, 32), (96, 256, 256)
CHANNELS, REGIONS = ("flair", "t1ce"), ("whole", "core", "enhancing")


def write(folder, shape):
    folder.mkdir()
    values = np.random.default_rng(0).integers(200, 400, shape, np.int16)
    values[:, [0, -1]] = values[:, :, [0, -1]] = 0
    values[shape[0] // 2 :, shape[1] // 2 :] += 300
    for channel in CHANNELS:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / f"{channel}.nii"))


def main(folder, axes):
    torch.set_num_threads(1)
    model, peaks = bright_segmenter(CHANNELS, REGIONS), []
    for number, shape in enumerate((SMALL, LARGE)):
        write(folder / f"case{number}", shape)
        cases = find_cases([folder / f"case{number}"], Naming(CHANNELS, {}))
        settings = Settings(num_samples=4, axes=axes, smallest={"enhancing": 4})
        outputs = Outputs(samples="image")
        report = predict_volumes(model, cases, folder / f"out{number}", settings, batch_size=2, outputs=outputs)
        assert not report.failed, report.failed
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print((peaks[1] - peaks[0]) / math.prod(LARGE))


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2].split(",")))
