"""Evidence without training on the data: what differs from the border of the image, in features of an encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.labels.deciding import MaskRule
from diffmedseg.data.labels.whitening import border_of, whiten
from diffmedseg.errors import DataError
from diffmedseg.models.encoders import IMAGENET, encoder_name, find_weights, load_encoder
from diffmedseg.pseudo.proposers import Proposer

_ENCODER = "lite0"
#: Pixels of the shorter side of what the encoder sees: twice the grid of 64 px that the table in
#: docs/results/diffseg.md was measured on. Its first map is then as fine as that grid.
_SIDE = 128
#: Of the encoder's maps that of the first level, of half the image's size. Deeper ones are too coarse (the same table).
_LEVEL = 1
#: Pixels of the mirrored image around it, a multiple of 32: the encoder's zeros beyond an edge would look diseased.
_MARGIN = 32
#: Deviation of the Gaussian that smooths distances, as a share of the shorter side: a pixel of the grid of 64 px.
_BLUR = 1 / 64
#: How far covariances are drawn towards a sphere. 0.1 and 1 are as good (the same table).
_SHRINKAGE = 0.3


class BorderContrast(Proposer):
    """How much each pixel differs from the border of its image, where what is photographed is held in the middle.

    The image's border is the healthy class, as for the label recipe ``BorderCrops``. Pixels are compared in the first
    feature map of an encoder that was trained on ImageNet, by the distance that takes the border's own variation into
    account.

    Args:
        rule: Says how wide the border is, and what of it is seen.
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
                "set. Choose another proposer, or set it to the width of the border, as a share of the shorter side."
            )
        self._rule, self._width = rule, rule.healthy_border
        self._encoder = _first_levels(len(info.channels))

    @torch.inference_mode()
    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class. S is 1."""
        from kornia.filters import gaussian_blur2d

        image = image.cpu()
        size = (int(image.shape[-2]), int(image.shape[-1]))
        seen = torch.stack([torch.from_numpy(self._rule.seen(one)) for one in ((image + 1) / 2).numpy()])
        healthy = seen & border_of(size, self._width)
        features = self._features(image, size)
        distance = torch.stack([
            whiten(own, where, _SHRINKAGE).norm(dim=0) for own, where in zip(features, healthy, strict=True)
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
        shown = F.pad(F.interpolate(image, large, mode="bilinear"), [_MARGIN] * 4, mode="reflect")
        maps: Tensor = self._encoder(shown)[_LEVEL]
        inside = slice(_MARGIN // 2, -_MARGIN // 2)
        return F.interpolate(maps[..., inside, inside], size, mode="bilinear")


def _first_levels(channels: int) -> nn.Module:
    """Return the pretrained encoder as far as :data:`_LEVEL`; its images are in [-1, 1], as ours are."""
    import segmentation_models_pytorch as smp

    file = find_weights(_ENCODER, IMAGENET).file
    assert file is not None  # of an installed package
    name = encoder_name(_ENCODER)
    whole, first = (smp.encoders.get_encoder(name, channels, depth, weights=None) for depth in (5, _LEVEL))
    load_encoder(whole, file)
    state = whole.state_dict()
    first.load_state_dict({key: state[key] for key in first.state_dict()})
    encoder: nn.Module = first.eval()
    return encoder
