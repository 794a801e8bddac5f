"""Batch prediction of pictures. A picture that cannot be read does not stop the prediction of the others."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.figures import save_figure
from diffmedseg.metrics.extent import vertical_ratios
from diffmedseg.metrics.functional import mask_confidence, soft_overlap
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.outputs import Outputs
from diffmedseg.prediction.parts import Part
from diffmedseg.prediction.pictures.files import PictureFile
from diffmedseg.prediction.pictures.folder import PictureFolder, PictureRow
from diffmedseg.prediction.pictures.panel import draw_overlay
from diffmedseg.prediction.rows import files_digest
from diffmedseg.prediction.run import Report, Settings, check_finite, note_unfamiliar, predict_all
from diffmedseg.prediction.watching import PictureResult, Watcher
from diffmedseg.reading.names import check_name, composed
from diffmedseg.reading.pictures import Picture, read_picture, read_upright, turn_back, turn_upright
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import SampleSet, Segmentation, sample_areas

_PANEL_PIXELS = 800  # longest side of the picture in a panel
_CHANNELS = {("red", "green", "blue"), ("grey",)}


def takes_pictures(model: Segmenter) -> bool:
    """Return whether a model was trained on pictures: its channels are colours, or grey."""
    return model.channels in _CHANNELS


def predict_pictures(
    model: Segmenter,
    pictures: Sequence[PictureFile],
    output: Path,
    settings: Settings | None = None,
    batch_size: int = 8,
    panels: bool = False,
    resume: bool = False,
    windows: Mapping[str, CropWindow] | None = None,
    overwrite: bool = False,
    outputs: Outputs | None = None,
    part: Part | None = None,
    watcher: Watcher | None = None,
) -> Report:
    """Segment pictures. Write mask, probability and disagreement of each as PNG, and ``predictions.csv``.

    A calibrated model also gives inner and outer contours. Maps have the size and orientation of the picture's file.

    The name of a picture's file is the key of its noise. The prediction of a picture is therefore independent of the
    other pictures. If the file of a test image is named by the image's id, its prediction is the one that the test
    scored. Pictures in ``output`` are left out.

    Args:
        model: The model, on its device.
        pictures: See :func:`~diffmedseg.prediction.pictures.files.find_pictures`.
        output: Folder to write to.
        settings: Settings that the predictions depend on; None for the model's own.
        batch_size: Number of pictures that are segmented together.
        panels: Also draw a panel of each picture.
        resume: Keep complete results.
        windows: The window of each picture, by the name of the picture or of its file. Models that were trained on
            windows need them; other models do not accept them. Maps cover the whole picture, and have no foreground
            outside of the window.
        overwrite: Replace the results in ``output``.
        outputs: The files to write; None for all maps.
        part: The part of the pictures that this process segments; None for all pictures.
        watcher: Follows the prediction, can stop it, and gets results in memory.

    Returns:
        The pictures that were segmented, kept or failed. A picture that cannot be read, or for which the model gives
        NaN, does not stop the others.

    Raises:
        DataError: If the model does not take pictures, the device has too little memory, windows are missing or not
            accepted, or ``output`` cannot be written or holds files or results that do not fit.
        ValueError: If the model cannot draw so few samples, or take so many steps.
    """
    if not takes_pictures(model):
        raise DataError(
            f"This model takes volumes of {', '.join(model.channels)}, not pictures. Name a model of pictures."
        )
    settings = (settings or Settings()).filled_from(model)
    _check_windows(model, windows)
    description = (watcher or Watcher()).describe(model) | settings.stored()
    if windows is not None:
        description["windows"] = blake2b(repr(sorted(windows.items())).encode(), digest_size=8).hexdigest()
    outputs = outputs or Outputs()
    folder = PictureFolder(output, model, description, replace(outputs, panel=True) if panels else outputs, part)
    segment = _Pictures(model, folder, settings, windows, watcher or Watcher()).segment
    return predict_all(pictures, folder, segment, batch_size, resume, overwrite, watcher)


def _check_windows(model: Segmenter, windows: Mapping[str, CropWindow] | None) -> None:
    """Refuse windows for a model of whole pictures, and missing windows for a model of windows.

    Raises:
        DataError: If the model and the windows do not match.
    """
    if model.cropped and windows is None:
        raise DataError(
            "This model was trained on windows of pictures, such as the surroundings of an optic disc. Name a file of "
            "windows by --windows. `diffmedseg windows` writes this file, with a model of whole pictures."
        )
    if windows is not None and not model.cropped:
        raise DataError("This model was trained on whole pictures, not on windows. Leave --windows out.")


@dataclass(frozen=True)
class _LoadedPicture:
    """A picture in memory, its window, the digest of its file, and the seconds that reading took."""

    picture: Picture
    window: CropWindow | None
    digest: str
    seconds: float


@dataclass(frozen=True)
class _Pictures:
    """Segments pictures. While the network runs, other threads read the next batch and write the last maps."""

    model: Segmenter
    folder: PictureFolder
    settings: Settings
    windows: Mapping[str, CropWindow] | None
    watcher: Watcher

    def segment(self, batches: Sequence[Sequence[PictureFile]], report: Report) -> Generator[None, None, None]:
        """Segment batches; yield after each picture, also after a picture that failed."""
        waiting: list[tuple[PictureFile, list[PictureRow], str, float, Future[None]]] = []

        def settle() -> int:
            """Wait until the maps are written, and add the rows of their pictures. Return the number of pictures."""
            settled = len(waiting)
            for file, rows, note, start, written in waiting:
                with report.attempt(file.path):
                    written.result()
                    seconds = rows[0].seconds + time.perf_counter() - start
                    self.folder.rows[file.name] = [replace(row, seconds=round(seconds, 4)) for row in rows]
                    report.done.append(file.name)
                    if note:
                        report.notes[file.path] = note
            waiting.clear()
            return settled

        with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
            ahead = [reader.submit(self._read, file) for file in batches[0]] if batches else []
            try:
                for number, files in enumerate(batches):
                    self.folder.forget([file.name for file in files])
                    loaded: dict[PictureFile, _LoadedPicture] = {}
                    for file, reading in zip(files, ahead, strict=True):
                        with report.attempt(file.path):
                            loaded[file] = reading.result()
                        if file not in loaded:
                            yield
                    following = batches[number + 1] if number + 1 < len(batches) else ()
                    ahead = [reader.submit(self._read, file) for file in following]
                    for file, samples, share in self._draw(loaded):
                        start = time.perf_counter()
                        with report.attempt(file.path):
                            rows, maps, note = self._finish(file, loaded[file], samples)
                            rows = [replace(row, seconds=loaded[file].seconds + share) for row in rows]
                            picture = loaded[file].picture
                            for _ in range(settle()):  # only one picture's maps in memory, because they may be large
                                yield
                            written = writer.submit(self.folder.write_maps, maps, picture.orientation)
                            waiting.append((file, rows, note, start, written))
                            del maps
                        if file.path in report.failed:
                            yield
                for _ in range(settle()):
                    yield
            finally:
                for reading in ahead:
                    reading.cancel()
                settle()

    def _read(self, file: PictureFile) -> _LoadedPicture:
        start = time.perf_counter()
        check_name(file.name, file.path)
        names = [form(name) for name in (file.name, file.path.stem) for form in (str, composed)]
        windows = self.windows or {}
        window = next((windows[name] for name in names if name in windows), None)
        if self.windows is not None and window is None:
            raise DataError("the file of windows does not have this picture: add a line for it")
        model = self.model
        picture = read_picture(file.path, len(model.channels), model.image_size, self.settings.value_range, window)
        return _LoadedPicture(picture, window, files_digest([file.path]), time.perf_counter() - start)

    def _draw(self, loaded: Mapping[PictureFile, _LoadedPicture]) -> Iterator[tuple[PictureFile, SampleSet, float]]:
        """Yield each picture of a batch, its samples, and its share of the seconds."""
        if not loaded:
            return
        start = time.perf_counter()
        images = torch.stack([entry.picture.image for entry in loaded.values()])
        sample_set = self.watcher.draw(images, [file.path.stem for file in loaded], self.model, self.settings)
        share = (time.perf_counter() - start) / len(loaded)
        for number, file in enumerate(loaded):
            yield file, sample_set[number], share

    def _finish(
        self, file: PictureFile, loaded: _LoadedPicture, samples: SampleSet
    ) -> tuple[list[PictureRow], dict[Path, NDArray[np.uint8]], str]:
        """Fuse the samples of a picture, write samples and panel, and return the rows, maps and notes."""
        check_finite(samples)
        model, folder, picture, window = self.model, self.folder, loaded.picture, loaded.window
        keys, image, orientation = [file.path.stem], picture.image[None], picture.orientation
        turned = samples.map(partial(turn_back, orientation=orientation))
        size = picture.size if window is None else (window.height, window.width)
        result = self.settings.decide(model.fuse(turned, size, turn_back(image, orientation), keys))
        self.watcher.within(0.5)  # so that the user can stop the prediction of a large picture
        maps = folder.draw_maps(file.name, result if window is None else result.paste_into(window, picture.size))
        if folder.outputs.samples:
            folder.write_samples(file.name, result, orientation, window, picture.size)
        if folder.outputs.panel:
            display_image, display_result = self._for_display(file, samples, image, window, _PANEL_PIXELS)
            what = "picture" if window is None else "window"
            save_figure(
                draw_overlay(display_image, display_result, model.regions, what), folder.path(file.name, "panel")
            )
        note = "; ".join(filter(None, (picture.note, note_unfamiliar(model, result.familiarity))))
        self.watcher.within(0.7)
        rows = describe_result(file.name, model, result, picture.size, orientation, loaded.digest)
        self.watcher.within(0.9)
        if self.watcher.longest is not None:
            display_image, display_result = self._for_display(file, samples, image, window, self.watcher.longest)
            self.watcher.keep_picture(PictureResult(file.name, display_image, display_result, rows, note))
        return rows, maps, note

    def _for_display(
        self, file: PictureFile, samples: SampleSet, image: Tensor, window: CropWindow | None, longest: int
    ) -> tuple[Image.Image, Segmentation]:
        """Return the upright picture, at most ``longest`` pixels wide and high, and its segmentation at that size."""
        display_image = read_upright(file.path, longest, self.settings.value_range, window)
        fused = self.model.fuse(samples, (display_image.height, display_image.width), image, [file.path.stem])
        return display_image, self.settings.decide(fused)


def describe_result(
    name: str, model: Segmenter, result: Segmentation, size: tuple[int, int], orientation: int, digest: str
) -> list[PictureRow]:
    """Return the rows of a picture, one for each region. Their ``seconds`` are 0.

    Args:
        name: The picture's name.
        model: The model.
        result: Segmentation of the picture or of its window, with the orientation of the file.
        size: Height and width of the whole picture.
        orientation: EXIF orientation of the picture's file.
        digest: Digest of the picture's file.
    """
    height, width = size
    mask_size = int(result.mask.shape[-2]), int(result.mask.shape[-1])
    mask, samples = result.mask[0], result.binary_samples[0]
    empty = (~samples.flatten(2).any(2)).double().mean(0)
    confidence = mask_confidence(*soft_overlap(result.mean[0], mask), ~mask.flatten(1).any(1), empty)
    areas = sample_areas(result.samples, mask_size)[0]
    interval = torch.full((2, len(mask)), torch.nan)
    if model.conformal is not None:
        interval = model.conformal.areas(areas, mask[0].numel())
    ratios = torch.full((len(mask), 3), torch.nan, dtype=torch.float64)
    if model.nested:
        ratio_of_samples = vertical_ratios(turn_upright(samples, orientation))
        spread = torch.nanquantile(ratio_of_samples, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
        ratios = torch.stack([vertical_ratios(turn_upright(mask, orientation)), *spread], 1)
    return [
        PictureRow(
            image=name,
            region=region,
            vertical_ratio=round(ratio[0], 4),
            vertical_ratio_low=round(ratio[1], 4),
            vertical_ratio_high=round(ratio[2], 4),
            width=width,
            height=height,
            area=int(mask.sum()),
            area_fraction=round(int(mask.sum()) / (height * width), 6),
            samples_area_min=int(region_areas.min()),
            samples_area_max=int(region_areas.max()),
            area_low=round(area_ends[0], 1),
            area_high=round(area_ends[1], 1),
            uncertainty=round(1 - float(region_confidence), 6),
            familiarity=float("nan") if result.familiarity is None else round(float(result.familiarity), 4),
            seconds=0.0,
            digest=digest,
        )
        for region, mask, region_confidence, ratio, region_areas, area_ends in zip(
            model.regions, mask, confidence, ratios.tolist(), areas.T, interval.T.tolist(), strict=True
        )
    ]
