"""What predicting pictures and predicting volumes share: settings, the report, drawing samples, going through all."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from diffmedseg.crf import crf_is_available
from diffmedseg.errors import DataError
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.prediction.folder import AnyRow, PredictionFolder
from diffmedseg.segmentation import Drawn

_SECONDS_BETWEEN_TABLES = 10  # a crash loses at most the rows of so long, and their inputs are done again


@dataclass(frozen=True)
class Settings:
    """What predictions depend on, besides model and input.

    Attributes:
        num_samples: S; None for the model's own.
        num_steps: Network evaluations per sample; None for the model's own.
        seed: Seed of the noise; None for the model's own.
        bf16: Run the network in bfloat16.
        value_range: What becomes black and white in pictures of more than 8 bits; None for the model's own.
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
            value_range=model.value_range if self.value_range is None else self.value_range,
        )


@dataclass
class Report:
    """What became of the inputs.

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
        """Go on, whatever an input brings about, and remember why it failed."""
        try:
            yield
        except (DataError, OSError) as error:
            self.failed[file] = str(error).removeprefix(f"{file}: ")
        except Exception as error:  # one input must not cost the others
            self.failed[file] = f"{type(error).__name__}: {error}"


class Input(Protocol):
    """A picture or a case: what its results are called, where it is, and the files that it is read from."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102

    def files(self) -> Iterable[Path]: ...  # noqa: D102


AnyInput = TypeVar("AnyInput", bound=Input)


def predict_all(
    inputs: Sequence[AnyInput],
    folder: PredictionFolder[AnyRow],
    segment: Callable[[Sequence[AnyInput], Report], Iterator[None]],
    batch_size: int,
    panels: bool,
    resume: bool,
) -> Report:
    """Go through inputs in batches, and write the table every now and then and at the end.

    Args:
        inputs: All inputs; those inside of the folder are earlier results, and left out.
        folder: Where results go.
        segment: Segments a batch and writes its maps and rows; yields as each input is done with.
        batch_size: Inputs segmented together.
        panels: Whether panels belong to whole results.
        resume: Keep results that are whole.
    """
    inside = folder.folder.resolve()
    inputs = [one for one in inputs if inside not in {one.path.resolve(), *one.path.resolve().parents}]
    report = Report(kept=[one.name for one in inputs if resume and folder.is_whole(one.name, one.files, panels)])
    waiting = [one for one in inputs if one.name not in set(report.kept)]
    folder.check_names([one.name for one in inputs])
    folder.begin()
    order, written = [one.name for one in inputs], time.monotonic()
    try:
        with Progress(console=Console(stderr=True), disable=not waiting) as progress:
            task = progress.add_task("Segmenting", total=len(waiting))
            for first in range(0, len(waiting), batch_size):
                batch = waiting[first : first + batch_size]
                folder.forget([one.name for one in batch])
                for _ in segment(batch, report):
                    progress.advance(task)
                if time.monotonic() - written > _SECONDS_BETWEEN_TABLES:
                    folder.write_table(order)
                    written = time.monotonic()
    finally:
        folder.write_table(order)
    return report


def draw_samples(images: Tensor, keys: Sequence[str], model: DiffusionSegmenter, settings: Settings) -> Drawn:
    """Draw the samples of a batch, on the CPU.

    Args:
        images: (B, C, H, W), as the model takes them.
        keys: Keys of the noise.
        model: The model, on its device.
        settings: Samples, steps, seed and precision.

    Raises:
        DataError: If the device has too little memory, or the model gives NaN.
    """
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            drawn = model.sample(images, settings.num_samples, settings.num_steps, settings.seed, keys)
    except torch.OutOfMemoryError as error:
        raise DataError(f"{model.device} has too little memory: lower --batch_size, or use --device cpu.") from error
    if not torch.isfinite(drawn.samples).all():
        raise DataError(
            "The model gives NaN: its training diverged, or its weights are damaged. Use another checkpoint."
        )
    return drawn.each(Tensor.cpu)  # waits for the device


def fingerprint(model: DiffusionSegmenter) -> str:
    """Return a digest of the weights, and of what turns samples into masks."""
    shape = model.threshold, model.nested, model.image_size, model.channels, model.regions
    calibration = None if model.calibration is None else (type(model.calibration).__name__, vars(model.calibration))
    conformal = None if model.conformal is None else vars(model.conformal)
    refinement = None if model.refinement is None else (type(model.refinement).__name__, crf_is_available())
    rule = (
        shape,
        type(model.fusion).__name__,
        calibration,
        conformal,
        refinement,
        sorted(model.hparams.items(), key=str),
    )
    digest = blake2b(repr(rule).encode(), digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
