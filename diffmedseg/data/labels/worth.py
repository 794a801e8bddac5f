"""What labels are worth: how many, how right, and what gives them away."""

from dataclasses import dataclass

import numpy as np

from diffmedseg.data.labels.balance import covariates, propensity, separation
from diffmedseg.data.store import ImageStore
from diffmedseg.segmentation import majority


@dataclass(frozen=True)
class LabelWorth:
    """What is known of the labels of a split.

    Attributes:
        healthy: Number of healthy items.
        diseased: Number of diseased items.
        healthy_with_mask: Share of healthy items in which the raters' majority marks anything.
        diseased_without_mask: Share of diseased items in which it marks nothing.
        separations: By covariate, the area under the ROC curve of a classifier that is given it alone (logistic
            regression, on its square too, fitted to these very items), of items as they are and as they are drawn in
            training. 0.5 tells nothing, 1 everything.
    """

    healthy: int
    diseased: int
    healthy_with_mask: float
    diseased_without_mask: float
    separations: dict[str, tuple[float, float]]


def label_worth(store: ImageStore) -> LabelWorth:
    """Look at the labels of a split that a recipe made."""
    labels = np.array([store.label(index) for index in range(len(store))])
    marked = np.array([bool(majority(store.masks(index)).any()) for index in range(len(store))])
    weights = np.ones(len(labels)) if store.weights is None else np.array(store.weights)
    found = covariates(store)
    given = {name: [value] for name, value in found.items() if value.std() > 1e-9}
    given["means of all channels"] = [value for name, value in found.items() if name.startswith("mean of")]
    given["all together"] = list(found.values())
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
            for name, features in given.items()
        },
    )
