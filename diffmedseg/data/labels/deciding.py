"""From a map of evidence to a mask where no mask is learned from: the facts of a data set that this needs."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from diffmedseg.configurable import Configurable
from diffmedseg.errors import unknown
from diffmedseg.postprocessing.otsu import otsu_level

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]
Polarity = Literal["darker", "brighter"]

_BACKGROUND = 0.0005  # of the range: less is 0, but for rounding


class FieldOfView(Configurable):
    """Tells what a dermatoscope shows from its dark border: dark regions that reach a corner show no skin.

    Args:
        darkness: A pixel is dark where its brightest channel is below this, of the range [0, 1].
        grow: How far the border reaches beyond dark pixels, as a share of the shorter side: its edge is blurred.
        inner: Radius around the middle, as a share of the shorter side, within which all is seen. So a dark lesion that
            touches the border stays.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, darkness: float = 0.25, grow: float = 0.05, inner: float = 0.35) -> None:
        if not (0 < darkness < 1 and 0 <= grow < 0.5 and 0 <= inner <= 1):
            raise ValueError(
                f"darkness {darkness} has to be in (0, 1), grow {grow} in [0, 0.5), inner {inner} in [0, 1]."
            )
        self.darkness, self.grow, self.inner = darkness, grow, inner

    def __call__(self, image: Map) -> Mask:
        """Find what is seen.

        Args:
            image: (C, H, W), in [0, 1].

        Returns:
            (H, W), True where the subject is seen.
        """
        from scipy.ndimage import distance_transform_edt, label

        height, width = image.shape[1:]
        parts, _ = label(image.max(0) < self.darkness)
        corners = {int(parts[y, x]) for y in (0, height - 1) for x in (0, width - 1)} - {0}
        border = np.isin(parts, list(corners))
        if border.any():
            border |= distance_transform_edt(~border) <= self.grow * min(height, width)
        inner: Mask = _distance_from_middle((height, width)) <= self.inner
        seen: Mask = ~border | inner
        return seen


class CentralComponent(Configurable):
    """Keeps the connected part of a mask that holds most evidence, near the middle: what is photographed is held there.

    Evidence of pixels above the decision level is weighted by a Gaussian around the middle of the image.

    Args:
        sigma: Standard deviation of the Gaussian, as a share of the shorter side.

    Raises:
        ValueError: If ``sigma`` is not positive.
    """

    def __init__(self, sigma: float = 0.2) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma is {sigma}; it has to be positive. Leave the component out to keep all parts.")
        self.sigma = sigma

    def __call__(self, mask: Mask, evidence: Map) -> Mask:
        """Choose a part.

        Args:
            mask: (H, W) or, of volumes, (D, H, W), whose middle is that of its slices.
            evidence: Of the same shape, in [0, 1].

        Returns:
            One connected part of the mask; an empty mask for an empty one.
        """
        from scipy.ndimage import label, sum_labels

        parts, number = label(mask)
        if number < 2:
            return mask
        weight = np.exp(-0.5 * (_distance_from_middle(mask.shape[-2:]) / self.sigma) ** 2)
        worth = sum_labels(np.broadcast_to(weight, mask.shape) * evidence, parts, np.arange(1, number + 1))
        kept: Mask = parts == 1 + int(np.argmax(worth))
        return kept


class LargestComponent(Configurable):
    """Keeps the largest connected part: of volumes the one that lasts over slices."""

    def __call__(self, mask: Mask, evidence: Map) -> Mask:
        """Choose a part; see :class:`CentralComponent`."""
        from scipy.ndimage import label

        parts, number = label(mask)
        if number < 2:
            return mask
        kept: Mask = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
        return kept


class Plausible(Configurable):
    """Limits of masks that are worth learning from; what lies outside of them is left out.

    Args:
        area: The least and the largest share of the field that a mask fills.
        border: The largest share of the image's border that it touches.
        off_middle: The largest distance of its centroid from the middle, as a share of the shorter side; None where
            lesions lie anywhere.

    Raises:
        ValueError: If limits are not in order.
    """

    def __init__(
        self, area: tuple[float, float] = (0.02, 0.5), border: float = 0.1, off_middle: float | None = 0.25
    ) -> None:
        if not 0 <= area[0] < area[1] <= 1 or not 0 <= border <= 1 or not (off_middle is None or off_middle > 0):
            raise ValueError(f"area {area}, border {border} and off_middle {off_middle} are no limits of masks.")
        self.area, self.border, self.off_middle = (area[0], area[1]), border, off_middle

    def objection(self, mask: Mask) -> str | None:
        """Say why a mask (H, W) or (D, H, W) is not plausible; None where it is."""
        share = float(mask.mean())
        if not self.area[0] <= share <= self.area[1]:
            return f"area {share:.4f} is outside of {self.area[0]:g} to {self.area[1]:g}"
        edge = np.concatenate([mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1]], -1)
        if float(edge.mean()) > self.border:
            return f"touches {float(edge.mean()):.3f} of the border, more than {self.border:g}"
        if self.off_middle is not None:
            away = _centroid_distance(mask)
            if away > self.off_middle:
                return f"centroid is {away:.3f} of the side off the middle, more than {self.off_middle:g}"
        return None


@dataclass(frozen=True)
class Decided:
    """What a rule made of a map of evidence.

    Attributes:
        mask: Foreground, (H, W) or (D, H, W).
        unsure: Pixels that the evidence leaves undecided, of the same shape.
        objection: Why the mask is not worth learning from; None where it is.
    """

    mask: Mask
    unsure: Mask
    objection: str | None = None


class MaskRule(Configurable):
    """How a map of evidence becomes a mask: the facts of a data set that stand in for masks.

    The map is normalised over what is seen, cut at Otsu's level, and reduced to one part. Pixels whose soft value lies
    near the level are unsure.

    Args:
        polarity: How disease looks where nothing was learned: darker or brighter than what is healthy.
        channel: Name of the channel in which it does; None for the mean of all.
        field_of_view: Tells what is seen; None where the whole image is.
        component: Which part of the mask is kept; None for all.
        fill_holes: Whether holes of the mask are filled.
        plausible: Limits outside of which a mask is left out; None keeps all.
        margin: A pixel is unsure where its soft value is closer to 0.5 than this.
        healthy_border: Width of the border of an image that is healthy for the most part, as a share of the shorter
            side; None where the border is not known to be healthy.

    Raises:
        ValueError: If ``polarity``, ``margin`` or ``healthy_border`` cannot be.
    """

    def __init__(
        self,
        polarity: Polarity = "darker",
        channel: str | None = None,
        field_of_view: FieldOfView | None = None,
        component: CentralComponent | LargestComponent | None = None,
        fill_holes: bool = True,
        plausible: Plausible | None = None,
        margin: float = 0.1,
        healthy_border: float | None = None,
    ) -> None:
        if polarity not in get_args(Polarity):
            raise ValueError(unknown("polarity", polarity, list(get_args(Polarity))))
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin is {margin}; it has to be in [0, 0.5).")
        if healthy_border is not None and not 0 < healthy_border < 0.5:
            raise ValueError(f"healthy_border is {healthy_border}; it has to be in (0, 0.5), or null.")
        self.polarity, self.channel, self.margin = polarity, channel, margin
        self.field_of_view, self.component, self.fill_holes = field_of_view, component, fill_holes
        self.plausible, self.healthy_border = plausible, healthy_border

    def seen(self, image: Map) -> Mask:
        """Return where an image (C, H, W) in [0, 1] shows its subject, (H, W): the air around a head shows none."""
        shown: Mask = np.any(image > _BACKGROUND, axis=0)
        return shown if self.field_of_view is None else np.logical_and(shown, self.field_of_view(image))

    def soften(self, evidence: Map, seen: Mask) -> Map:
        """Normalise a map over what is seen, so that Otsu's level becomes 0.5.

        Args:
            evidence: (H, W) or (D, H, W), higher where there is more evidence of disease.
            seen: Of the same shape.

        Returns:
            In [0, 1], 0 outside of what is seen; 0 everywhere for a map that is constant there.
        """
        soft: Map = np.zeros(evidence.shape, dtype=np.float32)
        values = evidence[seen]
        low, high = np.percentile(values, (1, 99)) if len(values) else (0, 0)
        if high - low <= 1e-6:
            return soft
        normal = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
        level = float(otsu_level(torch.from_numpy(normal)[None])[0])
        above = 0.5 + (normal - level) / max(1 - level, 1e-6) / 2
        soft[seen] = np.where(normal <= level, normal / max(level, 1e-6) / 2, above)
        return soft

    def decide(self, soft: Map) -> Decided:
        """Decide on a soft map whose level is 0.5, (H, W) or (D, H, W)."""
        from scipy.ndimage import binary_fill_holes

        mask: Mask = soft > 0.5
        if self.component is not None:
            mask = self.component(mask, soft)
        if self.fill_holes:
            filled = [binary_fill_holes(one) for one in mask.reshape(-1, *mask.shape[-2:])]
            mask = np.stack(filled).reshape(mask.shape)
        unsure: Mask = np.abs(soft - 0.5) < self.margin
        objection = None if self.plausible is None else self.plausible.objection(mask)
        if objection is None and not mask.any():
            objection = "nothing is found"
        return Decided(mask, unsure, objection)


def _distance_from_middle(size: tuple[int, ...]) -> Map:
    """Return how far each pixel of an image of this size is off the middle, as a share of the shorter side."""
    offsets = [(np.arange(side) + 0.5 - side / 2) / min(size) for side in size]
    distance: Map = np.hypot(*np.meshgrid(*offsets, indexing="ij")).astype(np.float32)
    return distance


def _centroid_distance(mask: Mask) -> float:
    """Return how far the centroid of a mask is off the middle of its image, as a share of the shorter side."""
    size = mask.shape[-2:]
    rows, columns = (where.mean() + 0.5 for where in np.nonzero(mask)[-2:])
    return float(np.hypot(rows - size[0] / 2, columns - size[1] / 2) / min(size))
