"""What gives a label away without a look at the tissue, and weights that hide it."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.store import ImageStore, is_tissue, to_signed

_RIDGE = 1e-3  # keeps the fit finite where labels can be told without error


def covariates(store: ImageStore) -> dict[str, NDArray[np.float64]]:
    """Measure of every item what has nothing to do with disease.

    Returns:
        By name, (items,): the ``area`` that is not background, as a share of the image; the ``position`` of a slice
        between the first and the last of its case, in [0, 1]; and mean and deviation of each channel over that area.
    """
    rows = np.array([_measure(store.image(index)) for index in range(len(store))])
    channels = range((rows.shape[1] - 1) // 2)
    return {
        "area": rows[:, 0],
        "position": _relative_positions(store),
        **{f"mean of channel {c + 1}": rows[:, 1 + 2 * c] for c in channels},
        **{f"deviation of channel {c + 1}": rows[:, 2 + 2 * c] for c in channels},
    }


def _measure(image: Tensor) -> list[float]:
    """Return the area that is not background, and of each channel the mean and the deviation over it."""
    unit, inside = to_signed(image), is_tissue(image)
    tissue = unit[:, inside] if inside.any() else unit.flatten(1)
    values = torch.stack([tissue.mean(1), tissue.std(1, correction=0)], 1)
    return [float(inside.double().mean()), *values.flatten().tolist()]


def _relative_positions(store: ImageStore) -> NDArray[np.float64]:
    positions = np.array([store.position(index) for index in range(len(store))], dtype=float)
    cases = np.array(store.cases)
    for case in np.unique(cases):
        own = cases == case
        low, high = positions[own].min(), positions[own].max()
        positions[own] = (positions[own] - low) / max(high - low, 1)
    return positions


def propensity(
    features: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the probability of being diseased that each item's features give it: logistic regression, on squares too.

    Args:
        features: Arrays (items,).
        labels: (items,), 0 or 1.
        weights: (items,), how often each is drawn, relative to others; None draws all alike.
    """
    drawn = None if weights is None else torch.from_numpy(weights / weights.mean())
    columns = [np.ones(len(labels))]
    for feature in features:
        if feature.std() > 1e-9:
            normal = (feature - feature.mean()) / feature.std()
            columns += [normal, normal**2]
    x, y = torch.from_numpy(np.stack(columns, 1)), torch.from_numpy(labels).double()
    beta = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([beta], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ beta, y, drawn) + _RIDGE * beta[1:].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    result: NDArray[np.float64] = (x @ beta).sigmoid().detach().numpy()
    return result


def overlap_weights(probability: NDArray[np.float64], labels: NDArray[np.int64]) -> list[float]:
    """Weigh items so that the labels' covariates agree, and each label as a whole weighs 1.

    Overlap weights (Li, Morgan & Zaslavsky 2018, JASA 113:390): each item counts the probability of the other label.

    Args:
        probability: (items,), of being diseased.
        labels: (items,).
    """
    weights = np.where(labels == 1, 1 - probability, probability)
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].sum()
    result: list[float] = weights.tolist()
    return result


def separation(
    scores: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> float:
    """Return the area under the ROC curve of telling labels by a score, 0.5 to 1 whichever way it points."""
    weights = np.ones(len(labels)) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    value, label, weight = scores[order], labels[order], weights[order]
    _, group = np.unique(value, return_inverse=True)
    healthy, diseased = (np.bincount(group, weight * (label == one)) for one in (0, 1))
    below = np.cumsum(healthy) - healthy
    area = float((diseased * (below + healthy / 2)).sum() / (healthy.sum() * diseased.sum()))
    return max(area, 1 - area)
