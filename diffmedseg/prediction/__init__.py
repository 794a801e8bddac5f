"""Segmenting a user's own pictures: finding and reading them, and writing what was found."""

from diffmedseg.prediction.pictures import PictureFile, find_pictures
from diffmedseg.prediction.predict import Report, Settings, predict

__all__ = ["PictureFile", "Report", "Settings", "find_pictures", "predict"]
