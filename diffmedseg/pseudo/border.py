"""Evidence without training: the difference of pixels from the image's border, in features of an encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.labels.deciding import MaskRule
from diffmedseg.data.labels.whitening import border_of, whiten
from diffmedseg.errors import DataError
from diffmedseg.models.encoder_loading import load_encoder
from diffmedseg.models.encoders import IMAGENET, encoder_name, find_weights
from diffmedseg.pseudo.proposers import Proposer

_ENCODER = "lite0"
#: Shorter side of the encoder's input in pixels: twice the grid of 64 px of the table in docs/results/diffseg.md. The
#: encoder's first map is then as fine as that grid.
_SIDE = 128
#: Level of the encoder's map: the first, with half the image's size. Deeper maps are too coarse (same table).
_LEVEL = 1
#: Width of the mirrored margin in pixels, a multiple of 32. Zero padding would look diseased.
_MARGIN = 32
#: Standard deviation of the Gaussian that smooths distances, as a share of the shorter side: 1 px on a grid of 64 px.
_BLUR = 1 / 64
#: Shrinkage of covariances. 0.1 and 1 are as good (same table).
_SHRINKAGE = 0.3


class BorderContrast(Proposer):
    """Measures the difference of each pixel from the border of its image, for photographs with a central lesion.

    The border is the healthy class, as for the label recipe ``BorderCrops``. The difference is the Mahalanobis distance
    in the first feature map of an ImageNet encoder.

    Args:
        rule: The rule with the width of the border and the visible field.
        info: The facts of the data.

    Raises:
        DataError: If the rule has no healthy border.
        ValueError: If the weights of the encoder are not installed.
    """

    title = "contrast to the border"
    learned_from = "ImageNet's labels"

    def __init__(self, rule: MaskRule, info: DatasetInfo) -> None:
        if rule.healthy_border is None:
            raise DataError(
                f"The border of images of {info.title} is not known to be healthy: mask_rule.healthy_border is not "
                "set. Choose another proposer, or set it to the width of the border as a share of the shorter side."
            )
        self._rule, self._width = rule, rule.healthy_border
        self._encoder = _first_levels(len(info.channels))

    @torch.inference_mode()
    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class. S is 1."""
        from kornia.filters import gaussian_blur2d

        image = image.cpu()
        size = (int(image.shape[-2]), int(image.shape[-1]))
        seen = torch.stack([torch.from_numpy(self._rule.seen(values)) for values in ((image + 1) / 2).numpy()])
        healthy = seen & border_of(size, self._width)
        features = self._features(image, size)
        distance = torch.stack([
            whiten(maps, pixels, _SHRINKAGE).norm(dim=0) for maps, pixels in zip(features, healthy, strict=True)
        ])  # fmt: skip
        sigma = _BLUR * min(size)
        radius = min(int(4 * sigma + 0.5), *(side - 1 for side in size))
        smooth: Tensor = gaussian_blur2d(
            distance[:, None].float(), 2 * radius + 1, (sigma, sigma), border_type="replicate"
        )
        return smooth

    def _features(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the encoder's map at the image's size, (B, F, H, W)."""
        scale = _SIDE / min(size)
        large = [max(round(side * scale / 32), 1) * 32 for side in size]  # 32: sides that every encoder takes
        enlarged = F.pad(F.interpolate(image, large, mode="bilinear"), [_MARGIN] * 4, mode="reflect")
        maps: Tensor = self._encoder(enlarged)[_LEVEL]
        inside = slice(_MARGIN // 2, -_MARGIN // 2)
        return F.interpolate(maps[..., inside, inside], size, mode="bilinear")


def _first_levels(channels: int) -> nn.Module:
    """Return the pretrained encoder up to :data:`_LEVEL`. It takes images in [-1, 1]."""
    import segmentation_models_pytorch as smp

    file = find_weights(_ENCODER, IMAGENET).file
    assert file is not None  # from an installed package
    name = encoder_name(_ENCODER)
    whole, first = (smp.encoders.get_encoder(name, channels, depth, weights=None) for depth in (5, _LEVEL))
    load_encoder(whole, file)
    state = whole.state_dict()
    first.load_state_dict({key: state[key] for key in first.state_dict()})
    encoder: nn.Module = first.eval()
    return encoder
