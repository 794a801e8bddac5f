"""Synthetic lesions with several raters: no download, and every metric has a known right value."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.facts import synthetic_info
from diffmedseg.data.store import ImageStore
from diffmedseg.keyed_random import keyed_generator

#: The known behaviour of raters: outline the dark core, outline core and halo, or (rarely) overlook the lesion.
MODES = ("core", "halo", "overlooked")
MODE_PROBABILITIES = (0.6, 0.3, 0.1)
#: Share of images without a lesion, on which all raters agree.
HEALTHY = 0.15

# Level sets of the radial profile of the lesion; the border of the halo is at 1.
_HALO, _CORE, _NUCLEUS = 1.0, 0.65, 0.35
_SKIN = (0.80, 0.62, 0.53)
_LESION = (0.40, 0.25, 0.20)


class SyntheticStore(ImageStore):
    """One split of procedural images; image i is a function of (split, i) alone.

    Args:
        split: Splits share no image.
        size: Number of images.
        image_size: The model's grid; references have twice that size.
        raters: R, raters per image.
        nested: Add a second region, the nucleus within the core.
    """

    def __init__(self, split: Split, size: int, image_size: tuple[int, int], raters: int, nested: bool) -> None:
        self.ids = self.cases = [f"{split}-{i:04d}" for i in range(size)]
        self.image_size, self.nested = image_size, nested
        self.native_size = (2 * image_size[0], 2 * image_size[1])
        self.rater_modes = [self._draw_modes(name, raters) for name in self.ids]
        self._images = [self._render(name) for name in self.ids]

    def _draw_modes(self, name: str, raters: int) -> list[int]:
        probabilities = torch.tensor(MODE_PROBABILITIES)
        return torch.multinomial(probabilities, raters, True, generator=keyed_generator("raters", name)).tolist()

    def _profile(self, name: str, size: tuple[int, int]) -> Tensor:
        """Distance from the lesion's centre in units of its halo's radius, (H, W); infinite if healthy."""
        generator = keyed_generator("shape", name)
        healthy, cx, cy, radius, *waves = torch.rand(4 + 6, generator=generator).tolist()
        # Pixel centres, so that masks drawn at two sizes agree when one is resized to the other.
        y, x = torch.meshgrid(*((torch.arange(side) + 0.5) / side * 2 - 1 for side in size), indexing="ij")
        if healthy < HEALTHY:
            return torch.full(size, torch.inf)
        dx, dy = x - (cx - 0.5), y - (cy - 0.5)
        angle = torch.atan2(dy, dx)
        outline = 0.3 + 0.25 * radius
        for k in range(3):
            outline = outline * (1 + 0.2 * (waves[2 * k] - 0.5) * torch.cos((k + 2) * angle + 6.28 * waves[2 * k + 1]))
        profile: Tensor = torch.hypot(dx, dy) / outline
        return profile

    def _render(self, name: str, lesion: bool = True) -> Tensor:
        """Draw the image, (3, H, W), uint8: textured skin, a faint halo, a darker core with a blurred border."""
        generator = keyed_generator("texture", name)
        texture = torch.zeros(1, 3, *self.image_size)
        for cells, strength in ((3, 0.06), (8, 0.04), (24, 0.03)):
            noise = torch.randn(1, 3, cells, cells, generator=generator)
            noise = 0.8 * noise.mean(1, keepdim=True) + 0.2 * noise
            texture += strength * F.interpolate(noise, self.image_size, mode="bicubic")
        profile = self._profile(name, self.image_size) if lesion else torch.full(self.image_size, torch.inf)
        darkness = 0.35 * torch.sigmoid((_HALO - profile) / 0.03) + 0.45 * torch.sigmoid((_CORE - profile) / 0.06)
        if self.nested:
            darkness = darkness + 0.2 * torch.sigmoid((_NUCLEUS - profile) / 0.05)
        skin, dark = torch.tensor(_SKIN)[:, None, None], torch.tensor(_LESION)[:, None, None]
        image = skin + darkness * (dark - skin) + texture[0]
        return (image.clamp(0, 1) * 255).round().to(torch.uint8)

    def mode_masks(self, index: int, size: tuple[int, int]) -> Tensor:
        """Return the mask of every mode, (3, K, *size), uint8. ``MODE_PROBABILITIES`` has their probabilities."""
        profile = self._profile(self.ids[index], size)
        outlines = torch.stack([profile < _CORE, profile < _HALO, torch.zeros_like(profile, dtype=torch.bool)])
        if self.nested:
            with_lesion = torch.tensor([True, True, False])[:, None, None]
            return torch.stack([outlines, (profile < _NUCLEUS) & with_lesion], 1).to(torch.uint8)
        return outlines[:, None].to(torch.uint8)

    def image(self, index: int) -> Tensor:
        """Return the image; see the base class."""
        return self._images[index]

    def masks(self, index: int) -> Tensor:
        """Return the raters' masks; see the base class."""
        return self.mode_masks(index, self.image_size)[self.rater_modes[index]]

    def reference(self, index: int) -> Tensor:
        """Return the raters' masks at native size; see the base class."""
        return self.mode_masks(index, self.native_size)[self.rater_modes[index]]

    def label(self, index: int) -> int:
        """Return 1 if there is a lesion, even if every rater overlooked it."""
        return int(bool(self.mode_masks(index, self.image_size)[1].any()))

    def healthy(self, index: int) -> Tensor:
        """Return the same skin without its lesion."""
        return self._render(self.ids[index], lesion=False)


class SyntheticDataModule(SegmentationDataModule):
    """Procedural skin lesions with ambiguous borders and four raters.

    Args:
        nested: Add a second region, the nucleus, within the lesion.
        raters: R, raters per image.
        num_train: Number of training images.
        num_val: Number of validation images.
        num_test: Number of test images.
        kwargs: The arguments of :class:`~diffmedseg.data.SegmentationDataModule`, by name. Of these, images depend
            only on ``image_size``.
    """

    info = synthetic_info()

    def __init__(
        self,
        nested: bool = False,
        raters: int = 4,
        num_train: int = 512,
        num_val: int = 32,
        num_test: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(raters, num_train, num_val, num_test) < 1:
            raise ValueError("raters, num_train, num_val and num_test have to be at least 1.")
        self.info = synthetic_info(nested, raters)
        self.nested, self.raters = nested, raters
        self.sizes: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}

    def load(self, split: Split) -> SyntheticStore:
        """Draw one split."""
        return SyntheticStore(split, self.sizes[split], self.image_size, self.raters, self.nested)
