"""The training loss of a denoiser."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.configurable import Configurable
from diffmedseg.diffusion.encoding import x_to_mask
from diffmedseg.diffusion.process import NoiseProcess

Weighting = Literal["uniform", "snr_plus_one"]
#: What a soft Dice is taken over: each image of a batch, or all of them as one.
DiceOver = Literal["image", "batch"]


def soft_dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """One minus the soft Dice of each mask, smoothed by one pixel so that empty masks have a gradient.

    Args:
        probability: (B, K, H, W), in [0, 1]; here and below volumes are (B, K, D, H, W).
        mask: (B, K, H, W), in {0, 1}.

    Returns:
        Shape (B, K), in [0, 1].
    """
    space = tuple(range(2, mask.ndim))
    intersection = (probability * mask).sum(space)
    return 1 - (2 * intersection + 1) / (probability.sum(space) + mask.sum(space) + 1)


def weigh_pixels(values: Tensor, pixels: Tensor | None) -> Tensor:
    """Multiply (B, K, H, W) by the weights of pixels, (B, 1, H, W); None for all alike."""
    return values if pixels is None else values * pixels


def row_dice_loss(
    probability: Tensor,
    mask: Tensor,
    over: DiceOver | None,
    weight: Tensor | None = None,
    pixels: Tensor | None = None,
) -> Tensor:
    """One minus the soft Dice, for each row and region of a batch.

    Over each image, an empty answer to an empty mask has Dice 1, and any answer has nearly 0. Where many masks are
    empty, a network that answers nothing everywhere then collects a whole Dice for each of them, and a small network
    never leaves that answer. Over the batch, an empty answer has Dice 0 as soon as one mask of the batch is not empty,
    and foreground in an image with an empty mask costs no more than the same pixels elsewhere. nnU-Net's 2-D
    configuration does the same (Isensee et al. 2021, "batch Dice").

    Args:
        probability: (B, K, H, W), in [0, 1].
        mask: (B, K, H, W), in {0, 1}.
        over: ``image`` or None for a Dice of each image, ``batch`` for the Dice of all pixels of the batch.
        weight: (B, 1) or (B, K), at least 0: how much each mask counts in the sums of a batch; None for all alike.
        pixels: (B, 1, H, W), at least 0: how much each pixel counts in all sums; None for all alike.

    Returns:
        Shape (B, K), in [0, 1]; over the batch all values of a region are equal. The caller multiplies by its weights
        either way.
    """
    probability, mask = weigh_pixels(probability, pixels), weigh_pixels(mask, pixels)
    if over != "batch":
        return soft_dice_loss(probability, mask)
    space = tuple(range(2, mask.ndim))
    rows = 1 if weight is None else weight.reshape(*weight.shape, *[1] * len(space))
    intersection = (rows * probability * mask).sum((0, *space))
    total = (rows * (probability + mask)).sum((0, *space))
    return (1 - (2 * intersection + 1) / (total + 1)).expand(len(mask), -1)


class DiffusionLoss(Configurable, nn.Module):
    """A weighted sum of losses on a denoiser's prediction, in float32 whatever the autocast.

    Args:
        mse: Weight of the squared error of the predicted quantity (x_0, v or epsilon).
        bce: Weight of the binary cross-entropy of x_0; needs an ``x_0`` prediction, whose output is a logit.
        dice: Weight of the soft Dice loss of x_0. It seeks modes, so it costs diversity.
        weighting: How noise levels are weighted: alike, or by SNR + 1 clamped to [1, 5].
        dice_over: What the soft Dice is taken over; ``batch`` where many masks are empty, see :func:`row_dice_loss`.
            None takes what the segmenter says, and without one each image.
    """

    def __init__(
        self,
        mse: float = 0.0,
        bce: float = 1.0,
        dice: float = 0.0,
        weighting: Weighting = "uniform",
        dice_over: DiceOver | None = None,
    ) -> None:
        super().__init__()
        if min(mse, bce, dice) < 0 or mse + bce + dice == 0:
            raise ValueError(f"Loss weights mse={mse}, bce={bce}, dice={dice}: none may be negative, one must be set.")
        self.mse, self.bce, self.dice, self.weighting, self.dice_over = mse, bce, dice, weighting, dice_over

    def forward(
        self,
        process: NoiseProcess,
        output: Tensor,
        x_t: Tensor,
        t: Tensor,
        x_0: Tensor,
        eps: Tensor,
        weight: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss, a scalar: the mean over the rows and regions.

        Args:
            process: The noise process; its ``prediction`` says what ``output`` means.
            output: (B, K, H, W), the network's raw output.
            x_t: (B, K, H, W), what it was given.
            t: (B,), its time steps.
            x_0: (B, K, H, W), the clean masks in {-1, 1}.
            eps: (B, K, H, W), the noise in x_t.
            weight: (B, K), at least 0: how much each mask counts; None for all alike. Masks of weight 0 still count in
                the number that the sum is divided by, so that the loss of a batch is the mean of its parts' losses.
            pixels: (B, 1, H, W), at least 0: how much each pixel counts; None for all alike. As with masks, pixels of
                weight 0 still count in the number that a sum is divided by.

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
            loss = output.new_zeros(output.shape[:2])
            if self.weighting == "snr_plus_one":
                # SNR + 1 = 1 / (1 - alpha_bar); clamped as in Hang et al. 2023, arXiv 2303.09556 (min-SNR, gamma 5).
                level_weight = (1 / (1 - process.alpha_bar[t])).clamp(max=5)[:, None]
                weight = level_weight if weight is None else weight * level_weight
            if self.mse:
                predicted = x_0_hat if process.prediction == "x_0" else output
                error = (predicted - process.target(x_0, eps, t)).square()
                loss = loss + self.mse * weigh_pixels(error, pixels).flatten(2).mean(2)
            if self.bce:
                cross_entropy = F.binary_cross_entropy_with_logits(output, mask, reduction="none")
                loss = loss + self.bce * weigh_pixels(cross_entropy, pixels).flatten(2).mean(2)
            if self.dice:
                dice = row_dice_loss(x_to_mask(x_0_hat), mask, self.dice_over, weight, pixels)
                loss = loss + self.dice * dice
            return (loss if weight is None else loss * weight).mean()


class PriorLoss(Configurable, nn.Module):
    """The loss of the condition network's own mask, cross-entropy and soft Dice, in float32 whatever the autocast.

    The anchor loss of MedSegDiff-V2 (arXiv 2301.11798, section 3.4): Dice + beta CE where t = 0 mod alpha; by
    second-hand accounts beta is 10 and alpha 5.

    Args:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the soft Dice loss.
        every: It counts at every such time step; 1 for all.
        dice_over: What the soft Dice is taken over; ``batch`` where many masks are empty, see :func:`row_dice_loss`.
            None takes what the segmenter says, and without one each image.
    """

    def __init__(self, bce: float = 1.0, dice: float = 1.0, every: int = 1, dice_over: DiceOver | None = None) -> None:
        super().__init__()
        if min(bce, dice) < 0 or every < 1:
            raise ValueError(f"bce {bce} and dice {dice} have to be at least 0, and every {every} at least 1.")
        self.bce, self.dice, self.every, self.dice_over = bce, dice, every, dice_over

    def forward(
        self, logits: Tensor, mask: Tensor, t: Tensor, weight: Tensor | None = None, pixels: Tensor | None = None
    ) -> Tensor:
        """Compute the loss, a scalar.

        What does not count is multiplied by 0 and never left out, so that every process of many has all gradients.

        Args:
            logits: (B, K, H, W), the condition network's own mask.
            mask: (B, K, H, W), in {0, 1}.
            t: (B, L), the time steps that each image was trained at.
            weight: (B, K), at least 0: how much each mask counts; None for all alike.
            pixels: (B, 1, H, W), at least 0: how much each pixel counts; None for all alike.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
            cross_entropy = weigh_pixels(cross_entropy, pixels).flatten(2).mean(2)
            counts = (t % self.every == 0).float().mean(1, keepdim=True)
            counts = counts if weight is None else counts * weight
            dice = row_dice_loss(logits.sigmoid(), mask, self.dice_over, counts, pixels)
            loss = self.bce * cross_entropy + self.dice * dice
            return (loss * counts).mean()
