"""Does the GED of a network with a presence head come from presence (whether a rater outlines anything) or from shapes?

``python experiments/benchmarks/error_sources.py RUN`` replaces the presence, the shapes or both by those of the image's
raters. What remains of the unbiased GED then comes from the other part. The expectation over presence is exact.
"""

import copy
from collections import defaultdict
from pathlib import Path

import torch
from jsonargparse import auto_cli
from lite_designs import evenly_spread
from samples_and_steps import load_run
from torch import Tensor

from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.functional import off_diagonal_mean, pairwise_distance
from diffmedseg.models import DiffusionSegmenter

_ALWAYS = 100.0  # a logit of presence: the sigmoid is 1 in float32


def expected_ged(shapes: Tensor, presence: float, raters: Tensor, drawn: bool = True) -> float:
    """Return the unbiased GED of samples that are one of the shapes with a probability, and otherwise empty.

    Args:
        shapes: (S, ...), bool.
        presence: The probability, in [0, 1].
        raters: (R, ...), bool: the whole population.
        drawn: Whether the shapes are independent draws; otherwise they are the whole population of shapes.
    """
    nothing = torch.zeros_like(shapes[:1])
    among = pairwise_distance(shapes, shapes)
    two_shapes = off_diagonal_mean(among) if drawn else among.mean()
    to_shapes, to_nothing = pairwise_distance(shapes, raters).mean(), pairwise_distance(nothing, raters).mean()
    across = presence * to_shapes + (1 - presence) * to_nothing
    between = presence**2 * two_shapes + 2 * presence * (1 - presence) * pairwise_distance(shapes, nothing).mean()
    return float(2 * across - between - pairwise_distance(raters, raters).mean())


def sources(shapes: Tensor, presence: float, raters: Tensor) -> dict[str, float]:
    """Return the GED of a model's samples of an image, and with presence or shapes of the raters.

    Args:
        shapes: (S, H, W), bool: samples of the model that are not empty by its presence head.
        presence: Probability of the head.
        raters: (R, H, W), bool.
    """
    outlined = raters.flatten(1).any(1)
    share = float(outlined.double().mean())
    # An image without any outline has no shapes of raters. Any shape has the same distance to an empty mask.
    of_raters = raters[outlined] if outlined.any() else shapes
    return {
        "presence and shapes of the model": expected_ged(shapes, presence, raters),
        "presence of the raters": expected_ged(shapes, share, raters),
        "shapes of the raters": expected_ged(of_raters, presence, raters, drawn=not outlined.any()),
    }


def always_present(model: DiffusionSegmenter) -> DiffusionSegmenter:
    """Return a copy of a model whose presence head leaves no sample empty, without calibration and contours."""
    twin = copy.deepcopy(model)
    twin.calibration = twin.conformal = None
    head = getattr(twin.denoiser, "presence", None)
    if head is None:
        raise SystemExit("The network has no presence head: train with --model.denoiser.presence true.")
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.fill_(_ALWAYS)
    return twin


def main(run: Path, cases: int = 300, samples: int = 16) -> None:
    """Print the mean GED of test images with its 95 % interval over patients.

    Args:
        run: Folder of a run or of a zoo entry, see ``samples_and_steps.py``.
        cases: Number of evenly spread test images.
        samples: S.
    """
    model, data = load_run(run)
    outlining = always_present(model.eval())
    scores: dict[str, list[float]] = defaultdict(list)
    patients: list[str] = []
    for batch in evenly_spread(data, cases):
        with torch.inference_mode():
            chance = model.denoiser.encode(batch["image"]).presence.sigmoid()
            sample_set = outlining.sample(batch["image"], samples, keys=batch["case"])
        for i, name in enumerate(batch["case"]):
            raters = batch["reference"][i].bool()
            shapes = outlining.fuse_by(outlining.fusion, sample_set[i], tuple(raters.shape[-2:])).binary_samples
            for source, score in sources(shapes[0, :, 0], float(chance[i, 0]), raters[:, 0]).items():
                scores[source].append(score)
            patients.append(data.patient(name))
    print(f"{len(patients)} images of {len(set(patients))} patients, {samples} samples; first region\n")
    print("| samples have | GED (unbiased) |\n|---|---|")
    for source, values in scores.items():
        low, high = bootstrap_interval(values, patients=patients)
        print(f"| {source} | {sum(values) / len(values):.3f} ({low:.3f} to {high:.3f}) |")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
