"""Segmenting pictures one after another, whatever becomes of any of them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path

import torch

from diffmedseg.errors import DataError
from diffmedseg.figures import save_figure
from diffmedseg.metrics.extent import vertical_ratios
from diffmedseg.metrics.functional import mask_confidence, soft_overlap
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.prediction.folder import files_digest
from diffmedseg.prediction.pictures.files import PictureFile
from diffmedseg.prediction.pictures.folder import PictureFolder, PictureRow
from diffmedseg.prediction.pictures.panel import draw_overlay
from diffmedseg.prediction.run import Report, Settings, draw_samples, fingerprint, note_unfamiliar, predict_all
from diffmedseg.reading.pictures import Picture, read_picture, read_upright, turn_back, turn_upright
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import Segmentation, sample_areas

_PANEL_PIXELS = 800  # longest side of the picture in a panel
_CHANNELS = {("red", "green", "blue"), ("grey",)}


def takes_pictures(model: DiffusionSegmenter) -> bool:
    """Whether a model was trained on pictures: its channels are colours, or grey."""
    return model.channels in _CHANNELS


def predict_pictures(
    model: DiffusionSegmenter,
    pictures: Sequence[PictureFile],
    output: Path,
    settings: Settings | None = None,
    batch_size: int = 8,
    panels: bool = False,
    resume: bool = False,
    windows: Mapping[str, CropWindow] | None = None,
) -> Report:
    """Segment pictures, and write mask, probability and disagreement of each as PNG, and ``predictions.csv``.

    Of a calibrated model its inner and outer contour, too.

    Maps have the size and orientation of the picture's file. The noise of a picture is keyed by its file's name: the
    prediction does not depend on which others are predicted, and that of a test image named by its id is the one that
    was scored. Pictures in ``output`` are left out.

    Args:
        model: The model, on its device.
        pictures: See :func:`~diffmedseg.prediction.pictures.files.find_pictures`.
        output: Folder to write to.
        settings: What the predictions depend on; None for the model's own.
        batch_size: Pictures segmented together.
        panels: Draw an overlay of each picture, too.
        resume: Keep results that are whole.
        windows: For models that were trained on windows of pictures, and for them alone: the window of each picture, by
            its name or its file's. Maps are those of whole pictures, outside of whose windows nothing is found.

    Returns:
        What was done, kept and failed. A picture that fails does not keep others from being segmented.

    Raises:
        DataError: If the model does not take pictures or gives NaN, windows are missing or not meant, or ``output``
            cannot be written or holds what may not be mixed with these results.
        ValueError: If the model cannot take so many steps.
    """
    if not takes_pictures(model):
        raise DataError(f"This model takes volumes of {', '.join(model.channels)}, not pictures.")
    settings = (settings or Settings()).filled_from(model)
    _check_windows(model, windows)
    said = {"model": fingerprint(model)} | asdict(settings)
    if windows is not None:
        said["windows"] = blake2b(repr(sorted(windows.items())).encode(), digest_size=8).hexdigest()
    folder = PictureFolder(output, model.regions, said, resume, contours=model.conformal is not None)

    def segment(batch: Sequence[PictureFile], report: Report) -> Iterator[None]:
        return _predict_batch(model, batch, folder, settings, panels, report, windows)

    return predict_all(pictures, folder, segment, batch_size, panels, resume)


def _check_windows(model: DiffusionSegmenter, windows: Mapping[str, CropWindow] | None) -> None:
    """Refuse windows for a model of whole pictures, and whole pictures for one of windows."""
    if model.cropped and windows is None:
        raise DataError(
            "This model was trained on windows of pictures, such as those around an optic disc: name a file of windows "
            "by --windows. `diffmedseg windows` has a model of whole pictures find them."
        )
    if windows is not None and not model.cropped:
        raise DataError("This model was trained on whole pictures, not on windows of them: leave --windows out.")


def _predict_batch(
    model: DiffusionSegmenter,
    files: Sequence[PictureFile],
    folder: PictureFolder,
    settings: Settings,
    panels: bool,
    report: Report,
    windows: Mapping[str, CropWindow] | None,
) -> Iterator[None]:
    """Segment pictures together; yields as each is done with."""
    read: dict[PictureFile, tuple[Picture, CropWindow | None, float]] = {}
    for file in files:
        start = time.perf_counter()
        with report.attempt(file.path):
            file.name.encode()  # what is not UTF-8 could be written to no table
            window = None if windows is None else windows.get(file.name, windows.get(file.path.stem))
            if windows is not None and window is None:
                raise DataError("there is no window of it: add a line to the file of windows")
            picture = read_picture(file.path, len(model.channels), model.image_size, settings.value_range, window)
            read[file] = picture, window, time.perf_counter() - start
        if file not in read:
            yield
    if not read:
        return
    start = time.perf_counter()
    drawn = draw_samples(
        torch.stack([picture.image for picture, _, _ in read.values()]),
        [file.path.stem for file in read],
        model,
        settings,
    )
    share = (time.perf_counter() - start) / len(read)
    for number, (file, (picture, window, seconds)) in enumerate(read.items()):
        own = drawn.only(number)
        start = time.perf_counter()
        with report.attempt(file.path):
            keys, image = [file.path.stem], picture.image[None]
            seen = turn_back(image, picture.orientation)
            turned = own.each(partial(turn_back, orientation=picture.orientation))
            result = model.fuse(turned, picture.size if window is None else window.size, seen, keys)
            placed = result if window is None else result.placed(window, picture.size)
            folder.write_maps(file.name, placed, picture.orientation)
            seconds += share + time.perf_counter() - start
            if panels:
                shown = read_upright(file.path, _PANEL_PIXELS, settings.value_range, window)
                upright = model.fuse(own, (shown.height, shown.width), image, keys)
                what = "picture" if window is None else "window"
                save_figure(draw_overlay(shown, upright, model.regions, what), folder.path(file.name, "panel"))
            folder.rows[file.name] = _describe(file, model, result, picture, seconds)
            report.done.append(file.name)
            notes = picture.note, note_unfamiliar(model, result.familiarity)
            if any(notes):
                report.notes[file.path] = "; ".join(filter(None, notes))
        yield


def _describe(
    file: PictureFile, model: DiffusionSegmenter, result: Segmentation, picture: Picture, seconds: float
) -> list[PictureRow]:
    """Describe a result, which may be that of a window, as one of the picture."""
    (height, width), orientation = picture.size, picture.orientation
    seen = int(result.mask.shape[-2]), int(result.mask.shape[-1])
    mask, drawn = result.mask[0], result.binary_samples[0]
    empty = (~drawn.flatten(2).any(2)).double().mean(0)
    confidence = mask_confidence(*soft_overlap(result.mean[0], mask), ~mask.flatten(1).any(1), empty)
    digest, areas = files_digest([file.path]), sample_areas(result.samples, seen)[0]
    interval = torch.full((2, len(mask)), torch.nan)
    if model.conformal is not None:
        interval = model.conformal.areas(areas, mask[0].numel())
    ratios = torch.full((len(mask), 3), torch.nan, dtype=torch.float64)
    if model.nested:
        ratio_of_samples = vertical_ratios(turn_upright(drawn, orientation))
        spread = torch.nanquantile(ratio_of_samples, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
        ratios = torch.stack([vertical_ratios(turn_upright(mask, orientation)), *spread], 1)
    return [
        PictureRow(
            image=file.name,
            region=region,
            vertical_ratio=round(ratio[0], 4),
            vertical_ratio_low=round(ratio[1], 4),
            vertical_ratio_high=round(ratio[2], 4),
            width=width,
            height=height,
            area=int(mask.sum()),
            area_fraction=round(int(mask.sum()) / (height * width), 6),
            samples_area_min=int(of_samples.min()),
            samples_area_max=int(of_samples.max()),
            area_low=round(ends[0], 1),
            area_high=round(ends[1], 1),
            uncertainty=round(1 - float(sure), 6),
            familiarity=None if result.familiarity is None else round(float(result.familiarity), 4),
            seconds=round(seconds, 4),
            digest=digest,
        )
        for region, mask, sure, ratio, of_samples, ends in zip(
            model.regions, mask, confidence, ratios.tolist(), areas.T, interval.T.tolist(), strict=True
        )
    ]
