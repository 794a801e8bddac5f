"""The training loss of a denoiser."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.configurable import Configurable
from diffmedseg.diffusion.encoding import x_to_mask
from diffmedseg.diffusion.process import NoiseProcess

Weighting = Literal["uniform", "snr_plus_one"]


def soft_dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """One minus the soft Dice of each mask, smoothed by one pixel so that empty masks have a gradient.

    Args:
        probability: (B, K, H, W), in [0, 1].
        mask: (B, K, H, W), in {0, 1}.

    Returns:
        Shape (B, K), in [0, 1].
    """
    intersection = (probability * mask).sum((-2, -1))
    return 1 - (2 * intersection + 1) / (probability.sum((-2, -1)) + mask.sum((-2, -1)) + 1)


class DiffusionLoss(Configurable, nn.Module):
    """A weighted sum of losses on a denoiser's prediction, in float32 whatever the autocast.

    Args:
        mse: Weight of the squared error of the predicted quantity (x_0, v or epsilon).
        bce: Weight of the binary cross-entropy of x_0; needs an ``x_0`` prediction, whose output is a logit.
        dice: Weight of the soft Dice loss of x_0. It seeks modes, so it costs diversity.
        weighting: How noise levels are weighted: alike, or by SNR + 1 clamped to [1, 5].
    """

    def __init__(self, mse: float = 0.0, bce: float = 1.0, dice: float = 0.0, weighting: Weighting = "uniform") -> None:
        super().__init__()
        if min(mse, bce, dice) < 0 or mse + bce + dice == 0:
            raise ValueError(f"Loss weights mse={mse}, bce={bce}, dice={dice}: none may be negative, one must be set.")
        self.mse, self.bce, self.dice, self.weighting = mse, bce, dice, weighting

    def forward(
        self, process: NoiseProcess, output: Tensor, x_t: Tensor, t: Tensor, x_0: Tensor, eps: Tensor
    ) -> Tensor:
        """Compute the loss, a scalar: the mean over the rows.

        Args:
            process: The noise process; its ``prediction`` says what ``output`` means.
            output: (B, K, H, W), the network's raw output.
            x_t: (B, K, H, W), what it was given.
            t: (B,), its time steps.
            x_0: (B, K, H, W), the clean masks in {-1, 1}.
            eps: (B, K, H, W), the noise in x_t.

        Raises:
            ValueError: If ``bce`` is set and the process does not predict x_0.
        """
        if self.bce and process.prediction != "x_0":
            raise ValueError(
                f"bce needs prediction x_0 (its output is a logit), not {process.prediction}: "
                "set bce to 0 and mse to 1."
            )
        with torch.autocast(output.device.type, enabled=False):
            output = output.float()
            x_0_hat, mask = process.to_x_0(output, x_t, t), x_to_mask(x_0)
            loss = output.new_zeros(len(output))
            if self.mse:
                predicted = x_0_hat if process.prediction == "x_0" else output
                loss = loss + self.mse * (predicted - process.target(x_0, eps, t)).square().flatten(1).mean(1)
            if self.bce:
                cross_entropy = F.binary_cross_entropy_with_logits(output, mask, reduction="none")
                loss = loss + self.bce * cross_entropy.flatten(1).mean(1)
            if self.dice:
                loss = loss + self.dice * soft_dice_loss(x_to_mask(x_0_hat), mask).mean(1)
            if self.weighting == "snr_plus_one":
                alpha_bar = process.alpha_bar[t]
                # SNR + 1 = 1 / (1 - alpha_bar); clamped as in Hang et al. 2023, arXiv 2303.09556 (min-SNR, gamma 5).
                loss = loss * (1 / (1 - alpha_bar)).clamp(max=5)
            return loss.mean()


class PriorLoss(Configurable, nn.Module):
    """The loss of the condition network's own mask, cross-entropy and soft Dice, in float32 whatever the autocast.

    The anchor loss of MedSegDiff-V2 (arXiv 2301.11798, section 3.4): Dice + beta CE where t = 0 mod alpha; by
    second-hand accounts beta is 10 and alpha 5.

    Args:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the soft Dice loss.
        every: It counts at every such time step; 1 for all.
    """

    def __init__(self, bce: float = 1.0, dice: float = 1.0, every: int = 1) -> None:
        super().__init__()
        if min(bce, dice) < 0 or every < 1:
            raise ValueError(f"bce {bce} and dice {dice} have to be at least 0, and every {every} at least 1.")
        self.bce, self.dice, self.every = bce, dice, every

    def forward(self, logits: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        What does not count is multiplied by 0 and never left out, so that every process of many has all gradients.

        Args:
            logits: (B, K, H, W), the condition network's own mask.
            mask: (B, K, H, W), in {0, 1}.
            t: (B, L), the time steps that each image was trained at.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").flatten(1).mean(1)
            loss = self.bce * cross_entropy + self.dice * soft_dice_loss(logits.sigmoid(), mask).mean(1)
            return (loss * (t % self.every == 0).float().mean(1)).mean()
