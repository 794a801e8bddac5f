"""The files that ``predict`` writes for an image."""

from dataclasses import dataclass

from diffmedseg.errors import DataError, unknown

MAPS = ("mask", "probability", "disagreement")
CONTOURS = ("inner", "outer")  # of calibrated models
DICOM = ("mask", "probability", "report")  # objects of --dicom_seg, of all regions each


@dataclass(frozen=True)
class Outputs:
    """The files to write for each image.

    Attributes:
        maps: Maps out of :data:`MAPS` and :data:`CONTOURS`; None for all maps of the model.
        samples: Form of the samples: ``image`` for multi-page TIFF or four-dimensional NIfTI, ``npz`` for a NumPy
            archive, None for no samples.
        labels: Values of the label map: ``order`` for 1 to K from the outermost region in, ``brats``, ``brats2023``,
            or ``REGION=VALUE,...``; None for no label map.
        panel: Draw each result over its input.
        pixel_size: Height and width of a pixel in mm, for areas in mm2; None if unknown.
        dicom_seg: Also write the results of a DICOM series as DICOM.
    """

    maps: tuple[str, ...] | None = None
    samples: str | None = None
    labels: str | None = None
    panel: bool = False
    pixel_size: tuple[float, float] | None = None
    dicom_seg: bool = False

    def kinds(self, contours: bool) -> tuple[str, ...]:
        """Return the maps that are written.

        Args:
            contours: Whether the model has contours.

        Raises:
            DataError: If a map is unknown, or is a contour and the model has none.
        """
        available = MAPS + (CONTOURS if contours else ())
        for kind in self.maps or ():
            if kind in CONTOURS and not contours:
                raise DataError(
                    f"--maps {kind}: this model has no contours. `diffmedseg calibrate` fits them to a run."
                )
            if kind not in available:
                raise DataError(f"--maps: {unknown('map', kind, available)}")
        return available if self.maps is None else tuple(kind for kind in available if kind in self.maps)
