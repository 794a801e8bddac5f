"""Prints how far the peak of this process rises, in MiB, when a volume is segmented with many samples after few."""

import resource
import sys
from dataclasses import replace

import numpy as np
import torch
from helpers.dark_disc import bright_segmenter

from diffmedseg.prediction import Settings
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.volumes.segmenting import segment_volume
from diffmedseg.prediction.volumes.slices import SliceRun
from diffmedseg.reading.grid import Frame, Grid

SHAPE, FEW, MANY = (64, 256, 256), 2, 34


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(axes):
    torch.set_num_threads(1)
    grid = Grid(np.ones(3), np.zeros(3), np.eye(3), "")
    frame = Frame(SHAPE[::-1], grid)
    values = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    volume = Volume(list(values), np.ones(SHAPE, bool), ["flair"], frame, frame, "")
    model = bright_segmenter(("flair",))
    peaks = []
    for count in (FEW, MANY):
        settings = replace(Settings(num_samples=count).filled_from(model), axes=axes)
        segment_volume(SliceRun(model, volume, "case", settings, 4))
        peaks.append(peak())
    print(peaks[1] - peaks[0])


if __name__ == "__main__":
    main(tuple(sys.argv[1].split(",")))
