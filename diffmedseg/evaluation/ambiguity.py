"""The ambiguity benchmark: samples of any method against several raters, by one protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from rich.progress import track as progress
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.evaluation.ambiguity_result import Ambiguity, Scored, Track
from diffmedseg.evaluation.sample_folders import SampleFolder
from diffmedseg.evaluation.worst_sets import choose_worst, draw_sets
from diffmedseg.metrics.cases import score_cases
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.postprocessing.fusion import MajorityFusion
from diffmedseg.wording import first_names

#: Scores of a single mask, such as a rater's. Distances between distributions need several masks.
_OF_ONE_MASK = (
    *("dice", "iou", "sensitivity", "precision", "found", "left_empty", "distance_to_raters", "hungarian_iou"),
    *("samples_filled", "brier"),
)
_FUSION, _THRESHOLD = MajorityFusion(), 0.5


class AmbiguityBenchmark:
    """One split of a data set with several raters.

    Args:
        data: The data set.
        split: The split.
        track: ``all`` for all images; ``nonempty`` for images in which every rater has foreground.

    Raises:
        DataError: If the data cannot be read, has one rater, has cases of several slices, or no image in the track.
    """

    def __init__(self, data: SegmentationDataModule, split: Split = "test", track: Track = "all") -> None:
        if data.info.raters < 2:
            raise DataError(f"{data.info.title} has one rater; the ambiguity benchmark needs two or more.")
        data.prepare_data()
        self.data, self.split = data, split
        self.store: ImageStore = data.load(split)
        if len(set(self.store.cases)) < len(self.store):
            raise DataError(f"{data.info.title} has cases of several slices; the ambiguity benchmark takes images.")
        filled = [self.store.filled(index).any(1) for index in range(len(self.store))]
        if alone := [name for name, raters in zip(self.store.ids, filled, strict=True) if len(raters) < 2]:
            raise DataError(
                f"{data.info.title}: {len(alone)} of {len(filled)} images have one rater ({first_names(alone)}); the "
                "ambiguity benchmark needs two or more. Remove these images.",
                alone,
            )
        self._nonempty = [bool(raters.all()) for raters in filled]
        #: Numbers of the images that are scored.
        self.indices = [i for i, nonempty in enumerate(self._nonempty) if nonempty or track == "all"]
        if not self.indices:
            raise DataError(
                f"{data.info.title}: the {split} split has no image in which every rater has foreground. Use --track "
                "all."
            )
        self.tracks: tuple[Track, ...] = ("all", "nonempty") if track == "all" else ("nonempty",)
        if not any(self._nonempty):
            self.tracks = ("all",)

    def expected(self) -> list[tuple[str, str, int, int]]:
        """Return id, patient, height and width of each image that is scored."""
        store = self.store
        return [(store.ids[i], self.data.patient(store.cases[i]), *store.size_of(i)) for i in self.indices]

    def score(self, folder: Path | None) -> Ambiguity:
        """Score samples, and each rater against the other raters. Without a folder, only score the raters.

        Args:
            folder: See :class:`~diffmedseg.evaluation.sample_folders.SampleFolder`.

        Raises:
            DataError: If samples are missing, unreadable or of other images, or their number varies between images.
        """
        store = self.store
        image_ids = [store.ids[i] for i in self.indices]
        files = None if folder is None else SampleFolder(folder, image_ids, store.ids)
        samples: dict[Track, Scored] = {track: Scored() for track in self.tracks if files is not None}
        raters: dict[Track, Scored] = {track: Scored() for track in self.tracks}
        first: dict[int, str] = {}  # first image with each number of samples
        num_raters: set[int] = set()
        for i in progress(self.indices, "Images"):
            reference = store.reference(i)
            num_raters.add(len(reference))
            images = [self._score(i, *masks) for masks in _each_against_others(reference)]
            self._add(raters, i, _average([self._rows(image) for image in images]), images)
            if files is not None:
                masks = files.read(store.ids[i], (reference.shape[-2], reference.shape[-1]), reference.shape[1])
                first.setdefault(len(masks), store.ids[i])
                _check_equal(first)
                image = self._score(i, masks, reference)
                self._add(samples, i, self._rows(image), [image])
        return Ambiguity(self.data.info.title, self.split, next(iter(first), None), sorted(num_raters), samples, raters)

    def draw_worst(self, scored: Scored, folder: Path, number: int) -> Figure:
        """Draw the images whose samples are farthest from the raters; see :mod:`diffmedseg.evaluation.worst_sets`.

        Args:
            scored: Scores of the samples in a track.
            folder: The folder of :meth:`score`.
            number: Maximum number of images.
        """
        store, number_of = self.store, {case: index for index, case in enumerate(self.store.cases)}
        files = SampleFolder(folder, [store.ids[i] for i in self.indices], store.ids)

        def samples_of(index: int) -> Tensor:
            reference = store.reference(index)
            return files.read(store.ids[index], (reference.shape[-2], reference.shape[-1]), reference.shape[1])

        rows = choose_worst(scored.rows, number)
        return draw_sets(rows, store, lambda row: number_of[row.case], samples_of)

    def _score(self, index: int, samples: Tensor, reference: Tensor) -> ImageScore:
        """Fuse masks (S, K, H, W), bool, by majority, and score them against raters (R, K, H, W)."""
        soft, field_of_view = samples.float(), self.store.field_of_view(index)
        probability = _FUSION(soft[None])[0]
        return score_image(
            self.store.cases[index], probability, soft, reference, _THRESHOLD, float("nan"), field_of_view=field_of_view
        )

    def _rows(self, image: ImageScore) -> list[CaseScore]:
        return score_cases([image], self.data.info.regions, patients={image.case: self.data.patient(image.case)})

    def _add(
        self, tracks: Mapping[Track, Scored], index: int, rows: Sequence[CaseScore], images: Sequence[ImageScore]
    ) -> None:
        for track, scored in tracks.items():
            if track == "all" or self._nonempty[index]:
                scored.add(rows, images)


def _each_against_others(reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the mask of each rater (1, K, H, W), bool, and the masks of the other raters (R - 1, K, H, W).

    The mask of a single other rater is yielded twice. This changes no score of one mask, and all of them are defined.
    """
    for r in range(len(reference)):
        others = torch.cat([reference[:r], reference[r + 1 :]])
        yield reference[r : r + 1].bool(), others if len(others) > 1 else others.repeat(2, 1, 1, 1)


def _average(rows: Sequence[Sequence[CaseScore]]) -> list[CaseScore]:
    """Average the rows of several raters of an image, region by region; NaN if no rater has the score."""
    averaged = []
    for region_rows in zip(*rows, strict=True):
        left_out = {score.name: float("nan") for score in fields(CaseScore) if isinstance(score.default, float)}
        means = {name: _mean([getattr(row, name) for row in region_rows]) for name in _OF_ONE_MASK}
        empty = all(row.both_empty for row in region_rows)
        known = {"both_empty": empty, "num_raters": len(rows) - 1}
        averaged.append(replace(region_rows[0], **{**left_out, **means, **known}))
    return averaged


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")


def _check_equal(images: Mapping[int, str]) -> None:
    """Refuse different numbers of samples; ``images`` has the first image of each number."""
    if len(images) > 1:
        numbers = " and ".join(f"{number} of {image}" for number, image in images.items())
        raise DataError(f"The numbers of samples differ: {numbers}. Give every image the same number.")
