"""Augment images and masks together with kornia, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffmedseg.configurable import Configurable


class Augmentation(Configurable, nn.Module):
    """Flip, transform and recolour images. The parameters of an image come from its own generator.

    So augmentation does not depend on the batch or on the number of processes.

    Args:
        flip: Probability of a horizontal and, independently, of a vertical flip.
        degrees: Largest rotation.
        translate: Largest shift, as a fraction of the image.
        scale: Largest zoom, in or out, as a fraction.
        brightness: Largest offset added to all channels, of the range [0, 1].
        contrast: Largest relative change of gain: all channels are multiplied by 1 - contrast to 1 + contrast.
        probability: Probability of the similarity transform and, independently, of the change of colour.
    """

    def __init__(
        self,
        flip: float = 0.5,
        degrees: float = 180.0,
        translate: float = 0.1,
        scale: float = 0.2,
        brightness: float = 0.2,
        contrast: float = 0.2,
        probability: float = 0.8,
    ) -> None:
        super().__init__()
        self.flip, self.degrees, self.translate, self.scale = flip, degrees, translate, scale
        self.brightness, self.contrast, self.probability = brightness, contrast, probability

    def forward(self, image: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            image: (B, C, H, W), in [0, 1].
            mask: (B, K, H, W), in {0, 1}.
            generators: B generators on the CPU.

        Returns:
            Image in [0, 1] and mask in {0, 1}, with the same shapes. Pixels from outside the image repeat its border.
        """
        from kornia.geometry.transform import get_affine_matrix2d, warp_affine

        height, width = image.shape[-2:]
        chance = torch.stack([torch.rand(4, generator=generator) for generator in generators])  # (B, 4), in [0, 1)
        amount = torch.stack([torch.rand(6, generator=generator) * 2 - 1 for generator in generators])  # in [-1, 1)
        moved, coloured = torch.split((chance[:, 2:] < self.probability).float(), 1, 1)  # (B, 1) each, in {0, 1}
        sign = 1 - 2 * self._flips(chance[:, :2]).float()
        shift = moved * self.translate * amount[:, :2] * torch.tensor([width, height])
        zoom = 1 + moved * self.scale * amount[:, 2:3]
        angle = moved[:, 0] * self.degrees * amount[:, 3]
        centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(len(image), -1)
        matrix = get_affine_matrix2d(shift, centre, sign * zoom, angle)[:, :2].to(image.device)
        offset = (coloured * self.brightness * amount[:, 4:5])[..., None, None].to(image.device)
        gain = (1 + coloured * self.contrast * amount[:, 5:6])[..., None, None].to(image.device)
        image = warp_affine(image, matrix, (height, width), mode="bilinear", padding_mode="border")
        mask = warp_affine(mask, matrix, (height, width), mode="nearest", padding_mode="border")
        return (image * gain + offset).clamp(0, 1), mask

    def _flips(self, chance: Tensor) -> Tensor:
        """Return whether to flip horizontally and vertically, (B, 2), bool, by chances in [0, 1)."""
        return chance < self.flip
