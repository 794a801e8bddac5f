"""Sums over the pixels of an image. The sums of all slices of a case give the scores of the case."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffmedseg.metrics.calibration import neighbourhood, proper_scores, reliability_counts
from diffmedseg.metrics.functional import confusion_counts, pairwise_overlap, soft_overlap
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import majority, resize_soft


@dataclass(frozen=True)
class ImageScore:
    """Sums of one image, or of several images of one case, on the CPU. K regions, S samples, R raters.

    Attributes:
        case: The case.
        counts: (3, K): true positive, false positive, false negative pixels.
        overlap: (2, K): the sums of :func:`~diffmedseg.metrics.functional.soft_overlap` of the mask with the mean of
            the samples. The mean is used since a fusion or a CRF can make probabilities too extreme.
        pairs: (2, K, S + R, S + R): intersection and union of every two masks, samples before raters.
        proper: (3, K): the sums of :func:`~diffmedseg.metrics.calibration.proper_scores`.
        moments: (6, K): number, and sums of a, b, a^2, b^2, a b for the variances of samples (a) and of raters (b);
            zeros with one rater.
        reliability: (3, K, 3, bins): reliability counts of whole images and of neighbourhoods of lesions, over all
            raters; and of whole images against the majority.
        num_slices: Number of images.
        num_samples: S.
        num_raters: R.
        seconds: Time to segment the images.
        unrefined: ``counts`` and ``proper`` before a refinement; None without a refinement.
        contours: (4, K): pixels of the inner contour, true pixels in the inner contour, true pixels in the outer
            contour, and pixels of the outer contour; None without contours.
        prior: ``counts`` of the condition network's own mask; None without such a mask.
    """

    case: str
    counts: Tensor
    overlap: Tensor
    pairs: Tensor
    proper: Tensor
    moments: Tensor
    reliability: Tensor
    num_slices: int
    num_samples: int
    num_raters: int
    seconds: float
    unrefined: tuple[Tensor, Tensor] | None = None
    contours: Tensor | None = None
    prior: Tensor | None = None

    def __add__(self, other: "ImageScore") -> "ImageScore":
        """Pool images of the same case."""
        if (self.case, self.num_samples, self.num_raters) != (other.case, other.num_samples, other.num_raters):
            raise ValueError(
                f"{self.case} ({self.num_samples} samples, {self.num_raters} raters) and {other.case} "
                f"({other.num_samples}, {other.num_raters}) cannot be pooled."
            )
        added = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        unrefined = None
        if self.unrefined is not None and other.unrefined is not None:
            unrefined = self.unrefined[0] + other.unrefined[0], self.unrefined[1] + other.unrefined[1]
        contours, prior = _add(self.contours, other.contours), _add(self.prior, other.prior)
        return replace(self, **added, unrefined=unrefined, contours=contours, prior=prior)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


_ADDED = ("counts", "overlap", "pairs", "proper", "moments", "reliability", "num_slices", "seconds")


def at_native_size(soft: Tensor, size: tuple[int, int], window: CropWindow | None = None) -> Tensor:
    """Resize soft masks (K, h, w) to (K, *size), float32. Masks of a window are pasted into an empty image.

    Args:
        soft: In [0, 1].
        size: Height and width of the reference.
        window: Window of the reference that the masks cover; None for the whole reference.
    """
    return resize_soft(soft[None].float(), size, window)[0]


def score_image(
    case: str,
    probability: Tensor,
    samples: Tensor,
    reference: Tensor,
    threshold: float,
    seconds: float,
    unrefined: Tensor | None = None,
    field_of_view: Tensor | None = None,
    contours: tuple[Tensor, Tensor] | None = None,
    prior: Tensor | None = None,
    window: CropWindow | None = None,
) -> ImageScore:
    """Score one image at the reference's resolution, on the reference's device.

    Args:
        case: Case of the image.
        probability: (K, h, w), in [0, 1].
        samples: (S, K, h, w), soft, with the decision level at 0.5; resized one at a time.
        reference: (R, K, H, W), in {0, 1}: every rater's mask.
        threshold: Foreground is where the probability exceeds it.
        seconds: Time to segment the image.
        unrefined: The probability before a refinement.
        field_of_view: (H, W), bool: the scored pixels; None for all pixels.
        contours: Inner and outer contour, (K, H, W) each, bool; or of the size of ``window``.
        prior: (K, h, w), in [0, 1]: the condition network's own mask.
        window: Window of the reference that the maps cover; masks are empty outside. None for the whole reference.
    """
    grid = _Grid(reference, field_of_view, window)
    reference = reference if field_of_view is None else reference * grid.inside
    truth, share = majority(reference).bool(), reference.float().mean(0)
    probability = grid.resize(probability)
    unrefined_soft, prior_soft = (None if soft is None else grid.resize(soft) for soft in (unrefined, prior))
    mask = probability > threshold
    masks, mean = _masks_and_mean(samples, grid, probability)
    several = len(reference) > 1  # with one rater, the majority is the rater
    everyone = torch.cat([masks, reference.bool()])
    pairs = [torch.stack(pairwise_overlap(everyone[:, k], everyone[:, k])) for k in range(len(truth))]
    counts, proper = _compare(probability, threshold, truth, share, grid)
    return ImageScore(
        case,
        counts=counts,
        overlap=torch.stack(soft_overlap(mean, mask)).cpu(),
        pairs=torch.stack(pairs, 1).double().cpu(),
        proper=proper,
        moments=_moments(masks, share, grid) if several else torch.zeros(6, len(truth), dtype=torch.float64),
        reliability=_reliability(probability, reference, truth, share, grid),
        num_slices=1,
        num_samples=len(samples),
        num_raters=len(reference),
        seconds=seconds,
        unrefined=None if unrefined_soft is None else _compare(unrefined_soft, threshold, truth, share, grid),
        contours=None if contours is None else _contour_areas(contours, truth, grid),
        prior=None if prior_soft is None else torch.stack(confusion_counts(prior_soft > 0.5, truth)).cpu(),
    )


class _Grid:
    """The pixels of a reference, and which of them are scored.

    Args:
        reference: (R, K, H, W).
        field_of_view: (H, W), bool: the scored pixels; None for all pixels.
        window: Window of the reference that the masks cover; None for the whole reference.
    """

    def __init__(self, reference: Tensor, field_of_view: Tensor | None, window: CropWindow | None) -> None:
        self.size = (int(reference.shape[-2]), int(reference.shape[-1]))
        self.device, self.window, self.everywhere = reference.device, window, field_of_view is None
        if field_of_view is None:
            self.inside = torch.ones(self.size, dtype=torch.bool, device=self.device)
        else:
            self.inside = field_of_view.to(self.device)

    def within(self, values: Tensor) -> Tensor:
        """Select the scored pixels of (..., H, W): (..., N)."""
        return values.flatten(-2) if self.everywhere else values[..., self.inside]

    def resize(self, soft: Tensor) -> Tensor:
        """Resize soft masks (K, h, w) to (K, H, W); pixels that are not scored become 0."""
        return at_native_size(soft.to(self.device), self.size, self.window) * self.inside

    def place(self, mask: Tensor) -> Tensor:
        """Paste a mask of the size of the reference or the window into (K, H, W); unscored pixels become False."""
        mask = mask.to(self.device)
        return (mask if self.window is None else self.window.place(mask, self.size)) & self.inside


def _masks_and_mean(samples: Tensor, grid: _Grid, like: Tensor) -> tuple[Tensor, Tensor]:
    """Resize samples one at a time; return their masks (S, K, H, W), bool, and their mean (K, H, W)."""
    masks = torch.empty(len(samples), *like.shape, dtype=torch.bool, device=like.device)
    mean = torch.zeros_like(like)
    for s, sample in enumerate(samples):
        soft = grid.resize(sample)
        masks[s] = soft > 0.5
        mean += soft / len(samples)
    return masks, mean


def _compare(soft: Tensor, threshold: float, truth: Tensor, share: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Return the confusion counts of the mask (3, K), and the proper scores of the probability (3, K)."""
    proper = proper_scores(grid.within(soft)[:, None], grid.within(share)[:, None])
    return torch.stack(confusion_counts(soft > threshold, truth)).cpu(), proper.cpu()


def _moments(masks: Tensor, share: Tensor, grid: _Grid) -> Tensor:
    """Compute the moments of the variances of samples and raters: :attr:`ImageScore.moments`."""
    votes = masks.double().mean(0)
    a, b = (grid.within(m.double()) for m in (votes * (1 - votes), share * (1 - share)))
    return torch.stack([torch.ones_like(a), a, b, a * a, b * b, a * b]).sum(-1).cpu()


def _reliability(probability: Tensor, reference: Tensor, truth: Tensor, share: Tensor, grid: _Grid) -> Tensor:
    """Count probabilities and outcomes: :attr:`ImageScore.reliability`."""
    counted = []
    for k in range(len(truth)):
        neighbours = neighbourhood(reference[:, k].bool().any(0)) & grid.inside
        whole = reliability_counts(grid.within(probability[k]), grid.within(share[k]))
        near_lesion = reliability_counts(probability[k][neighbours], share[k][neighbours])
        several = len(reference) > 1
        by_majority = reliability_counts(grid.within(probability[k]), grid.within(truth[k])) if several else whole
        counted.append(torch.stack([whole, near_lesion, by_majority]))
    return torch.stack(counted, 1)


def _contour_areas(contours: tuple[Tensor, Tensor], truth: Tensor, grid: _Grid) -> Tensor:
    """Count pixels of the inner and the outer contour: :attr:`ImageScore.contours`."""
    inner, outer = (grid.place(contour) for contour in contours)
    return torch.stack([m.sum((-2, -1)) for m in (inner, inner & truth, outer & truth, outer)]).cpu()


def pool(images: Iterable[ImageScore]) -> dict[str, ImageScore]:
    """Pool images by case, in the order of the cases' names."""
    pooled: dict[str, ImageScore] = {}
    for image in images:
        add_to(pooled, image)
    return dict(sorted(pooled.items()))


def add_to(pooled: dict[str, ImageScore], image: ImageScore) -> None:
    """Add an image to the sums of its case."""
    pooled[image.case] = pooled[image.case] + image if image.case in pooled else image
