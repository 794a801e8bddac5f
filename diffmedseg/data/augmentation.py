"""Augmentation of images and masks together, by kornia, on the device."""

import torch
from torch import Tensor, nn


class Augmentation(nn.Module):
    """Flips, a similarity transform and a change of colour, each image with its own parameters.

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
        import kornia.augmentation as K

        shift, zoom = (translate, translate), (1 - scale, 1 + scale)
        self.geometry_and_colour = K.AugmentationSequential(
            K.RandomHorizontalFlip(p=flip),
            K.RandomVerticalFlip(p=flip),
            K.RandomAffine(degrees, shift, zoom, p=probability, padding_mode="border"),
            K.RandomBrightness((1 - brightness, 1 + brightness), p=probability),
            K.RandomContrast((1 - contrast, 1 + contrast), p=probability),
            data_keys=["input", "mask"],
        )

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            image: (B, C, H, W), in [0, 1].
            mask: (B, K, H, W), in {0, 1}.

        Returns:
            Image in [0, 1] and mask in {0, 1}, of the same shapes.
        """
        with torch.no_grad():
            image, mask = self.geometry_and_colour(image, mask)
        return image.clamp(0, 1), mask.round()
