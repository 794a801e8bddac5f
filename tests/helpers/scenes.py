"""Scenes that need no model."""

from collections.abc import Sequence

import numpy as np

from diffmedseg.app.scene import COLOURS, Scene, Size


def scene(
    shape: tuple[int, int, int] = (4, 20, 30),
    regions: Sequence[str] = ("lesion",),
    samples: int = 3,
    contours: bool = True,
    spacing: tuple[float, float, float] | None = (3.0, 1.0, 1.0),
    seed: int = 0,
) -> Scene:
    """A box that is in every sample's middle; a picture where ``spacing`` is None."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((len(regions), *shape), bool)
    for k in range(len(regions)):
        mask[k, :, 5 + k : 12 - k, 10 + k : 20 - k] = True
    probability = np.where(mask, 200, 20).astype(np.uint8)
    grey = rng.integers(0, 255, shape, dtype=np.uint8)
    images = {COLOURS: np.stack([grey] * 3, -1)} if spacing is None else {"flair": grey, "t1ce": 255 - grey}
    drawn = np.zeros((samples, len(regions), shape[0], 10, 15), bool)
    for s in range(samples):
        drawn[s, :, :, 2 : 6 + s % 3, 5:10] = True
    outer = np.zeros_like(mask)
    outer[:, :, 3:15, 8:23] = True
    sizes = {
        name: Size(float(mask[k].sum()), (50, 90), (40, 120) if contours else None) for k, name in enumerate(regions)
    }
    return Scene(
        name="scan<1>", images=images, regions=tuple(regions), samples=drawn, probability=probability,
        disagreement=np.where(mask, 0, 40).astype(np.uint8), mask=mask, inner=mask & False if contours else None,
        outer=outer if contours else None, threshold=0.4331, sizes=sizes, unit="px" if spacing is None else "ml",
        unit_size=1.0, spacing=spacing, note="looks unlike <others>",
    )  # fmt: skip
