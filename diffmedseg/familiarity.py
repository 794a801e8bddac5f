"""Familiarity of an image: its similarity to the validation cases of a model."""

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from diffmedseg.configurable import Configurable
from diffmedseg.errors import TooFewCasesError
from diffmedseg.wording import count

#: A familiarity of at most this gives a warning.
_LEVEL = 0.01
#: With fewer cases, more than 5 % of new cases get false warnings: the lowest familiarity is 1 / (cases + 1).
_FEWEST_CASES = 19
#: More cases make an entry of the zoo larger but the familiarity no better.
_MOST_CASES = 500
_LEAST_SCALE = 1e-4
_ROUNDING = 1e-9
_LARGEST_HALF = 6e4


class Familiarity(Configurable, nn.Module):
    """The share of cases at least as unusual as an image, among the validation cases and the image itself.

    The distance of a case's features to the nearest other case measures how unusual the case is. This is full conformal
    prediction (Vovk et al. 2005): at most a share p of new cases, drawn like the validation cases, has a familiarity of
    p or less. For this guarantee, image and cases are treated alike: the standard deviations of all of them together
    scale the distances.

    The features are buffers, rounded to float16, so that float16 weights store them exactly.

    Args:
        cases: Number of validation cases of the fit.
        features: F, number of features of an image.
        by_slices: Whether a case is a volume, with the mean features of its slices. A single slice then has no
            familiarity.
    """

    center: Tensor
    scale: Tensor
    points: Tensor

    def __init__(self, cases: int, features: int, by_slices: bool = False) -> None:
        super().__init__()
        if cases < 2 or features < 1:
            raise ValueError(f"cases is {cases} and features {features}; they have to be at least 2 and 1.")
        self.cases, self.features, self.by_slices = cases, features, by_slices
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("points", torch.zeros(cases, features))

    @property
    def level(self) -> float:
        """The familiarity, in (0, 0.05], at or below which an image is unfamiliar.

        It is 1 %, or with fewer than 99 cases the lowest possible familiarity.
        """
        return max(_LEVEL, 1 / (self.cases + 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the familiarity, (B,) in (0, 1], of features (B, F)."""
        points = ((features.to(self.points) - self.center) / self.scale).clamp(-_LARGEST_HALF, _LARGEST_HALF)
        return torch.stack([self._rank(point) for point in points])

    def _rank(self, point: Tensor) -> Tensor:
        """Rank a standardised image (F,) among the cases. Image and cases together set the scale."""
        points = torch.cat([self.points, point[None]])
        points = points / points.std(0).clamp(min=_LEAST_SCALE)
        nearest = _squared_distances(points).fill_diagonal_(torch.inf).amin(1)
        return (nearest >= nearest[-1] * (1 - _ROUNDING)).float().mean()

    @classmethod
    def fit(cls, features: Tensor, cases: Sequence[str]) -> Self:
        """Fit the familiarity to images that the model was not trained on.

        Args:
            features: (N, F), of :meth:`~diffmedseg.models.DiffusionSegmenter.features`.
            cases: The case of each image. Images of one case are slices of a volume.

        Raises:
            TooFewCasesError: If there are fewer than 19 cases.
        """
        names = list(dict.fromkeys(cases))
        if len(names) < _FEWEST_CASES:
            raise TooFewCasesError(
                f"{count(len(names), 'case')}: too few for a warning of unusual images with at most 5 % false "
                f"warnings; {_FEWEST_CASES} are needed."
            )
        chosen = names[:: -(-len(names) // _MOST_CASES)]
        of_case = torch.tensor([names.index(case) for case in cases])
        means = torch.stack([features[of_case == names.index(name)].cpu().float().mean(0) for name in chosen])
        fitted = cls(len(chosen), means.shape[1], len(names) < len(cases))
        fitted.center = _as_half(means.mean(0))
        fitted.scale = _as_half(means.std(0).clamp(min=_LEAST_SCALE))
        fitted.points = _as_half((means - fitted.center) / fitted.scale)
        return fitted


class JointFamiliarity(nn.Module):
    """The familiarity of an image to several models: twice the mean of their familiarities, at most 1.

    At most a share p of new cases, drawn like the validation cases of each model, has a familiarity of p or less, for
    any dependence between the models (Rüschendorf 1982; Vovk & Wang 2020, arXiv 1212.4966).

    Args:
        parts: The familiarities of the models.
    """

    def __init__(self, parts: Sequence[Familiarity]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._features = [part.features for part in parts]
        self._lowest = 2 * sum(1 / (part.cases + 1) for part in parts) / len(parts)
        self.by_slices = any(part.by_slices for part in parts)

    @property
    def level(self) -> float:
        """The familiarity at or below which an image is unfamiliar: 1 %, or the lowest possible familiarity."""
        return max(_LEVEL, self._lowest)

    def forward(self, features: Tensor) -> Tensor:
        """Return the familiarity, (B,) in (0, 1], of the concatenated features (B, F) of all models."""
        by_model = torch.split(features, self._features, 1)
        ranks = torch.stack([part(values) for part, values in zip(self.parts, by_model, strict=True)])
        return (2 * ranks.mean(0)).clamp(max=1)


def pool_maps(maps: Iterable[Tensor]) -> Tensor:
    """Pool feature maps, each (B, C_i, ...), to their spatial means and deviations, (B, 2 * sum of C_i)."""
    pooled = []
    for m in maps:
        space = tuple(range(2, m.ndim))
        pooled += [m.mean(space), m.std(space, correction=0)]
    return torch.cat(pooled, 1)


def describe_unfamiliar(familiarity: float) -> str:
    """Return the warning for an unfamiliar image."""
    return (
        f"looks unlike the images this model was validated on (familiarity {familiarity:.3f}): check that it is the "
        "right kind of image"
    )


def _squared_distances(points: Tensor) -> Tensor:
    """Return the squared distances (n, n) of points (n, F), by a matrix product in float64."""
    products = points.double() @ points.double().T
    squares = products.diagonal()
    return squares[:, None] + squares - 2 * products


def _as_half(values: Tensor) -> Tensor:
    """Round float32 values to float16 precision."""
    return values.clamp(-_LARGEST_HALF, _LARGEST_HALF).half().float()
