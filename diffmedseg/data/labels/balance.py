"""Covariates that predict a label without the disease itself, and weights that balance them."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.store import ImageStore, is_tissue, to_signed

_RIDGE = 1e-3  # keeps the fit finite if the labels are separable


def covariates(store: ImageStore) -> dict[str, NDArray[np.float64]]:
    """Measure covariates of every item that are unrelated to disease.

    Returns:
        Arrays (items,) by name: the ``area`` that is not background, as a share of the image; the ``position`` of a
        slice in its case, in [0, 1]; and mean and standard deviation of each channel over the area.
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
    """Return the area that is not background, then mean and standard deviation of each channel over it."""
    unit, inside = to_signed(image), is_tissue(image)
    tissue = unit[:, inside] if inside.any() else unit.flatten(1)
    values = torch.stack([tissue.mean(1), tissue.std(1, correction=0)], 1)
    return [float(inside.double().mean()), *values.flatten().tolist()]


def _relative_positions(store: ImageStore) -> NDArray[np.float64]:
    positions = np.array([store.position(index) for index in range(len(store))], dtype=float)
    cases = np.array(store.cases)
    for case in np.unique(cases):
        in_case = cases == case
        low, high = positions[in_case].min(), positions[in_case].max()
        positions[in_case] = (positions[in_case] - low) / max(high - low, 1)
    return positions


def propensity(
    features: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Predict the probability of disease of each item: logistic regression on the features and their squares.

    Args:
        features: Arrays (items,).
        labels: (items,), 0 or 1.
        weights: (items,), relative frequency of each item; None for equal frequencies.
    """
    item_weights = None if weights is None else torch.from_numpy(weights / weights.mean())
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
        loss = F.binary_cross_entropy_with_logits(x @ beta, y, item_weights) + _RIDGE * beta[1:].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    result: NDArray[np.float64] = (x @ beta).sigmoid().detach().numpy()
    return result


def overlap_weights(probability: NDArray[np.float64], labels: NDArray[np.int64]) -> list[float]:
    """Weight items so that the covariates of both labels agree. The weights of each label sum to 1.

    Overlap weights (Li, Morgan & Zaslavsky 2018, JASA 113:390): the weight of an item is the predicted probability of
    the other label.

    Args:
        probability: (items,), predicted probability of disease.
        labels: (items,), 0 or 1.
    """
    weights = np.where(labels == 1, 1 - probability, probability)
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].sum()
    result: list[float] = weights.tolist()
    return result


def separation(
    scores: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> float:
    """Return the area under the ROC curve of a score as a classifier, 0.5 to 1 in either direction."""
    weights = np.ones(len(labels)) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    value, label, weight = scores[order], labels[order], weights[order]
    _, group = np.unique(value, return_inverse=True)
    healthy, diseased = (np.bincount(group, weight * (label == wanted)) for wanted in (0, 1))
    below = np.cumsum(healthy) - healthy
    area = float((diseased * (below + healthy / 2)).sum() / (healthy.sum() * diseased.sum()))
    return max(area, 1 - area)
