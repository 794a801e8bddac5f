"""Prediction of a user's pictures and volumes: finding inputs, segmenting them, and writing the results."""

from diffmedseg.prediction.outputs import Outputs
from diffmedseg.prediction.parts import Part
from diffmedseg.prediction.pictures.files import PictureFile, find_pictures
from diffmedseg.prediction.pictures.predict import predict_pictures, takes_pictures
from diffmedseg.prediction.pictures.windows import find_windows
from diffmedseg.prediction.run import Report, Settings
from diffmedseg.prediction.volumes.files import VolumeCase, find_cases
from diffmedseg.prediction.volumes.naming import Naming
from diffmedseg.prediction.volumes.predict import predict_volumes
from diffmedseg.prediction.watching import PictureResult, Stopped, VolumeResult, Watcher

__all__ = [
    "Naming",
    "Outputs",
    "Part",
    "PictureFile",
    "PictureResult",
    "Report",
    "Settings",
    "Stopped",
    "VolumeCase",
    "VolumeResult",
    "Watcher",
    "find_cases",
    "find_pictures",
    "find_windows",
    "predict_pictures",
    "predict_volumes",
    "takes_pictures",
]
