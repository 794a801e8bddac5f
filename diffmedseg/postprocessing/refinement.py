"""Refine fused masks, one image at a time. Refinements work without a Trainer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.segmentation import nest


class Refinement(Configurable, ABC):
    """Refines the fused probability by the image and the set of masks.

    Args:
        processes: Number of worker processes; 0 works in this process.
    """

    def __init__(self, processes: int = 0) -> None:
        if processes < 0:
            raise ValueError(f"processes is {processes}; it has to be at least 0.")
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pool of processes."""
        return self.__dict__ | {"_pool": None}

    @abstractmethod
    def refine(self, image: Tensor, samples: Tensor, probability: Tensor, nested: bool, key: str) -> Tensor:
        """Refine one image.

        Args:
            image: (C, H, W), in [-1, 1].
            samples: (S, K, h, w), soft masks in [0, 1].
            probability: (K, h, w), the fused samples.
            nested: Whether regions nest.
            key: Key of the randomness, if any.

        Returns:
            Probability (K, h', w'), in [0, 1].
        """

    def __call__(
        self, image: Tensor, samples: Tensor, probability: Tensor, nested: bool, keys: Sequence[str]
    ) -> Tensor:
        """Refine a batch.

        Args:
            image: (B, C, H, W), in [-1, 1].
            samples: (B, S, K, h, w), soft masks in [0, 1].
            probability: (B, K, h', w'), the fused samples.
            nested: Whether regions nest.
            keys: Key of each image.

        Returns:
            Probability (B, K, H', W'), in [0, 1], on the images' grid or a smaller one.
        """
        jobs = list(
            zip(image.float().cpu(), samples.float().cpu(), probability.float().cpu(), [nested] * len(keys), keys,
                strict=True)
        )  # fmt: skip
        if self.processes:
            if self._pool is None:  # not forked, since PyTorch's threads do not survive a fork
                self._pool = ProcessPoolExecutor(self.processes, get_context("spawn"))
            refined = list(self._pool.map(self.refine, *zip(*jobs, strict=True)))
        else:
            refined = [self.refine(*job) for job in jobs]
        stacked = torch.stack(refined).to(probability)
        return nest(stacked) if nested else stacked


class LargestComponent(Refinement):
    """Keeps the largest connected part of each region, and fills its holes.

    It is for data whose masks are one part without holes by definition, such as ISIC
    (challenge.isic-archive.com/landing/2018/45). Dropped pixels get probability 0, filled pixels 1.

    Args:
        first: Refinement to apply before; None for none.
        processes: Number of worker processes; 0 works in this process.
    """

    def __init__(self, first: Refinement | None = None, processes: int = 0) -> None:
        super().__init__(processes)
        self.first = first

    def refine(self, image: Tensor, samples: Tensor, probability: Tensor, nested: bool, key: str) -> Tensor:
        """Refine; see the base class. A pixel belongs to a region above 0.5."""
        from scipy.ndimage import binary_fill_holes, label

        if self.first is not None:
            probability = self.first.refine(image, samples, probability, nested, key)
        kept = probability.clone()
        for region, values in zip(kept, probability.numpy() > 0.5, strict=True):
            parts, count = label(values)
            if count:
                largest = parts == 1 + np.bincount(parts.flat)[1:].argmax()
                region[torch.from_numpy(values & ~largest)] = 0
                region[torch.from_numpy(binary_fill_holes(largest) & ~largest)] = 1
        return kept
