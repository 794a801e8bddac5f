"""Measure image-level labels: their number, their agreement with masks, and what else predicts them."""

import warnings
from dataclasses import dataclass

import numpy as np

from diffmedseg.data.labels.balance import covariates, propensity, separation
from diffmedseg.data.store import ImageStore
from diffmedseg.segmentation import majority


@dataclass(frozen=True)
class LabelWorth:
    """Measurements of the labels of a split.

    Attributes:
        healthy: Number of healthy items.
        diseased: Number of diseased items.
        healthy_with_mask: Share of healthy items whose majority mask is not empty, in [0, 1].
        diseased_without_mask: Share of diseased items whose majority mask is empty, in [0, 1].
        separations: Two areas under the ROC curve for each covariate: of the items as they are, and as training draws
            them. The classifier is a logistic regression on the covariate and its square, fitted to the same items.
            0.5: the covariate tells nothing about the label. 1: it tells the label.
    """

    healthy: int
    diseased: int
    healthy_with_mask: float
    diseased_without_mask: float
    separations: dict[str, tuple[float, float]]


def label_leakage(store: ImageStore) -> LabelWorth:
    """Measure the labels that a recipe gave a split, and how well simple covariates predict them."""
    labels = np.array([store.label(index) for index in range(len(store))])
    marked = np.array([bool(majority(store.masks(index)).any()) for index in range(len(store))])
    weights = np.ones(len(labels)) if store.weights is None else np.array(store.weights)
    values = covariates(store)
    groups = {name: [value] for name, value in values.items() if value.std() > 1e-9}
    groups["means of all channels"] = [value for name, value in values.items() if name.startswith("mean of")]
    groups["all together"] = list(values.values())
    return LabelWorth(
        healthy=int((labels == 0).sum()),
        diseased=int((labels == 1).sum()),
        healthy_with_mask=float(marked[labels == 0].mean()),
        diseased_without_mask=float((~marked)[labels == 1].mean()),
        separations={
            name: (
                separation(propensity(features, labels), labels),
                separation(propensity(features, labels, weights), labels, weights),
            )
            for name, features in groups.items()
        },
    )


def label_worth(store: ImageStore) -> LabelWorth:
    """Call :func:`label_leakage`: the old name."""
    warnings.warn("label_worth is now label_leakage: use the new name.", FutureWarning, stacklevel=2)
    return label_leakage(store)
