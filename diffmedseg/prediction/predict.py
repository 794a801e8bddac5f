"""Segmenting pictures one after another, whatever becomes of any of them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import torch
from rich.progress import Progress

from diffmedseg.data.store import DataError
from diffmedseg.figures import save_figure
from diffmedseg.metrics.functional import soft_dice_confidence, soft_overlap
from diffmedseg.models.segmentation import Segmentation
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.prediction.output import PredictionFolder, Row
from diffmedseg.prediction.panel import draw_overlay
from diffmedseg.prediction.pictures import Picture, PictureFile, read_picture, read_upright, turn_back

_SECONDS_BETWEEN_TABLES = 10  # a crash loses at most the rows of so long, and their pictures are done again
_PANEL_PIXELS = 800  # longest side of the picture in a panel


@dataclass(frozen=True)
class Settings:
    """What predictions depend on, besides model and picture.

    Attributes:
        num_samples: S; None for the model's own.
        num_steps: Network evaluations per sample; None for the model's own.
        seed: Seed of the noise; None for the model's own.
        bf16: Run the network in bfloat16.
        value_range: What becomes black and white in pictures of more than 8 bits; None for 0 to 65,535 where they have
            16 bits.
    """

    num_samples: int | None = None
    num_steps: int | None = None
    seed: int | None = None
    bf16: bool = False
    value_range: tuple[float, float] | None = None

    def of(self, model: DiffusionSegmenter) -> "Settings":
        """Fill in the model's own."""
        return replace(
            self,
            num_samples=model.num_samples if self.num_samples is None else self.num_samples,
            num_steps=model.num_steps if self.num_steps is None else self.num_steps,
            seed=model.seed if self.seed is None else self.seed,
        )


@dataclass
class Report:
    """What became of the pictures.

    Attributes:
        done: Names of those segmented now.
        kept: Names of those whose results were whole already.
        failed: What went wrong, by file.
        notes: What the user should know, by file.
    """

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    notes: dict[Path, str] = field(default_factory=dict)

    @contextmanager
    def attempt(self, file: Path) -> Iterator[None]:
        """Go on where a file cannot be read or its results cannot be written, and remember why."""
        try:
            yield
        except (DataError, OSError, MemoryError) as error:
            self.failed[file] = str(error) or type(error).__name__


def predict(
    model: DiffusionSegmenter,
    pictures: Sequence[PictureFile],
    output: Path,
    settings: Settings | None = None,
    batch_size: int = 8,
    panels: bool = False,
    resume: bool = False,
) -> Report:
    """Segment pictures, and write mask, probability and disagreement of each as PNG, and ``predictions.csv``.

    Maps have the size and orientation of the picture's file. The noise of a picture is keyed by its file name, so the
    prediction of a test image is the one that was scored, and does not depend on which others are predicted.

    Args:
        model: The model, on its device.
        pictures: See :func:`~diffmedseg.prediction.pictures.find_pictures`.
        output: Folder to write to.
        settings: What the predictions depend on; None for the model's own.
        batch_size: Pictures segmented together.
        panels: Draw an overlay of each picture, too.
        resume: Keep results that are whole.

    Returns:
        What was done, kept and failed. A picture that fails does not keep others from being segmented.

    Raises:
        DataError: If the model does not take pictures, or ``output`` holds results that may not be mixed with these.
    """
    if len(model.channels) not in (1, 3):
        raise DataError(f"This model takes {', '.join(model.channels)}; pictures have 1 or 3 channels.")
    if output.resolve() in {file.path.resolve().parent for file in pictures}:
        raise DataError(f"{output} holds pictures to be segmented: write to another folder.")
    settings = (settings or Settings()).of(model)
    facts = {"weights": _fingerprint(model)} | asdict(settings)
    folder, report = PredictionFolder(output, model.regions, facts, resume), Report()
    report.kept = [file.name for file in pictures if resume and folder.is_whole(file, panels)]
    waiting = [file for file in pictures if file.name not in set(report.kept)]
    for file in waiting:
        folder.rows.pop(file.name, None)  # its results are about to change
    order, written = [file.name for file in pictures], time.monotonic()
    try:
        with Progress(disable=not waiting) as progress:
            task = progress.add_task("Segmenting", total=len(waiting))
            for first in range(0, len(waiting), batch_size):
                batch = waiting[first : first + batch_size]
                _predict_batch(model, batch, folder, settings, panels, report)
                progress.advance(task, len(batch))
                if time.monotonic() - written > _SECONDS_BETWEEN_TABLES:
                    folder.write_table(order)
                    written = time.monotonic()
    finally:
        folder.write_table(order)
    return report


def _predict_batch(
    model: DiffusionSegmenter,
    files: Sequence[PictureFile],
    folder: PredictionFolder,
    settings: Settings,
    panels: bool,
    report: Report,
) -> None:
    read: dict[PictureFile, Picture] = {}
    for file in files:
        with report.attempt(file.path):
            read[file] = read_picture(file.path, len(model.channels), model.image_size, settings.value_range)
    if not read:
        return
    start, images = time.perf_counter(), torch.stack([picture.image for picture in read.values()])
    with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
        keys = [file.path.stem for file in read]
        drawn = model.segment(images, settings.num_samples, settings.num_steps, settings.seed, keys).samples.cpu()
    seconds = (time.perf_counter() - start) / len(read)
    for (file, picture), samples in zip(read.items(), torch.split(drawn, 1), strict=True):
        with report.attempt(file.path):
            result = model.fuse(turn_back(samples, picture.orientation), picture.size)
            folder.write_maps(file.name, result, picture.orientation)
            if panels:
                shown = read_upright(file.path, _PANEL_PIXELS, settings.value_range)
                upright = model.fuse(samples, (shown.height, shown.width))
                save_figure(draw_overlay(shown, upright, model.regions), folder.path(file.name, "panel"))
            folder.rows[file.name] = _describe(file.name, model.regions, result, seconds)
            report.done.append(file.name)
            if picture.note:
                report.notes[file.path] = picture.note


def _describe(name: str, regions: Sequence[str], result: Segmentation, seconds: float) -> list[Row]:
    height, width = (int(n) for n in result.mask.shape[-2:])
    confidence = soft_dice_confidence(*soft_overlap(result.probability[0], result.mask[0]))
    return [
        Row(
            image=name,
            region=region,
            width=width,
            height=height,
            area=int(mask.sum()),
            area_fraction=round(int(mask.sum()) / (height * width), 6),
            uncertainty=round(1 - float(sure), 6),
            seconds=round(seconds, 4),
        )
        for region, mask, sure in zip(regions, result.mask[0], confidence, strict=True)
    ]


def _fingerprint(model: DiffusionSegmenter) -> str:
    """Return a digest of the weights."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
