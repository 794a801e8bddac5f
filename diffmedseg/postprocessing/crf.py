"""Dense conditional random fields, which align masks with the edges of the image. They work without a Trainer."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.keyed_random import keyed_generator
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.segmentation import nest, resize_soft

_CERTAIN = 1e-5  # minimum probability, as in pydensecrf's own unary


def crf_is_available() -> bool:
    """Return whether pydensecrf is installed."""
    return find_spec("pydensecrf") is not None


@dataclass(frozen=True)
class CRFSettings:
    """A fully connected CRF with two Gaussian kernels (Krähenbühl & Koltun, NeurIPS 2011, eq. 3).

    The defaults are those of DiffSeg's released code (optimize.py), which uses pydensecrf's examples.

    Attributes:
        iterations: Number of mean-field iterations.
        bilateral_xy: Spatial deviation of the appearance kernel, in pixels.
        bilateral_intensity: Deviation of the appearance kernel in each channel of the image, of 255.
        bilateral_weight: Weight of the appearance kernel.
        smooth_xy: Deviation of the smoothness kernel, in pixels.
        smooth_weight: Weight of the smoothness kernel.
        reference_size: Longest side, in pixels, for which the spatial deviations hold; they scale with the longest side
            of the image. None does not scale them.
        longest: Maximum longest side in pixels. Larger images are shrunk, and the result is enlarged again.
    """

    iterations: int = 5
    bilateral_xy: float = 80
    bilateral_intensity: float = 13
    bilateral_weight: float = 10
    smooth_xy: float = 3
    smooth_weight: float = 3
    reference_size: int | None = None
    longest: int = 512

    def __post_init__(self) -> None:
        """Refuse settings on which pydensecrf crashes."""
        sizes = (self.bilateral_xy, self.bilateral_intensity, self.smooth_xy, self.longest, self.iterations)
        if min(*sizes, 1 if self.reference_size is None else self.reference_size) <= 0:
            raise ValueError(f"Deviations, sizes and iterations of {self} have to be above 0.")


def crf_marginals(image: Tensor, probability: Tensor, settings: CRFSettings, nested: bool = False) -> Tensor:
    """Run a dense CRF on the regions of one image, as exclusive classes.

    Args:
        image: (C, H, W), in [-1, 1]; any number of channels.
        probability: (K, h, w), in [0, 1]; resized to the CRF's grid.
        settings: The CRF.
        nested: Whether each region lies within the previous region. If not, regions exclude each other; overlapping
            regions are refined one by one.

    Returns:
        Marginals (K, H', W'), in [0, 1], on the image's grid, or on the shrunk grid of a large image.

    Raises:
        ValueError: If the probability is not in [0, 1]. On a map of 0 to 255 all unaries saturate, and the CRF returns
            the union of the masks, as the published code does.
        ModuleNotFoundError: If pydensecrf is not installed.
    """
    if not (probability.min() >= 0 and probability.max() <= 1):  # also NaN
        raise ValueError(
            f"A probability has to be in [0, 1]; this one is from {probability.min():g} to {probability.max():g}."
        )
    try:
        from pydensecrf.densecrf import DenseCRF as MeanField
        from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The CRF needs pydensecrf: pip install pydensecrf2 (Python below 3.13 and a C++ compiler)."
        ) from error
    if not nested and len(probability) > 1 and ((probability > 0.5).sum(0) > 1).any():
        return torch.cat([crf_marginals(image, region[None], settings) for region in probability])
    height, width = image.shape[-2:]
    shrink = min(settings.longest / max(height, width), 1)
    size = max(round(height * shrink), 1), max(round(width * shrink), 1)
    small = F.interpolate(image[None].float().cpu(), size, mode="bilinear", antialias=True)[0]
    intensity = ((small.clamp(-1, 1) + 1) * 127.5).numpy()
    classes = _exclusive(resize_soft(probability[None].float().cpu(), size)[0], nested)
    scale = max(size) / settings.reference_size if settings.reference_size else 1.0
    field = MeanField(size[0] * size[1], len(classes))
    unary = -classes.clamp(min=_CERTAIN).log().flatten(1).numpy()
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    smooth = create_pairwise_gaussian((settings.smooth_xy * scale,) * 2, size)
    field.addPairwiseEnergy(np.ascontiguousarray(smooth), compat=settings.smooth_weight)
    bilateral = create_pairwise_bilateral(
        (settings.bilateral_xy * scale,) * 2, (settings.bilateral_intensity,) * len(intensity), intensity, chdim=0
    )
    field.addPairwiseEnergy(np.ascontiguousarray(bilateral), compat=settings.bilateral_weight)
    marginals: NDArray[np.float32] = np.array(field.inference(settings.iterations)).reshape(-1, *size)
    return _regions(torch.from_numpy(marginals), nested)


def _exclusive(probability: Tensor, nested: bool) -> Tensor:
    """Turn regions (K, ...) to classes (K + 1, ...) that add up to 1, background first."""
    if nested:
        levels = torch.cat([torch.ones_like(probability[:1]), nest(probability), torch.zeros_like(probability[:1])])
        return levels[:-1] - levels[1:]
    background = (1 - probability.sum(0, keepdim=True)).clamp(min=0)
    classes = torch.cat([background, probability])
    return classes / classes.sum(0, keepdim=True)


def _regions(classes: Tensor, nested: bool) -> Tensor:
    """Turn classes back to regions."""
    if nested:
        return classes[1:].flip(0).cumsum(0).flip(0).clamp(0, 1)
    return classes[1:]


class DenseCRF(Refinement):
    """A CRF on the fused probability.

    Args:
        settings: The CRF; None for its defaults.
        processes: Number of worker processes; 0 works in this process.
    """

    def __init__(self, settings: CRFSettings | None = None, processes: int = 0) -> None:
        super().__init__(processes)
        self.settings = settings or CRFSettings()

    def refine(self, image: Tensor, samples: Tensor, probability: Tensor, nested: bool, key: str) -> Tensor:
        """Refine; see the base class."""
        return crf_marginals(image, probability, self.settings, nested)


class RandomSubsetCRF(Refinement):
    """DiffSeg's scheme (Shuai et al. 2024, arXiv 2404.16474): the mean of CRFs of random subsets.

    As in its code (optimize.py), each round runs a CRF on the mean of a random subset of the samples. Here the
    marginals are averaged; the code averages labels.

    Args:
        rounds: Number of rounds, K of the code.
        subset: Number of samples in a subset, H of the code; all samples if there are fewer.
        settings: The CRF.
        processes: Number of worker processes; 0 works in this process.
        seed: Seed of the subsets.
    """

    def __init__(
        self,
        rounds: int = 3,
        subset: int = 4,
        settings: CRFSettings | None = None,
        processes: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(processes)
        if min(rounds, subset) < 1:
            raise ValueError(f"rounds is {rounds} and subset {subset}; both have to be at least 1.")
        self.settings, self.rounds, self.subset, self.seed = settings or CRFSettings(), rounds, subset, seed

    def refine(self, image: Tensor, samples: Tensor, probability: Tensor, nested: bool, key: str) -> Tensor:
        """Refine; see the base class."""
        generator = keyed_generator(self.seed, "crf", key)
        marginals = []
        for _ in range(self.rounds if self.subset < len(samples) else 1):  # otherwise all rounds are equal
            chosen = torch.randperm(len(samples), generator=generator)[: self.subset]
            marginals.append(crf_marginals(image, samples[chosen].mean(0), self.settings, nested))
        return torch.stack(marginals).mean(0)
