"""Calibrate a run on its validation cases."""

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
from diffmedseg.evaluation.summary import PSEUDO, plain
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
    """Fit a run's best checkpoint to its validation cases, and write the result into its folder.

    Three files are written. ``checkpoints/calibrated.ckpt`` is the best checkpoint with the calibration, the levels of
    contours, the factor of areas and the familiarity of images. ``calibration.yaml`` has the same settings without the
    familiarity, which changes no score. ``calibration.json`` has the quality of the calibration and the hash of the
    checkpoint. The threshold is mapped by the calibration, so masks do not change (except for ``nothing``, which
    empties some). The same cases chose the checkpoint, so the stated quality is slightly too good.

    Args:
        run: The run's folder.
        method: A key of ``METHODS``.
        share: See :class:`~diffmedseg.postprocessing.Conformal`.
        coverage: Fraction of cases whose contours and areas have to hold.
        nothing: Accepted fraction of healthy images with a non-empty mask, for models that always find a lesion; None
            does not change such models.
        tta: Test-time augmentation of the calibrated model; None for the setting of the run.
        trust: Packages besides diffmedseg whose classes the run may name; see :mod:`diffmedseg.plugins`.

    Raises:
        ValueError: If share or coverage are out of range.
        ZooError: If there is no such run, or the run is calibrated already.
        DataError: If the data is missing, or ``nothing`` needs more healthy images.
    """
    check_share(share, coverage)
    config = read_run(run)
    model, data = load_trained(chosen_checkpoint(run), trust), build_data(config["data"], trust)
    if model.calibration is not None:
        raise ZooError(f"{run} has a calibration already. Calibrate the original run.")
    data.setup("validate")
    data.configure_targets((), model.regions)
    bf16 = "bf16" in str(config["trainer"]["precision"])
    result: dict[str, Any] = {"method": method}
    if (origin := data.pseudo_masks("val")) is not None:
        result[PSEUDO] = origin
    model.tta = model.tta if tta is None else tta
    model.fitted_tta = model.tta
    settings: dict[str, Any] = {"tta": model.tta, "fitted_tta": model.fitted_tta}
    if nothing is not None:
        result["presence"] = fit_presence(model, data, bf16, nothing)
        settings["least_contrast"] = model.least_contrast
    images = score_split(model, data, bf16)
    # Summed over all regions, since regions may nest.
    counts = torch.stack([image.reliability[:2] for image in images.values()]).sum((0, 2))
    calibration = METHODS[method](counts[1])  # near lesions: otherwise certain background would dominate
    threshold = float(calibration(torch.tensor([model.threshold]))[0])
    settings |= {"calibration": to_config(calibration), "threshold": threshold}
    try:
        conformal = Conformal.fit(images.values(), model.num_steps, model.threshold, share, coverage)
        settings["conformal"] = to_config(conformal)
    except TooFewCasesError as error:
        result["without_contours"] = str(error)
    familiarity = None
    try:
        familiarity = fit_familiarity(model, data)
        result["familiarity"] = familiarity and {"cases": familiarity.cases, "level": familiarity.level}
    except TooFewCasesError as error:
        result["without_familiarity"] = str(error)
    result |= {"cases": len(images), "regions": list(model.regions), **settings}
    parts = dict(zip(("whole", "neighbourhood"), counts, strict=True))
    result["ece"] = {
        "before": {part: expected_calibration_error(count) for part, count in parts.items()},
        "after": {part: expected_calibration_error(map_counts(count, calibration)) for part, count in parts.items()},
    }
    _write(run, settings, plain(result), familiarity)
    return result


def fit_familiarity(model: DiffusionSegmenter, data: SegmentationDataModule) -> Familiarity | None:
    """Fit the familiarity of images to the validation cases of a data module that is set up.

    Returns:
        The fit; None if the network has no feature maps of an image.

    Raises:
        TooFewCasesError: If there are too few cases.
    """
    features, cases = [], list[str]()
    for batch in track(data.val_dataloader(), "Familiarity"):
        moved = data.on_after_batch_transfer(batch, 0)
        image_features = model.features(moved["image"])
        if image_features is None:
            return None
        features.append(image_features)
        cases += moved["case"]
    return Familiarity.fit(torch.cat(features), cases)


def fit_presence(model: DiffusionSegmenter, data: SegmentationDataModule, bf16: bool, nothing: float) -> dict[str, Any]:
    """Set a model's ``least_contrast`` so that a given fraction of new healthy images exceeds it.

    The level comes from split conformal prediction: the ceil((1 - nothing) (n + 1))-th smallest contrast of n healthy
    images. It holds for images, not for volumes of many slices, and for the number of steps of the fit.

    Args:
        model: A model whose samples are empty below its ``least_contrast``.
        data: A data module that is set up. Only images and labels of its validation split are used.
        bf16: Whether the model runs under autocast.
        nothing: The accepted fraction, in (0, 1).

    Returns:
        ``least_contrast``; the numbers of ``healthy`` and ``diseased`` images; the fraction of either with a non-empty
        mask (``false_positives``, ``found``); and the area under the ROC curve (``auc``).

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
            raise ZooError(f"{model.name} can return an empty mask without this setting. Leave --nothing out.")
        scores.append(contrast)
        labels.append(torch.as_tensor(moved["label"] if "label" in moved else [1] * len(contrast)))
        batches.append(moved)
    score, label = torch.cat(scores).double().numpy(), torch.cat(labels).numpy()
    healthy = np.sort(score[label == 0])
    rank = math.ceil((1 - nothing) * (len(healthy) + 1))
    if rank > len(healthy) or (label == 0).all():
        raise DataError(
            f"{data.info.title}: {len(healthy)} of {len(score)} validation images are healthy; --nothing {nothing} "
            f"needs at least {math.ceil(1 / nothing) - 1} healthy images, and diseased images. Use a larger value, or "
            "more images."
        )
    model.least_contrast = float(healthy[rank - 1])
    filled = []
    for moved in batches:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            filled.append(model.segment(moved["image"], keys=moved["case"]).mask.flatten(1).any(1).cpu())
    has_mask = torch.cat(filled).numpy()
    return {
        "least_contrast": model.least_contrast,
        "num_steps": model.num_steps,
        "healthy": len(healthy),
        "diseased": int((label == 1).sum()),
        "false_positives": float(has_mask[label == 0].mean()),
        "found": float(has_mask[label == 1].mean()),
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
            field_of_view, window = moved["field_of_view"][i], moved["window"][i]
            add_to(pooled, score_image(case, *maps, model.threshold, 0.0, field_of_view=field_of_view, window=window))
    return pooled


def map_counts(counts: Tensor, calibration: Calibration) -> Tensor:
    """Return the reliability counts of the calibrated probabilities.

    Args:
        counts: (3, bins), of :func:`~diffmedseg.metrics.calibration.reliability_counts`.
        calibration: Applied to the mean probability of each bin.
    """
    pixels, probability, target = counts[:, counts[0] > 0]
    p = calibration(probability / pixels)
    index = (p * FINE_BINS).long().clamp(0, FINE_BINS - 1)
    return torch.zeros_like(counts).index_add_(1, index, torch.stack([pixels, p * pixels, target]))


def _write(run: Path, settings: dict[str, Any], result: dict[str, Any], familiarity: Familiarity | None) -> None:
    best = chosen_checkpoint(run)
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    checkpoint["hyper_parameters"] |= settings
    if familiarity is not None:
        checkpoint["hyper_parameters"]["familiarity"] = to_config(familiarity)
        checkpoint["state_dict"] |= {f"familiarity.{name}": value for name, value in familiarity.state_dict().items()}
    result = result | {"checkpoint": file_sha256(best)}
    text = yaml.safe_dump({"model": {"init_args": settings}}, sort_keys=False)
    write_checkpoint(run / "checkpoints" / "calibrated.ckpt", checkpoint)
    write_alone(run / "calibration.yaml", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    write_alone(
        run / "calibration.json", lambda temporary: temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    )
