"""Calibrating a run on its validation cases."""

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import track
from torch import Tensor

from diffmedseg.atomic import write_alone
from diffmedseg.checkpoints import write_checkpoint
from diffmedseg.configurable import to_config
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.labels.balance import separation
from diffmedseg.errors import DataError, TooFewCasesError, ZooError
from diffmedseg.evaluation.summary import plain
from diffmedseg.familiarity import Familiarity
from diffmedseg.files import file_sha256
from diffmedseg.metrics.calibration import FINE_BINS, expected_calibration_error
from diffmedseg.metrics.images import ImageScore, add_to, score_image
from diffmedseg.models.loading import chosen_checkpoint, load_trained, read_run
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.views import TTA
from diffmedseg.postprocessing.calibration import Calibration, IsotonicCalibration, TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal, check_share

METHODS: dict[str, Callable[[Tensor], Calibration]] = {
    "temperature": TemperatureScaling.fit,
    "isotonic": IsotonicCalibration.fit,
}


def calibrate_run(
    run: Path,
    method: str,
    share: float = 0.95,
    coverage: float = 0.9,
    nothing: float | None = None,
    tta: TTA | None = None,
    trust: Collection[str] = (),
) -> dict[str, Any]:
    """Fit a run's best checkpoint to its validation cases, and write what was found into its folder.

    ``checkpoints/calibrated.ckpt`` is the best checkpoint with the calibration, the levels of contours and the factor
    of areas among its hyper-parameters, and with the familiarity of images; ``calibration.yaml`` the same as
    configuration, without the familiarity, which no score depends on; ``calibration.json`` says
    how good it is, and of which checkpoint it is one. The threshold is mapped, too, so that masks stay what they are
    (but for ``nothing``, which empties some). The checkpoint was chosen on the same cases: what is said of them is
    slightly too good.

    Args:
        run: The run's folder.
        method: A key of ``METHODS``.
        share: See :class:`~diffmedseg.postprocessing.Conformal`.
        coverage: How often contours and areas have to hold.
        nothing: In which share of healthy images a lesion may be found, for models that always find one; None leaves
            these as they are.
        tta: Test-time augmentation, which the calibrated model then has for its own; None for that of the run.
        trust: Packages besides diffmedseg whose classes the run may name; see :mod:`diffmedseg.plugins`.

    Raises:
        ValueError: If share or coverage are out of range.
        ZooError: If there is no such run, or nothing to fit in it.
        DataError: If its data is not there, or has no healthy images where these are needed.
    """
    check_share(share, coverage)
    config = read_run(run)
    model, data = load_trained(chosen_checkpoint(run), trust), build_data(config["data"], trust)
    if model.calibration is not None:
        raise ZooError(f"{run} has a calibration already: calibrate the run that it was made of.")
    data.setup("validate")
    data.configure_targets((), model.regions)
    bf16 = "bf16" in str(config["trainer"]["precision"])
    found: dict[str, Any] = {"method": method}
    model.tta = model.tta if tta is None else tta
    model.fitted_tta = model.tta
    settings: dict[str, Any] = {"tta": model.tta, "fitted_tta": model.fitted_tta}
    if nothing is not None:
        found["presence"] = fit_presence(model, data, bf16, nothing)
        settings["least_contrast"] = model.least_contrast
    images = score_split(model, data, bf16)
    # Of all regions: they may nest.
    counts = torch.stack([image.reliability[:2] for image in images.values()]).sum((0, 2))
    calibration = METHODS[method](counts[1])  # near lesions: certain background would outweigh all else
    threshold = float(calibration(torch.tensor([model.threshold]))[0])
    settings |= {"calibration": to_config(calibration), "threshold": threshold}
    try:
        conformal = Conformal.fit(images.values(), model.num_steps, model.threshold, share, coverage)
        settings["conformal"] = to_config(conformal)
    except TooFewCasesError as error:
        found["without_contours"] = str(error)
    familiarity = None
    try:
        familiarity = fit_familiarity(model, data)
        found["familiarity"] = familiarity and {"cases": familiarity.cases, "level": familiarity.level}
    except TooFewCasesError as error:
        found["without_familiarity"] = str(error)
    found |= {"cases": len(images), "regions": list(model.regions), **settings}
    places = dict(zip(("whole", "neighbourhood"), counts, strict=True))
    found["ece"] = {
        "before": {place: expected_calibration_error(one) for place, one in places.items()},
        "after": {place: expected_calibration_error(map_counts(one, calibration)) for place, one in places.items()},
    }
    _write(run, settings, plain(found), familiarity)
    return found


def fit_familiarity(model: DiffusionSegmenter, data: SegmentationDataModule) -> Familiarity | None:
    """Fit the familiarity of images to the validation cases of a data module that is set up.

    Returns:
        The fit; None where the model's network gives no maps of an image.

    Raises:
        TooFewCasesError: If there are too few cases.
    """
    features, cases = [], list[str]()
    for batch in track(data.val_dataloader(), "Familiarity"):
        moved = data.on_after_batch_transfer(batch, 0)
        found = model.features(moved["image"])
        if found is None:
            return None
        features.append(found)
        cases += moved["case"]
    return Familiarity.fit(torch.cat(features), cases)


def fit_presence(model: DiffusionSegmenter, data: SegmentationDataModule, bf16: bool, nothing: float) -> dict[str, Any]:
    """Set a model's ``least_contrast`` to what a new healthy image exceeds in a share of cases.

    The level is the one of split conformal prediction: of n healthy images the ceil((1 - share) (n + 1))-th smallest.
    It holds for images, not for volumes of many slices, and for the number of steps that it was fitted with.

    Args:
        model: A model whose samples are empty below its ``least_contrast``.
        data: Set up; the labels of its validation images are used, and no masks.
        bf16: Whether the model runs under autocast.
        nothing: The share.

    Returns:
        ``least_contrast``; the number of ``healthy`` and ``diseased`` images; the share of each, of these images, whose
        mask is not empty then (``false_positives``, ``found``); and the area under the ROC curve (``auc``).

    Raises:
        ZooError: If the model needs no such level.
        DataError: If there are too few healthy images.
    """
    scores, labels, batches = [], [], []
    for batch in track(data.val_dataloader(), "Healthy or not"):
        moved = data.on_after_batch_transfer(batch, 0)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            contrast = model.presence(moved["image"], moved["case"])
        if contrast is None:
            raise ZooError(f"{model.name} gives an empty mask where it finds nothing: leave --nothing out.")
        scores.append(contrast)
        labels.append(torch.as_tensor(moved["label"] if "label" in moved else [1] * len(contrast)))
        batches.append(moved)
    score, label = torch.cat(scores).double().numpy(), torch.cat(labels).numpy()
    healthy = np.sort(score[label == 0])
    rank = math.ceil((1 - nothing) * (len(healthy) + 1))
    if rank > len(healthy) or (label == 0).all():
        raise DataError(
            f"{data.info.title}: {len(healthy)} of {len(score)} validation images are healthy; a share of {nothing} "
            f"needs {math.ceil(1 / nothing) - 1} or more, and diseased ones: take a larger share, or more images."
        )
    model.least_contrast = float(healthy[rank - 1])
    found = []
    for moved in batches:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            found.append(model.segment(moved["image"], keys=moved["case"]).mask.flatten(1).any(1).cpu())
    any_found = torch.cat(found).numpy()
    return {
        "least_contrast": model.least_contrast,
        "num_steps": model.num_steps,
        "healthy": len(healthy),
        "diseased": int((label == 1).sum()),
        "false_positives": float(any_found[label == 0].mean()),
        "found": float(any_found[label == 1].mean()),
        "auc": separation(score, label),
    }


def score_split(model: DiffusionSegmenter, data: SegmentationDataModule, bf16: bool) -> dict[str, ImageScore]:
    """Score the validation cases of a data module that is set up, at native resolution."""
    pooled: dict[str, ImageScore] = {}
    for batch in track(data.calibration_dataloader(), "Validation cases"):
        moved = data.on_after_batch_transfer(batch, 0)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            result = model.segment(moved["image"], keys=moved["case"])
        for i, case in enumerate(moved["case"]):
            maps = result.probability[i], result.samples[i], moved["reference"][i]
            seen, window = moved["field_of_view"][i], moved["window"][i]
            add_to(pooled, score_image(case, *maps, model.threshold, 0.0, field_of_view=seen, window=window))
    return pooled


def map_counts(counts: Tensor, calibration: Calibration) -> Tensor:
    """Return the counts of reliability that calibrated probabilities would have.

    Args:
        counts: (3, bins), of :func:`~diffmedseg.metrics.calibration.reliability_counts`.
        calibration: Applied to the mean probability of each bin.
    """
    there = counts[:, counts[0] > 0]
    p = calibration(there[1] / there[0])
    index = (p * FINE_BINS).long().clamp(0, FINE_BINS - 1)
    return torch.zeros_like(counts).index_add_(1, index, torch.stack([there[0], p * there[0], there[2]]))


def _write(run: Path, settings: dict[str, Any], found: dict[str, Any], familiarity: Familiarity | None) -> None:
    best = chosen_checkpoint(run)
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    checkpoint["hyper_parameters"] |= settings
    if familiarity is not None:
        checkpoint["hyper_parameters"]["familiarity"] = to_config(familiarity)
        checkpoint["state_dict"] |= {f"familiarity.{name}": value for name, value in familiarity.state_dict().items()}
    found = found | {"checkpoint": file_sha256(best)}
    text = yaml.safe_dump({"model": {"init_args": settings}}, sort_keys=False)
    write_checkpoint(run / "checkpoints" / "calibrated.ckpt", checkpoint)
    write_alone(run / "calibration.yaml", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    write_alone(
        run / "calibration.json", lambda temporary: temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    )
