"""Training losses of denoisers and condition networks."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.configurable import Configurable
from diffmedseg.diffusion.encoding import x_to_mask
from diffmedseg.diffusion.process import NoiseProcess

Weighting = Literal["uniform", "snr_plus_one"]
#: Pixels of a soft Dice: the pixels of each image, or of the whole batch together.
DiceOver = Literal["image", "batch"]


def soft_dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - soft Dice of each mask. One pixel is added for smoothing, so that empty masks have a gradient.

    Args:
        probability: (B, K, H, W), in [0, 1]. In this module, volumes are (B, K, D, H, W).
        mask: (B, K, H, W), in {0, 1}.

    Returns:
        Shape (B, K), in [0, 1].
    """
    space = tuple(range(2, mask.ndim))
    intersection = (probability * mask).sum(space)
    return 1 - (2 * intersection + 1) / (probability.sum(space) + mask.sum(space) + 1)


def weigh_pixels(values: Tensor, pixels: Tensor | None) -> Tensor:
    """Multiply values (B, K, H, W) by the weights of pixels, (B, 1, H, W); None for equal weights."""
    return values if pixels is None else values * pixels


def row_dice_loss(
    probability: Tensor,
    mask: Tensor,
    over: DiceOver | None,
    weight: Tensor | None = None,
    pixels: Tensor | None = None,
) -> Tensor:
    """Return 1 - soft Dice, for each row and region of a batch.

    With a Dice per image, an empty prediction for an empty mask has Dice 1, and any other prediction nearly 0. If many
    masks are empty, a network that always predicts nothing gets Dice 1 for each of them, and a small network never
    leaves this solution. With a Dice over the batch, predicting nothing has Dice 0 if any mask of the batch is not
    empty. And foreground in an image with an empty mask costs no more than the same pixels elsewhere. nnU-Net's 2-D
    configuration does the same (Isensee et al. 2021, "batch Dice").

    Args:
        probability: (B, K, H, W), in [0, 1].
        mask: (B, K, H, W), in {0, 1}.
        over: ``image`` or None for a Dice of each image, ``batch`` for the Dice of all pixels of the batch.
        weight: (B, 1) or (B, K), at least 0: weight of each mask in the sums of a batch; None for equal weights.
        pixels: (B, 1, H, W), at least 0: weight of each pixel in all sums; None for equal weights.

    Returns:
        Shape (B, K), in [0, 1]. Over the batch, all values of a region are equal. In both cases, the caller still has
        to multiply by its weights.
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
    """A weighted sum of losses on a denoiser's prediction, in float32 under any autocast.

    Args:
        mse: Weight of the squared error of the predicted quantity (x_0, v or epsilon).
        bce: Weight of the binary cross-entropy of x_0. It needs an ``x_0`` prediction, with a logit as output.
        dice: Weight of the soft Dice loss of x_0. This loss is mode-seeking, so samples are less diverse.
        weighting: Weights of noise levels: equal, or SNR + 1 clamped to [1, 5].
        dice_over: Pixels of each soft Dice: ``image``, or ``batch`` if many masks are empty; see
            :func:`row_dice_loss`. None for the segmenter's setting; without a segmenter, ``image``.
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
        """Compute the loss, a scalar: the mean over rows and regions.

        Args:
            process: The noise process. Its ``prediction`` defines the meaning of ``output``.
            output: (B, K, H, W), the network's raw output.
            x_t: (B, K, H, W), the network's input.
            t: (B,), the network's time steps.
            x_0: (B, K, H, W), the clean masks in {-1, 1}.
            eps: (B, K, H, W), the noise in x_t.
            weight: (B, K), at least 0: weight of each mask; None for equal weights. The sum is divided by the number of
                all masks, including those with weight 0, so that the loss of a batch is the mean of its parts' losses.
            pixels: (B, 1, H, W), at least 0: weight of each pixel; None for equal weights. As with masks, a sum is
                divided by the number of all pixels, including those with weight 0.

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
    """The loss of the condition network's own mask: cross-entropy and soft Dice, in float32 under any autocast.

    It can be the anchor loss of MedSegDiff-V2 (arXiv 2301.11798, section 3.4): Dice + beta CE where t = 0 mod alpha. By
    second-hand accounts, beta is 10 and alpha 5.

    Args:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the soft Dice loss.
        every: The loss counts only at time steps that are multiples of this number; 1 for all time steps.
        dice_over: Pixels of each soft Dice: ``image``, or ``batch`` if many masks are empty; see
            :func:`row_dice_loss`. None for the segmenter's setting; without a segmenter, ``image``.
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

        Terms that do not count are multiplied by 0 instead of left out. So with several processes, every process has
        all gradients.

        Args:
            logits: (B, K, H, W), the condition network's own mask.
            mask: (B, K, H, W), in {0, 1}.
            t: (B, L), the training time steps of each image.
            weight: (B, K), at least 0: weight of each mask; None for equal weights.
            pixels: (B, 1, H, W), at least 0: weight of each pixel; None for equal weights.
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
