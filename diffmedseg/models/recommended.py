"""Recommended settings of a network: the settings that measured best. They are the defaults of segmenters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from diffmedseg.diffusion import DiffusionLoss, NoiseProcess, PriorLoss, ReverseProcess
from diffmedseg.postprocessing.crf import CRFSettings, RandomSubsetCRF
from diffmedseg.postprocessing.refinement import Refinement

_PROCESS = partial(NoiseProcess, schedule="cosine", input_scale=0.1, prediction="x_0")
_LOSS = partial(DiffusionLoss, bce=1.0, dice=1.0)

#: Stands for a part that the network recommends. None has another meaning in older configs.
Recommend = Literal["recommended"]


def _unipc() -> ReverseProcess:
    from diffusers import UniPCMultistepScheduler

    return ReverseProcess(UniPCMultistepScheduler(), spacing=1.0)


def _no_refinement() -> None:
    return None


@dataclass(frozen=True)
class Recommended:
    """Settings of a segmenter, chosen for one network; docs/results has the measurements.

    Each segmenter gets new parts. The settings are for data with one rater: the loss raises Dice, but with several
    raters it makes samples less like the raters' masks.

    Attributes:
        num_samples: S when testing and predicting.
        num_steps: Network evaluations per sample when testing and predicting.
        val_num_samples: S when validating.
        val_num_steps: Network evaluations per sample when validating.
        noise_levels: Noise levels per encoded image and training step.
        prior_share: Share of the votes of the condition network's own mask.
        process: Makes the noise process of masks.
        reverse: Makes the sampler of masks.
        loss: Makes the loss of noisy masks.
        prior_loss: Makes the loss of the condition network's own mask.
        refinement: Makes the refinement of the fused probability; None for no refinement.
    """

    num_samples: int = 8
    num_steps: int = 10
    val_num_samples: int = 2
    val_num_steps: int = 4
    noise_levels: int = 1
    prior_share: float = 0.0
    process: Callable[[], NoiseProcess] = _PROCESS
    reverse: Callable[[], ReverseProcess] = _unipc
    loss: Callable[[], DiffusionLoss] = _LOSS
    prior_loss: Callable[[], PriorLoss] = PriorLoss
    refinement: Callable[[], Refinement | None] = _no_refinement


#: Networks without noise give one mask in one step.
DIRECT = Recommended(num_samples=1, num_steps=1, val_num_samples=1, val_num_steps=1)

#: Networks of DiffSeg: a step is a comparison, of two evaluations. The deviations of the CRF in space are meant for
#: images of 512 pixels; rounds and subsets are those of the released code.
IMAGES = Recommended(
    num_steps=4,
    refinement=partial(RandomSubsetCRF, rounds=3, subset=4, settings=CRFSettings(reference_size=512)),
)
