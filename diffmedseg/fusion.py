"""Rules that turn a set of masks into one; they work without a Trainer."""

from abc import ABC, abstractmethod

from torch import Tensor


class Fusion(ABC):
    """Fuses the samples of an image into one probability map.

    Unanimous samples give that mask, and the order of samples changes nothing.
    """

    @abstractmethod
    def __call__(self, samples: Tensor) -> Tensor:
        """Fuse.

        Args:
            samples: (B, S, K, H, W), soft masks in [0, 1] whose decision level is 0.5.

        Returns:
            Probability (B, K, H, W), in [0, 1].
        """


class MeanFusion(Fusion):
    """The mean of the soft samples."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Fuse; see the base class."""
        return samples.mean(1)


class MajorityFusion(Fusion):
    """The share of samples that call a pixel foreground, so that a threshold of 0.5 is a majority vote."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Fuse; see the base class."""
        return (samples > 0.5).to(samples.dtype).mean(1)
