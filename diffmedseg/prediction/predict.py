"""Segmenting pictures one after another, whatever becomes of any of them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from diffmedseg.data.store import DataError
from diffmedseg.figures import save_figure
from diffmedseg.metrics.functional import soft_dice_confidence, soft_overlap
from diffmedseg.models.segmentation import Segmentation
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.prediction.output import PredictionFolder, Row, file_digest
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

    def filled_from(self, model: DiffusionSegmenter) -> "Settings":
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
        """Go on, whatever a picture brings about, and remember why it failed."""
        try:
            yield
        except (DataError, OSError) as error:
            self.failed[file] = str(error)
        except Exception as error:  # one picture must not cost the others
            self.failed[file] = f"{type(error).__name__}: {error}"


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

    Maps have the size and orientation of the picture's file (Pillow turns TIFF upright, so theirs are). The noise of a
    picture is keyed by its file's name: the prediction does not depend on which others are predicted, and that of a
    test image named by its id is the one that was scored. Pictures in ``output`` are left out.

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
        DataError: If the model does not take pictures or gives NaN, or ``output`` cannot be written or holds what may
            not be mixed with these results.
        ValueError: If the model cannot take so many steps.
    """
    if len(model.channels) not in (1, 3):
        raise DataError(f"This model takes {', '.join(model.channels)}; pictures have 1 or 3 channels.")
    settings = (settings or Settings()).filled_from(model)
    folder = PredictionFolder(output, model.regions, {"model": _fingerprint(model)} | asdict(settings), resume)
    inside = output.resolve()
    pictures = [file for file in pictures if inside not in file.path.resolve().parents]  # earlier results are no input
    report = Report(kept=[file.name for file in pictures if resume and folder.is_whole(file, panels)])
    waiting = [file for file in pictures if file.name not in set(report.kept)]
    folder.begin()
    folder.forget([file.name for file in waiting])
    order, written = [file.name for file in pictures], time.monotonic()
    try:
        with Progress(console=Console(stderr=True), disable=not waiting) as progress:
            task = progress.add_task("Segmenting", total=len(waiting))
            for first in range(0, len(waiting), batch_size):
                batch = waiting[first : first + batch_size]
                for _ in _predict_batch(model, batch, folder, settings, panels, report):
                    progress.advance(task)
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
) -> Iterator[None]:
    """Segment pictures together; yields as each is done with."""
    read: dict[PictureFile, tuple[Picture, float]] = {}
    for file in files:
        start = time.perf_counter()
        with report.attempt(file.path):
            file.name.encode()  # what is not UTF-8 could be written to no table
            picture = read_picture(file.path, len(model.channels), model.image_size, settings.value_range)
            read[file] = picture, time.perf_counter() - start
        if file not in read:
            yield
    if not read:
        return
    start = time.perf_counter()
    drawn = _draw([picture.image for picture, _ in read.values()], [file.path.stem for file in read], model, settings)
    share = (time.perf_counter() - start) / len(read)
    for (file, (picture, seconds)), samples in zip(read.items(), torch.split(drawn, 1), strict=True):
        start = time.perf_counter()
        with report.attempt(file.path):
            result = model.fuse(turn_back(samples, picture.orientation), picture.size)
            folder.write_maps(file.name, result, picture.orientation)
            seconds += share + time.perf_counter() - start
            if panels:
                shown = read_upright(file.path, _PANEL_PIXELS, settings.value_range)
                upright = model.fuse(samples, (shown.height, shown.width))
                save_figure(draw_overlay(shown, upright, model.regions), folder.path(file.name, "panel"))
            folder.rows[file.name] = _describe(file, model.regions, result, seconds)
            report.done.append(file.name)
            if picture.note:
                report.notes[file.path] = picture.note
        yield


def _draw(images: list[Tensor], keys: list[str], model: DiffusionSegmenter, settings: Settings) -> Tensor:
    """Draw the samples of a batch, (B, S, K, h, w), on the CPU."""
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            samples = model.segment(torch.stack(images), settings.num_samples, settings.num_steps, settings.seed, keys)
    except torch.OutOfMemoryError as error:
        raise DataError(f"{model.device} has too little memory: lower --batch_size, or use --device cpu.") from error
    if not torch.isfinite(samples.samples).all():
        raise DataError(
            "The model gives NaN: its training diverged, or its weights are damaged. Use another checkpoint."
        )
    return samples.samples.cpu()  # waits for the device


def _describe(file: PictureFile, regions: Sequence[str], result: Segmentation, seconds: float) -> list[Row]:
    height, width = (int(n) for n in result.mask.shape[-2:])
    digest, confidence = (
        file_digest(file.path),
        soft_dice_confidence(*soft_overlap(result.probability[0], result.mask[0])),
    )
    return [
        Row(
            image=file.name,
            region=region,
            width=width,
            height=height,
            area=int(mask.sum()),
            area_fraction=round(int(mask.sum()) / (height * width), 6),
            uncertainty=round(1 - float(sure), 6),
            seconds=round(seconds, 4),
            digest=digest,
        )
        for region, mask, sure in zip(regions, result.mask[0], confidence, strict=True)
    ]


def _fingerprint(model: DiffusionSegmenter) -> str:
    """Return a digest of the weights, and of what turns samples into masks."""
    rule = (model.threshold, model.nested, model.image_size, model.channels, model.regions, type(model.fusion).__name__)
    digest = blake2b(repr((rule, sorted(model.hparams.items(), key=str))).encode(), digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
