"""DICOM output for a DICOM series: segmentations on the grid of the series, and a report of the volumes.

The library highdicom writes the objects. highdicom and pydicom may log values of a header, such as a patient's name.
Both are therefore silenced, and errors never quote the values of a header.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg import __version__
from diffmedseg.atomic import write_whole
from diffmedseg.data.regions import Code, region_code
from diffmedseg.errors import DataError
from diffmedseg.prediction.volumes.folder import VolumeRow
from diffmedseg.reading.dicom import Series
from diffmedseg.silence import silenced

if TYPE_CHECKING:
    import highdicom as hd
    import pydicom

_LEVELS = 255  # highest value of a fractional segmentation, which has 8 bits per pixel
_MAKER, _SERIAL = "diffmedseg", "none"
# Elements that highdicom needs, and that the standard allows to be empty (type 2).
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "Modality",
)  # fmt: skip
_SEXES = ("M", "F", "O", "")
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_ALIKE = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_LOGGERS = ("highdicom", "pydicom")
_UTF_8 = "ISO_IR 192"
_MOST_NUMBER = 2**31 - 1  # highest number of a series: DICOM PS3.5, VR IS


def check_highdicom() -> None:
    """Refuse to write DICOM if highdicom is not installed.

    Raises:
        DataError: The message has the command that installs highdicom.
    """
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise DataError("--dicom_seg needs highdicom: pip install 'diffmedseg[dicom]'") from error


@dataclass(frozen=True)
class Algorithm:
    """The model that made a segmentation, and its parameters.

    Attributes:
        name: Title of the model, for people.
        parameters: Parameters of the result, such as digest of the weights, samples, steps and seed.
    """

    name: str
    parameters: Mapping[str, Any]

    def _text(self) -> dict[str, str]:
        return {key: str(value) for key, value in self.parameters.items() if value is not None}

    def of_segment(self) -> "hd.AlgorithmIdentificationSequence":
        """Return the identification of the algorithm for a segment."""
        import highdicom as hd
        from pydicom.sr.codedict import codes

        family = codes.DCM.ArtificialIntelligence
        return hd.AlgorithmIdentificationSequence(self.name[:64], family, __version__, _MAKER, self._text())

    def of_measurement(self) -> "hd.sr.AlgorithmIdentification":
        """Return the identification of the algorithm for a measurement."""
        import highdicom as hd

        parameters = [f"{key} = {value}" for key, value in self._text().items()]
        return hd.sr.AlgorithmIdentification(self.name[:64], __version__, parameters)


@dataclass(frozen=True)
class DicomWriter:
    """Writes the results of a series.

    Attributes:
        series: The series that was segmented.
        algorithm: The model that segmented the series.
        regions: Names of the regions.
    """

    series: Series
    algorithm: Algorithm
    regions: Sequence[str]

    def write(
        self,
        paths: Mapping[str, Path],
        masks: NDArray[np.bool_],
        probability: NDArray[np.float32],
        rows: Sequence[VolumeRow],
    ) -> None:
        """Write a binary segmentation, a fractional one, and a report of the volumes.

        Args:
            paths: The files of ``mask``, ``probability`` and ``report``.
            masks: (K, D, H, W), slices in the order of the series' files.
            probability: (K, D, H, W), in [0, 1], slices in the same order.
            rows: The row of each region in the table.

        Raises:
            DataError: If the series lacks identifiers that a segmentation has to name, or its header is damaged.
        """
        with silenced(*_LOGGERS, below=logging.CRITICAL + 1):
            try:
                sources = self._sources()
                mask = self._segmentation(sources, masks, "mask", 1)
                soft = self._segmentation(sources, probability, "probability", 2)
                report = self._report([mask, *sources], rows)
            except DataError:
                raise
            except Exception as error:  # its message may quote the patient's data
                raise DataError(
                    f"its header is not valid DICOM ({type(error).__name__}), and a segmentation needs a valid header: "
                    "leave --dicom_seg out, or export the series again"
                ) from None
            for kind, dataset in (("mask", mask), ("probability", soft), ("report", report)):
                write_whole(paths[kind], dataset.save_as)

    def _sources(self) -> "list[pydicom.Dataset]":
        """Read the headers of the series, without the pixels."""
        import pydicom
        from pydicom.valuerep import DSfloat

        step = DSfloat(self.series.grid.spacing[2], auto_format=True)
        headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in self.series.files]
        for path, header in zip(self.series.files, headers, strict=True):
            _find_character_set(header)
            if missing := [name for name in _NEEDED if not header.get(name)]:
                raise DataError(
                    f"{path.name} has no {' and no '.join(missing)}, which a segmentation needs: leave "
                    "--dicom_seg out, or export the series again"
                )
            for name in _MAY_BE_EMPTY:
                if name not in header:
                    setattr(header, name, "")
            if not header.get("SliceThickness"):
                header.SliceThickness = step  # true of slices without gaps
            if header.PatientSex not in _SEXES:  # highdicom accepts no other values
                header.PatientSex = ""
        _check_identities(self.series.files[0].parent.name, headers)
        return headers

    def _series(self, sources: "Sequence[pydicom.Dataset]", what: str, number: int) -> dict[str, Any]:
        """Return the description of a new series. Each object has its own series."""
        import highdicom as hd

        return {
            "series_instance_uid": hd.UID(),
            "series_number": min(100 * max(int(sources[0].get("SeriesNumber") or 0), 0), _MOST_NUMBER - 100) + number,
            "sop_instance_uid": hd.UID(),
            "instance_number": 1,
            "manufacturer": _MAKER,
            "manufacturer_model_name": self.algorithm.name[:64],
            "software_versions": __version__,
            "device_serial_number": _SERIAL,
            "series_description": f"{_MAKER} {what}",
            "specific_character_set": _UTF_8,  # can store the name of any patient and any region
        }

    def _segmentation(
        self, sources: "list[pydicom.Dataset]", values: NDArray[Any], what: str, number: int
    ) -> "hd.seg.Segmentation":
        """Make a segmentation from values (K, D, H, W): binary if they are bool, else fractional."""
        import highdicom as hd

        binary = values.dtype == np.bool_
        segments = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=region[:64],
                segmented_property_category=_concept(region_code(region).category),
                segmented_property_type=_concept(region_code(region).type),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=self.algorithm.of_segment(),
            )
            for number, region in enumerate(self.regions, 1)
        ]
        kinds = hd.seg.SegmentationTypeValues
        source, step = sources[0], float(self.series.grid.spacing[2])
        measures = hd.PixelMeasuresSequence(source.PixelSpacing, source.SliceThickness, step)
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=np.moveaxis(values, 0, -1),
            segmentation_type=kinds.BINARY if binary else kinds.FRACTIONAL,
            segment_descriptions=segments,
            fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
            max_fractional_value=_LEVELS,
            pixel_measures=measures,
            omit_empty_frames=bool(values.any()),
            content_label=what.upper(),
            **self._series(sources, what, number),
        )

    def _report(self, evidence: "list[pydicom.Dataset]", rows: Sequence[VolumeRow]) -> "hd.sr.Comprehensive3DSR":
        """Make a report of the volume of each region, with an interval if the row has one."""
        import highdicom as hd
        from pydicom.sr.codedict import codes

        mask, *sources = evidence
        series = hd.sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID)
        groups = [
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), row.region),
                referenced_segment=hd.sr.ReferencedSegment(
                    mask.SOPClassUID, mask.SOPInstanceUID, number, source_series=series
                ),
                finding_category=_concept(region_code(row.region).category),
                finding_type=_concept(region_code(row.region).type),
                algorithm_id=self.algorithm.of_measurement(),
                measurements=[
                    hd.sr.Measurement(
                        codes.SCT.Volume,
                        row.volume_ml,
                        codes.UCUM.CubicCentimeter,
                        method=codes.DCM.SumOfSegmentedVoxelMethodForVolume,
                        properties=_interval(row),
                    )
                ],
            )
            for number, row in enumerate(rows, 1)
        ]
        device = hd.sr.DeviceObserverIdentifyingAttributes(
            hd.UID(), self.algorithm.name[:64], manufacturer_name=_MAKER, model_name=self.algorithm.name[:64]
        )
        context = hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device),
        )
        report = hd.sr.MeasurementReport(context, codes.SCT.ImagingProcedure, groups)
        described = self._series(sources, "volumes", 3)
        return hd.sr.Comprehensive3DSR(evidence=evidence, content=report[0], **described)


def _find_character_set(header: "pydicom.Dataset") -> None:
    """Read the texts of a header as UTF-8 if it names no character set, and the patient's name is valid UTF-8."""
    from pydicom.dataelem import RawDataElement

    raw = None if header.get("SpecificCharacterSet") else header.get_item("PatientName")
    if isinstance(raw, RawDataElement) and raw.value:
        with suppress(UnicodeDecodeError):  # pydicom would read Latin-1
            raw.value.decode()
            header.set_original_encoding(*header.original_encoding, "utf8")


def _check_identities(folder: str, headers: "Sequence[pydicom.Dataset]") -> None:
    """Refuse slices with equal identifiers, and slices of different studies, series or frames of reference.

    Raises:
        DataError: The message names the folder and the identifiers.
    """
    mixed = [name for name in _ALIKE if len({header.get(name) for header in headers}) > 1]
    if mixed:
        raise DataError(
            f"{folder} has slices that differ in {' and '.join(mixed)}: leave --dicom_seg out, or export the series "
            "again"
        )
    if len({header.SOPInstanceUID for header in headers}) < len(headers):
        raise DataError(
            f"{folder} has several slices of the same SOPInstanceUID, and a segmentation cannot tell them apart: leave "
            "--dicom_seg out, or export the series again"
        )


def _concept(code: Code) -> "hd.sr.CodedConcept":
    import highdicom as hd

    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _interval(row: VolumeRow) -> "hd.sr.MeasurementProperties | None":
    """Return the distances from a volume to both ends of its interval; None if the volume is outside of the interval.

    The interval comes from the samples, and a mask may be smaller or larger than all of them. In this case, only the
    table has the interval.
    """
    import highdicom as hd

    below, above = row.volume_ml - row.volume_ml_low, row.volume_ml_high - row.volume_ml
    if not (below >= 0 and above >= 0):  # also if there is no interval: both are NaN
        return None
    return hd.sr.MeasurementProperties(
        upper_measurement_uncertainty=round(above, 4), lower_measurement_uncertainty=round(below, 4)
    )
