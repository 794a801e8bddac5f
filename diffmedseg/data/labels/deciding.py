"""Rules that turn a map of evidence into a mask, for models that learn from no mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from diffmedseg.configurable import Configurable
from diffmedseg.data.labels.brain_rules import BrainField, LastingComponent, MirrorSymmetry
from diffmedseg.errors import unknown
from diffmedseg.postprocessing.otsu import otsu_level

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]
Polarity = Literal["darker", "brighter"]

_BACKGROUND = 0.0005  # values in [0, 1] below this are 0 up to rounding


class FieldOfView(Configurable):
    """Finds the visible field of a dermatoscope: dark regions that reach a corner of the image are its border.

    Args:
        darkness: Pixels whose brightest channel is below this are dark, of the range [0, 1].
        grow: Width that is added to the border, as a share of the shorter side, since the edge is blurred.
        inner: Radius around the middle, as a share of the shorter side, that always belongs to the field. It keeps a
            dark lesion that touches the border.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, darkness: float = 0.25, grow: float = 0.05, inner: float = 0.35) -> None:
        if not (0 < darkness < 1 and 0 <= grow < 0.5 and 0 <= inner <= 1):
            raise ValueError(
                f"darkness is {darkness}, grow {grow} and inner {inner}; darkness has to be in (0, 1), grow in "
                "[0, 0.5), and inner in [0, 1]."
            )
        self.darkness, self.grow, self.inner = darkness, grow, inner

    def __call__(self, image: Map) -> Mask:
        """Find the visible field.

        Args:
            image: (C, H, W), in [0, 1].

        Returns:
            (H, W), True in the field.
        """
        from scipy.ndimage import distance_transform_edt, label

        height, width = image.shape[1:]
        parts, _ = label(image.max(0) < self.darkness)
        corners = {int(parts[y, x]) for y in (0, height - 1) for x in (0, width - 1)} - {0}
        border = np.isin(parts, list(corners))
        if border.any():
            border |= distance_transform_edt(~border) <= self.grow * min(height, width)
        inner: Mask = _distance_from_middle((height, width)) <= self.inner
        visible: Mask = ~border | inner
        return visible


class CentralComponent(Configurable):
    """Keeps the connected part of a mask with the most evidence near the middle of the image.

    The evidence of each part is summed with the weights of a Gaussian around the middle: photographers hold a lesion
    there.

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
            mask: (H, W), or (D, H, W) of a volume; its middle is the middle of its slices.
            evidence: The same shape, in [0, 1].

        Returns:
            One connected part of the mask. An empty mask stays empty.
        """
        from scipy.ndimage import label, sum_labels

        parts, number = label(mask)
        if number < 2:
            return mask
        weight = np.exp(-0.5 * (_distance_from_middle(mask.shape[-2:]) / self.sigma) ** 2)
        scores = sum_labels(np.broadcast_to(weight, mask.shape) * evidence, parts, np.arange(1, number + 1))
        component: Mask = parts == 1 + int(np.argmax(scores))
        return component


class LargestComponent(Configurable):
    """Keeps the largest connected part of a mask (2-D or 3-D)."""

    def __call__(self, mask: Mask, evidence: Map) -> Mask:
        """Choose a part; see :class:`CentralComponent`."""
        from scipy.ndimage import label

        parts, number = label(mask)
        if number < 2:
            return mask
        component: Mask = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
        return component


class Plausible(Configurable):
    """Limits of plausible masks. Masks outside of the limits are left out of training.

    Args:
        area: Least and largest share of the image that the mask covers.
        border: Largest share of the image's border that the mask touches.
        off_middle: Largest distance of the mask's centroid from the middle, as a share of the shorter side; None if
            lesions can be anywhere.

    Raises:
        ValueError: If limits are not in order.
    """

    def __init__(
        self, area: tuple[float, float] = (0.02, 0.5), border: float = 0.1, off_middle: float | None = 0.25
    ) -> None:
        if not 0 <= area[0] < area[1] <= 1 or not 0 <= border <= 1 or not (off_middle is None or off_middle > 0):
            raise ValueError(
                f"area is {area}, border {border} and off_middle {off_middle}; expected two increasing shares from 0 "
                "to 1 for area, a share from 0 to 1 for border, and a number above 0 or null for off_middle."
            )
        self.area, self.border, self.off_middle = (area[0], area[1]), border, off_middle

    def objection(self, mask: Mask) -> str | None:
        """Return why a mask (H, W) or (D, H, W) is not plausible; None if it is plausible."""
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
    """The decision of a rule on a map of evidence.

    Attributes:
        mask: Foreground, (H, W) or (D, H, W).
        unsure: Pixels that the evidence leaves undecided, of the same shape.
        objection: Why the mask is not plausible; None if it is plausible.
    """

    mask: Mask
    unsure: Mask
    objection: str | None = None


class MaskRule(Configurable):
    """A rule that turns a map of evidence into a mask, without training masks.

    The map is normalised within the visible field, thresholded at Otsu's level, and reduced to one part. Pixels with
    values near the level are unsure. Each part of the rule is a fact of the data set, in its yaml.

    Args:
        polarity: Whether disease is darker or brighter than healthy tissue; None if that is not known.
        channel: Name of the channel that shows it; None for the mean of all channels.
        field_of_view: Finds the visible field; None for the whole image.
        component: Chooses the part of the mask to keep; None keeps all parts.
        fill_holes: Whether holes of the mask are filled.
        plausible: Limits of plausible masks; None keeps all masks.
        margin: Pixels whose soft value is closer to 0.5 than this are unsure.
        healthy_border: Width of the border of the image that is mostly healthy, as a share of the shorter side; None
            if the border is not known to be healthy.
        symmetry: Lowers evidence that the mirrored position shows as well; None keeps the map.
        over_slices: Chooses the part of a volume to keep, before ``component`` chooses in each slice; None if slices
            are decided one by one.
        masks_chose: Settings of the rule that were chosen with true masks, in words; None if masks chose no setting.
            Results state it.

    Raises:
        ValueError: If ``polarity``, ``margin`` or ``healthy_border`` is out of range.
    """

    def __init__(
        self,
        polarity: Polarity | None = None,
        channel: str | None = None,
        field_of_view: FieldOfView | BrainField | None = None,
        component: CentralComponent | LargestComponent | None = None,
        fill_holes: bool = True,
        plausible: Plausible | None = None,
        margin: float = 0.1,
        healthy_border: float | None = None,
        symmetry: MirrorSymmetry | None = None,
        over_slices: LastingComponent | None = None,
        masks_chose: str | None = None,
    ) -> None:
        if polarity is not None and polarity not in get_args(Polarity):
            raise ValueError(unknown("polarity", polarity, list(get_args(Polarity))))
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin is {margin}; it has to be in [0, 0.5).")
        if healthy_border is not None and not 0 < healthy_border < 0.5:
            raise ValueError(f"healthy_border is {healthy_border}; it has to be in (0, 0.5), or null.")
        self.polarity, self.channel, self.margin = polarity, channel, margin
        self.field_of_view, self.component, self.fill_holes = field_of_view, component, fill_holes
        self.plausible, self.healthy_border = plausible, healthy_border
        self.symmetry, self.over_slices, self.masks_chose = symmetry, over_slices, masks_chose

    def seen(self, image: Map) -> Mask:
        """Return where an image (C, H, W) in [0, 1] shows its subject, (H, W): not in the air around a head."""
        subject: Mask = np.any(image > _BACKGROUND, axis=0)
        return subject if self.field_of_view is None else np.logical_and(subject, self.field_of_view(image))

    def soften(self, evidence: Map, seen: Mask) -> Map:
        """Normalise a map within the visible field, so that Otsu's level becomes 0.5.

        Args:
            evidence: (H, W) or (D, H, W); higher values are more evidence of disease.
            seen: The visible field, the same shape.

        Returns:
            Values in [0, 1], 0 outside of the field; 0 everywhere if the map is constant in the field.
        """
        soft: Map = np.zeros(evidence.shape, dtype=np.float32)
        values = (evidence if self.symmetry is None else self.symmetry(evidence, seen))[seen]
        low, high = np.percentile(values, (1, 99)) if len(values) else (0, 0)
        if high - low <= 1e-6:
            return soft
        normal = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
        level = float(otsu_level(torch.from_numpy(normal)[None])[0])
        upper = 0.5 + (normal - level) / max(1 - level, 1e-6) / 2
        soft[seen] = np.where(normal <= level, normal / max(level, 1e-6) / 2, upper)
        return soft

    def decide(self, soft: Map) -> Decided:
        """Threshold a map of :meth:`soften` at 0.5, (H, W) or (D, H, W), and check the mask."""
        return self._finish(soft > 0.5, soft)

    def decide_slices(self, soft: Map, positions: Sequence[int]) -> list[Decided]:
        """Decide on the slices of one case together.

        Args:
            soft: Maps of :meth:`soften`, (D, H, W).
            positions: Number of each slice in its case.
        """
        masks: Mask = soft > 0.5
        if self.over_slices is not None:
            masks = self.over_slices(masks, soft, positions)
        return [self._finish(mask, values) for mask, values in zip(masks, soft, strict=True)]

    def _finish(self, mask: Mask, soft: Map) -> Decided:
        """Choose the part of a mask, fill it, and check it."""
        from scipy.ndimage import binary_fill_holes

        if self.component is not None:
            mask = self.component(mask, soft)
        if self.fill_holes:
            filled = [binary_fill_holes(image) for image in mask.reshape(-1, *mask.shape[-2:])]
            mask = np.stack(filled).reshape(mask.shape)
        unsure: Mask = np.abs(soft - 0.5) < self.margin
        objection = None if self.plausible is None else self.plausible.objection(mask)
        if not mask.any():
            objection = "nothing is found"
        return Decided(mask, unsure, objection)


def _distance_from_middle(size: tuple[int, ...]) -> Map:
    """Return the distance of each pixel from the middle of an image, as a share of the shorter side."""
    offsets = [(np.arange(side) + 0.5 - side / 2) / min(size) for side in size]
    distance: Map = np.hypot(*np.meshgrid(*offsets, indexing="ij")).astype(np.float32)
    return distance


def _centroid_distance(mask: Mask) -> float:
    """Return the distance of a mask's centroid from the middle of the image, as a share of the shorter side."""
    size = mask.shape[-2:]
    rows, columns = (indices.mean() + 0.5 for indices in np.nonzero(mask)[-2:])
    return float(np.hypot(rows - size[0] / 2, columns - size[1] / 2) / min(size))
