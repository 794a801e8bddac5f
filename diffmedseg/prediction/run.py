"""Common parts of the prediction of pictures and volumes: settings, report, samples, and the loop over inputs."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.familiarity import describe_unfamiliar
from diffmedseg.keyed_random import check_slice_correlation
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.models.views import TTA
from diffmedseg.postprocessing.crf import crf_is_available
from diffmedseg.prediction.folder import PredictionFolder
from diffmedseg.prediction.rows import AnyRow
from diffmedseg.segmentation import SampleSet, Segmentation
from diffmedseg.wording import count

if TYPE_CHECKING:
    from diffmedseg.prediction.watching import Watcher

#: Fingerprint of each model, and the versions of its weights.
_digested: WeakKeyDictionary[Segmenter, tuple[object, str]] = WeakKeyDictionary()
_SECONDS_BETWEEN_TABLES = 0.5  # a kill loses at most the rows of this time, and their inputs are segmented again
_SHARE_OF_TABLES = 0.02  # of the time; the table of a large folder takes longer to write


@dataclass(frozen=True)
class Settings:
    """Settings that predictions depend on, besides model and input.

    Attributes:
        num_samples: S; None for the model's own.
        num_steps: Network evaluations per sample; None for the model's own.
        seed: Seed of the noise; None for the model's own.
        bf16: Run the network in bfloat16.
        value_range: Values of black and white in pictures of more than 8 bits; None for the model's own.
        threshold: The mask is where the probability, calibrated if the model has a calibration, is higher; None for the
            model's own. Samples do not change.
        tta: Test-time augmentation; None for the model's own.
        smallest: By region, the minimum number of voxels of a component of a volume's mask. Smaller components are
            removed; see :func:`~diffmedseg.postprocessing.components.drop_small`. Samples and probability stay.
        axes: Axes along which volumes are cut into slices, out of ``axial``, ``coronal`` and ``sagittal``; None for
            ``axial``, the axis of training.
        slice_correlation: Distance in mm from which slices of a volume have independent noise; 0 for independent noise
            in each slice, None for the model's own. See :class:`~diffmedseg.models.DiffusionSegmenter`.

    Raises:
        ValueError: If ``slice_correlation`` is not a distance.
    """

    num_samples: int | None = None
    num_steps: int | None = None
    seed: int | None = None
    bf16: bool = False
    value_range: tuple[float, float] | None = None
    threshold: float | None = None
    tta: TTA | None = None
    smallest: Mapping[str, int] | None = None
    axes: Sequence[str] | None = None
    slice_correlation: float | None = None

    def __post_init__(self) -> None:
        check_slice_correlation(self.slice_correlation)

    def filled_from(self, model: Segmenter) -> "Settings":
        """Replace None by the model's own settings. Settings stay None if each member of an ensemble has its own.

        Raises:
            ValueError: If there are fewer samples than members and views.
        """
        return replace(
            self,
            num_samples=model.count_samples(self.num_samples, self.tta),
            num_steps=model.num_steps if self.num_steps is None else self.num_steps,
            seed=model.seed if self.seed is None else self.seed,
            value_range=model.value_range if self.value_range is None else self.value_range,
            tta=model.tta if self.tta is None else self.tta,
            slice_correlation=model.slice_correlation if self.slice_correlation is None else self.slice_correlation,
        )

    def stored(self) -> dict[str, Any]:
        """Return the settings for ``predictions.yaml``, without some settings that have their default."""
        defaults: dict[str, tuple[object, ...]] = dict.fromkeys(
            ("threshold", "smallest", "axes", "slice_correlation"), (None,)
        )
        defaults["tta"] = (None, "none")
        stored = {name: value for name, value in asdict(self).items() if value not in defaults.get(name, ())}
        return stored | ({"axes": list(self.axes)} if self.axes else {})

    def decide(self, result: Segmentation) -> Segmentation:
        """Apply the threshold to a segmentation, and keep the contours inside and outside of the mask."""
        if self.threshold is None:
            return result
        mask = result.probability > self.threshold
        inner, outer = (None, None) if result.inner is None else (result.inner & mask, result.outer)
        return replace(result, mask=mask, inner=inner, outer=None if outer is None else outer | mask)


@dataclass
class Report:
    """The outcome of each input.

    Attributes:
        done: Names of the inputs that were segmented.
        kept: Names of the inputs with complete earlier results.
        failed: Reason of each failure, by file.
        notes: Notes for the user, by file.
    """

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    notes: dict[Path, str] = field(default_factory=dict)

    @contextmanager
    def attempt(self, file: Path) -> Iterator[None]:
        """Record the failure of an input, so that the prediction goes on."""
        try:
            yield
        except (DataError, OSError) as error:
            self.failed[file] = str(error).removeprefix(f"{file}: ")
        except Exception as error:  # a failing input must not stop the prediction
            self.failed[file] = f"{type(error).__name__}: {error}"


class Input(Protocol):
    """A picture or a case: the name of its results, its path, and its files."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102

    def files(self) -> Iterable[Path]: ...  # noqa: D102


AnyInput = TypeVar("AnyInput", bound=Input)


def predict_all(
    inputs: Sequence[AnyInput],
    folder: PredictionFolder[AnyRow],
    segment: Callable[[Sequence[Sequence[AnyInput]], Report], Generator[None, None, None]],
    batch_size: int,
    resume: bool,
    overwrite: bool,
    watcher: "Watcher | None" = None,
) -> Report:
    """Segment inputs in batches, and write the table regularly and at the end.

    Args:
        inputs: All inputs. Inputs inside of the folder are earlier results, and are skipped.
        folder: The folder of the results.
        segment: Segments batches, and writes their maps and rows; yields after each input.
        batch_size: Inputs that are segmented together.
        resume: Keep complete results.
        overwrite: Replace earlier results.
        watcher: Follows the prediction.
    """
    output_folder = folder.folder.resolve()
    inputs = [entry for entry in inputs if output_folder not in {entry.path.resolve(), *entry.path.resolve().parents}]
    names = folder.deal([entry.name for entry in inputs], batch_size)
    dealt = [entry for entry in inputs if entry.name in names]
    with folder.opened(resume, overwrite):
        report = Report(kept=[entry.name for entry in dealt if resume and folder.is_whole(entry.name, entry.files)])
        kept = set(report.kept)
        waiting = [entry for entry in dealt if entry.name not in kept]
        folder.check_names([entry.name for entry in inputs])
        folder.begin()
        order, due = [entry.name for entry in inputs], time.monotonic() + _SECONDS_BETWEEN_TABLES
        batches = [waiting[first : first + batch_size] for first in range(0, len(waiting), batch_size)]
        steps = segment(batches, report)
        try:
            # The bars of several parts would overwrite each other in one terminal.
            hidden = not waiting or folder.part is not None or watcher is not None
            with Progress(console=Console(stderr=True), disable=hidden) as progress:
                task = progress.add_task("Segmenting", total=len(waiting))
                if watcher is not None:
                    watcher.begin(len(waiting))
                for _ in steps:
                    progress.advance(task)
                    if watcher is not None:
                        watcher.end_input()
                    if (now := time.monotonic()) > due:
                        folder.write_table(order)
                        took = time.monotonic() - now
                        due = now + max(_SECONDS_BETWEEN_TABLES, took / _SHARE_OF_TABLES)
        finally:
            steps.close()  # after an interruption, files that are being written are completed
            folder.write_table(order)
            folder.publish()
    _note_areas(folder, report)
    return report


def _note_areas(folder: PredictionFolder[AnyRow], report: Report) -> None:
    """Note how many masks are smaller or larger than all of their samples, if there are several samples."""
    if folder.num_samples == 1:
        return
    rows = [row for name in report.done for row in folder.rows[name]]
    if outside := sum(row.outside_samples for row in rows):
        report.notes[folder.table] = (
            f"{outside} of {count(len(rows), 'mask')} are smaller or larger than all of their samples. A mask is not "
            "a sample: fusing, calibration and the threshold decide pixel by pixel, and the network's prior mask may "
            "add a vote"
        )


def draw_samples(images: Tensor, keys: Sequence[str], model: Segmenter, settings: Settings) -> SampleSet:
    """Draw the samples of a batch, on the CPU.

    Args:
        images: (B, C, H, W), for the model.
        keys: Keys of the noise.
        model: The model, on its device.
        settings: Samples, steps, seed and precision.

    Raises:
        DataError: If the device has too little memory.
    """
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            sample_set = model.sample(
                images, settings.num_samples, settings.num_steps, settings.seed, keys, settings.tta
            )
    except torch.OutOfMemoryError as error:
        raise DataError(f"{model.device} has too little memory: lower --batch_size, or use --device cpu.") from error
    features = None if sample_set.features is None else sample_set.features.cpu()
    return replace(sample_set.map(Tensor.cpu), features=features)  # waits for the device


def check_finite(sample_set: SampleSet) -> None:
    """Refuse samples with NaN. Other images of a batch keep their results.

    Raises:
        DataError: If a sample is not finite.
    """
    if not torch.isfinite(sample_set.samples).all():
        raise DataError(
            "The model gives NaN. If it does so for all images, its training diverged, or its weights are damaged: use "
            "another checkpoint. If it was run with --bf16, leave --bf16 out."
        )


def note_unfamiliar(model: Segmenter, familiarity: Tensor | None) -> str:
    """Return a note if the familiarity of an image, (1,), is low; else an empty text."""
    if model.familiarity is None or familiarity is None or float(familiarity) > model.familiarity.level:
        return ""
    return describe_unfamiliar(float(familiarity))


def describe_model(model: Segmenter) -> dict[str, Any]:
    """Return the fingerprint of a model, and of each member of an ensemble, for ``predictions.yaml``."""
    members = {name: fingerprint(member) for name, member in model.members.items()}
    return {"model": fingerprint(model)} | ({"members": members} if members else {})


def fingerprint(model: Segmenter) -> str:
    """Return a digest of the weights, and of the settings that turn samples into masks.

    Without a Trainer, the digest is computed again only if weights were replaced or changed in place. PyTorch does not
    count changes through ``.data``. Callbacks of a Trainer make such changes, so that with a Trainer the digest is
    always computed again.
    """
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
    members = [fingerprint(member) for member in model.members.values()]
    settings, state = repr(rule) + "".join(members), sorted(model.state_dict().items())
    now = settings, _versions(model, state)
    if now[1] is not None and _digested.get(model, (None, ""))[0] == now:
        return _digested[model][1]
    digest = blake2b(settings.encode(), digest_size=8)
    for name, value in state:
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    _digested[model] = now, digest.hexdigest()
    return digest.hexdigest()


def _versions(model: Segmenter, state: Sequence[tuple[str, Tensor]]) -> list[tuple[str, int, int]] | None:
    """Return values that change with the weights, without reading the weights; None if there are none."""
    if getattr(model, "_trainer", None) is not None or any(value.is_inference() for _, value in state):
        return None
    return [(name, value.data_ptr(), value._version) for name, value in state]
