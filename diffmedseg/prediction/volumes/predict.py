"""Batch prediction of volumes. A case that fails does not stop the prediction of the others."""

import math
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.figures import save_figure
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.components import smallest_sizes
from diffmedseg.prediction.outputs import Outputs
from diffmedseg.prediction.parts import Part
from diffmedseg.prediction.rows import files_digest
from diffmedseg.prediction.run import Report, Settings, describe_model, note_unfamiliar, predict_all
from diffmedseg.prediction.volumes.dicom_seg import Algorithm, DicomWriter, check_highdicom
from diffmedseg.prediction.volumes.files import VolumeCase
from diffmedseg.prediction.volumes.folder import VolumeFolder, VolumeRow
from diffmedseg.prediction.volumes.panel import draw_planes
from diffmedseg.prediction.volumes.planes import LEARNED, check_axes
from diffmedseg.prediction.volumes.reading import Volume, read_case
from diffmedseg.prediction.volumes.segmenting import Kept, VolumeSegmentation, segment_volume
from diffmedseg.prediction.volumes.slices import SliceRun
from diffmedseg.prediction.watching import VolumeResult, Watcher
from diffmedseg.reading.label_maps import note_order
from diffmedseg.wording import count, first_names


def predict_volumes(
    model: Segmenter,
    cases: Sequence[VolumeCase],
    output: Path,
    settings: Settings | None = None,
    batch_size: int = 8,
    panels: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    outputs: Outputs | None = None,
    part: Part | None = None,
    watcher: Watcher | None = None,
) -> Report:
    """Segment volumes. Write mask, probability and disagreement of each as NIfTI, and ``predictions.csv``.

    Maps have the grid of the first channel's file. The name of a case is the key of its noise, in all slices. The noise
    of a test case is therefore the same as in the test. Cases in ``output`` are left out.

    Args:
        model: The model, on its device.
        cases: See :func:`~diffmedseg.prediction.volumes.files.find_cases`.
        output: Folder to write to.
        settings: Settings that the predictions depend on; None for the model's own.
        batch_size: Number of slices that are segmented together.
        panels: Also draw three planes of each case.
        resume: Keep complete results.
        overwrite: Replace the results in ``output``.
        outputs: The files to write; None for all maps.
        part: The part of the cases that this process segments; None for all cases.
        watcher: Follows the prediction, can stop it, and gets results in memory.

    Returns:
        The cases that were segmented, kept or failed. A case that fails does not stop the others.

    Raises:
        DataError: If settings or outputs do not fit the model or the cases, or ``output`` cannot be written or holds
            files or results that do not fit.
        ValueError: If the model cannot draw so few samples.
    """
    settings = (settings or Settings()).filled_from(model)
    settings = _check_settings(settings, model)
    description = (watcher or Watcher()).describe(model) | settings.stored()
    for case in cases[:1]:
        naming = case.naming
        description |= {"names": dict(naming.names), "volumes": naming.volumes, "brain_mask": naming.brain_mask}
    outputs = outputs or Outputs()
    if outputs.pixel_size is not None:
        raise DataError(
            "--pixel_size is for pictures. Files of volumes have the size of their voxels: leave --pixel_size out."
        )
    if outputs.dicom_seg:
        check_highdicom()
        _check_series(cases)
    folder = VolumeFolder(output, model, description, replace(outputs, panel=True) if panels else outputs, part)

    def segment(batches: Sequence[Sequence[VolumeCase]], report: Report) -> Generator[None, None, None]:
        for case in (case for batch in batches for case in batch):
            folder.forget([case.name])
            with report.attempt(case.path):
                _predict_case(model, case, folder, settings, batch_size, report, watcher)
            yield

    report = predict_all(cases, folder, segment, 1, resume, overwrite, watcher)
    if note := note_order(outputs.labels, model.regions):
        report.notes[folder.folder] = note
    return report


def _check_settings(settings: Settings, model: Segmenter) -> Settings:
    """Check axes and smallest parts. Return the settings with None for the axes if they are the learned axis only.

    Raises:
        DataError: If an axis or a region of the smallest parts is unknown, or a smallest size is below 1.
    """
    smallest_sizes(settings.smallest or {}, model.regions)
    axes = check_axes(settings.axes or (LEARNED,))
    return replace(settings, axes=None if axes == (LEARNED,) else axes)


def _predict_case(
    model: Segmenter,
    case: VolumeCase,
    folder: VolumeFolder,
    settings: Settings,
    batch_size: int,
    report: Report,
    watcher: Watcher | None,
) -> None:
    start = time.perf_counter()
    volume = read_case(case, model.slice_input)
    run = SliceRun(model, volume, Path(case.name).name, settings, batch_size, watcher)
    if watcher is None and not folder.outputs.panel:
        volume = replace(volume, channels=[])  # nothing shows them, and they may be large
    kept = Kept(samples=folder.outputs.samples is not None, fractions=folder.outputs.dicom_seg)
    result = segment_volume(run, kept)
    folder.write_maps(case.name, volume, result)
    rows = _describe(case, volume, result, model, time.perf_counter() - start)
    if folder.outputs.panel:
        millilitres = np.array([row.volume_ml for row in rows])
        save_figure(
            draw_planes(volume, result, model.channels, model.regions, millilitres), folder.path(case.name, "panel")
        )
    if (paths := folder.dicom(case.name)) and volume.series is not None and result.fractions is not None:
        algorithm = Algorithm(model.title, describe_model(model) | settings.stored())
        masks, levels = (
            np.stack([volume.as_stored(region_map) for region_map in maps])
            for maps in (result.mask, result.fractions.levels)
        )
        soft = result.fractions.values_of(levels)
        DicomWriter(volume.series, algorithm, model.regions).write(paths, masks, soft, rows)
    folder.rows[case.name] = rows
    report.done.append(case.name)
    note = "; ".join(filter(None, (volume.note, note_unfamiliar(model, result.familiarity))))
    if note:
        report.notes[case.path] = note
    if watcher is not None:
        watcher.keep_volume(VolumeResult(case.name, volume, result, rows, note))


def _check_series(cases: Sequence[VolumeCase]) -> None:
    """Refuse cases that cannot have a DICOM segmentation, because their first channel is a file and not a series.

    Raises:
        DataError: The message names some of the files.
    """
    files = []
    for case in cases:
        with suppress(DataError):  # a case that cannot be read fails later, with its own message
            files += [path for path in case.channels()[:1] if path.is_file()]
    if files:
        raise DataError(
            f"--dicom_seg needs DICOM series; {count(len(files), 'input')} of {len(cases)} "
            f"{'is a file' if len(files) == 1 else 'are files'}: {first_names([file.name for file in files])}. Name "
            "folders with DICOM series, or leave --dicom_seg out."
        )


def _describe(
    case: VolumeCase, volume: Volume, result: VolumeSegmentation, model: Segmenter, seconds: float
) -> list[VolumeRow]:
    columns, rows, slices = volume.stored.size
    voxel = math.prod(volume.spacing) / 1000  # mm3 to ml
    digest = files_digest(case.files())
    interval = np.full((2, len(model.regions)), math.nan)
    if model.conformal is not None:
        interval = model.conformal.areas(result.sample_voxels, result.mask[0].size).numpy() * voxel
    return [
        VolumeRow(
            image=case.name,
            region=region,
            uncertainty=round(result.doubt[k], 6),
            familiarity=float("nan") if result.familiarity is None else round(float(result.familiarity), 4),
            seconds=round(seconds, 4),
            digest=digest,
            columns=columns,
            rows=rows,
            slices=slices,
            volume_ml=round(float(result.mask[k].sum() * voxel), 4),
            **_spread(result.sample_voxels[:, k].numpy() * voxel),
            volume_ml_low=round(float(interval[0, k]), 4),
            volume_ml_high=round(float(interval[1, k]), 4),
        )
        for k, region in enumerate(model.regions)
    ]


def _spread(millilitres: NDArray[np.float64]) -> dict[str, float]:
    """Return mean, standard deviation, minimum and maximum of the samples' volumes, as columns of the table."""
    values = {
        "mean": millilitres.mean(),
        "std": millilitres.std(ddof=1) if len(millilitres) > 1 else math.nan,
        "min": millilitres.min(),
        "max": millilitres.max(),
    }
    return {f"samples_ml_{name}": round(float(value), 4) for name, value in values.items()}
