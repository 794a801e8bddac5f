"""Dice of pseudo masks before any training on them, by proposer and by parts of the data set's mask rule.

``python experiments/benchmarks/pseudo_masks.py isic2017 /path/to/isic2017 --runs '[RUN, ...]'`` scores proposals on the
validation images of the data set that are not healthy, on the model's grid. For ISIC, these are the seeded tenth of the
training set. With
``--tries true`` it tries other differences (differences.py) with each run, and agreement of proposers. True masks only
score the proposals; they choose nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from differences import TRIES
from jsonargparse import auto_cli
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.catalogue import configured
from diffmedseg.data.labels import MaskRule
from diffmedseg.data.store import ImageStore, to_signed
from diffmedseg.models.diffseg.segmenter import DiffSegSegmenter
from diffmedseg.postprocessing.crf import RandomSubsetCRF
from diffmedseg.pseudo.border import BorderContrast
from diffmedseg.pseudo.checkpoints import proposing_checkpoint
from diffmedseg.pseudo.proposers import Council, Luminance, OfModel, Proposer
from diffmedseg.pseudo.writing import propose
from diffmedseg.segmentation import majority
from diffmedseg.zoo import load_model

#: Parts of a rule, by title, in the order in which they are added.
PARTS = {
    "+ field of view": "field_of_view", "+ symmetry": "symmetry", "+ over slices": "over_slices",
    "+ component": "component", "+ holes filled": "fill_holes",
}  # fmt: skip


class Remembered(Proposer):
    """Caches the maps of another proposer, which is called once for each image."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer, self._maps = proposer, dict[str, Tensor]()
        self.relative = proposer.relative

    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class."""
        if not set(keys) <= self._maps.keys():
            self._maps |= dict(zip(keys, self._proposer(image, keys), strict=True))
        return torch.stack([self._maps[key] for key in keys])


def rules(own: MaskRule) -> Mapping[str, MaskRule]:
    """Return simpler rules and the data set's rule, by the parts that they add."""
    settings: dict[str, Any] = {"polarity": own.polarity, "channel": own.channel, "margin": own.margin}
    settings["fill_holes"] = False
    steps = {"Otsu alone": MaskRule(**settings)}
    for name, argument in PARTS.items():
        value = getattr(own, argument)
        if value:
            settings[argument] = value
            steps[name] = MaskRule(**settings)
    return steps | {"kept as plausible": own}


def batches(store: ImageStore, images: int, whole_cases: bool) -> list[list[int]]:
    """Return the first images that are not healthy, in batches, or by case."""
    diseased = [index for index in range(len(store)) if store.label(index) != 0][:images]
    if not whole_cases:
        return [diseased[first : first + 20] for first in range(0, len(diseased), 20)]
    cases: dict[str, list[int]] = {}
    for index in diseased:
        cases.setdefault(store.cases[index], []).append(index)
    return list(cases.values())


def score(council: Council, data: SegmentationDataModule, images: int) -> list[tuple[float, bool]]:
    """Return Dice on the model's grid, and whether the mask is kept, of each image that is not healthy."""
    results = []
    for store in data.stores.values():
        for indices in batches(store, images, council.rule.over_slices is not None):
            batch = torch.stack([to_signed(store.image(index)) for index in indices])
            for decided, index in zip(propose(council, store, indices, batch), indices, strict=True):
                truth = majority(store.masks(index))[0].numpy() > 0
                total = decided.mask.sum() + truth.sum()
                dice = 2 * (decided.mask & truth).sum() / total if total else 1.0
                results.append((float(dice), decided.objection is None))
    return results


def row(name: str, scores: list[tuple[float, bool]]) -> str:
    """Return a row of the table: Dice of all masks, Dice of the kept masks, and the number of kept masks."""
    dice, kept = np.array([value for value, _ in scores]), np.array([value for _, value in scores])
    return f"| {name} | {dice.mean():.3f} | {dice[kept].mean():.3f} | {kept.sum()} of {len(kept)} |"


def try_differences(
    run: str, model: DiffSegSegmenter, data: SegmentationDataModule, bright: Proposer, images: int
) -> None:
    """Print the Dice of each difference of TRIES with a run of DiffSeg, alone and in a mean with luminance."""
    print(f"\n| {run} | all | kept | number kept |\n|---|---|---|---|")
    for name, (model.difference, model.polarity) in TRIES.items():
        tried = Remembered(OfModel(model, data.info, None))
        print(row(name, score(Council([tried], data.mask_rule, None), data, images)))
        print(row("... and luminance", score(Council([tried, bright], data.mask_rule, None), data, images)), flush=True)


def try_agreement(name: str, members: Sequence[Proposer], data: SegmentationDataModule, images: int) -> None:
    """Print the scores of the masks that are kept if proposers have to agree."""
    print(f"\n| {name}, agreement | all | kept | number kept |\n|---|---|---|---|")
    for least in (0.0, 0.5, 0.7, 0.8):
        print(row(f"{least:g}", score(Council(members, data.mask_rule, None, least), data, images)), flush=True)


def main(
    data: str,
    root: Path,
    runs: Sequence[str] = (),
    image_size: int = 64,
    images: int = 200,
    tries: bool = False,
    crf: bool = True,
    splits: Sequence[Split] = ("val",),
    settings: Mapping[str, str] = {},
) -> None:
    """Print the table.

    Args:
        data: Name of the data set.
        root: Folder of the data set.
        runs: Runs, checkpoints or zoo entries as further proposers.
        image_size: Side of the grid, in pixels.
        images: Maximum number of images of a split.
        tries: Whether to print tables of other differences of DiffSeg's runs, and of agreement, too.
        crf: Whether to score each proposer with a CRF, too.
        splits: The splits that are scored.
        settings: Further settings of the data, such as folds.
    """
    module = configured(data, root, {"image_size": str(image_size), **settings})
    for split in splits:
        module.dataset(split)
    free = {"luminance": [Remembered(Luminance(module.mask_rule, module.info))]}
    if module.mask_rule.healthy_border is not None:
        free["border"] = [Remembered(BorderContrast(module.mask_rule, module.info))]
        free["luminance + border"] = [*free["luminance"], *free["border"]]
    proposers: dict[str, Sequence[Proposer]] = {**free}
    for run in runs:
        checkpoint, chosen_by = proposing_checkpoint(run)
        model = Remembered(OfModel(load_model(str(checkpoint)), module.info, chosen_by))
        proposers |= {run: [model], **{f"{run} + {name}": [model, *partners] for name, partners in free.items()}}
    variants = rules(module.mask_rule)
    print(f"| proposer | CRF | {' | '.join(variants)} | kept |")
    print("|---" * (len(variants) + 3) + "|")
    for name, members in proposers.items():
        for refinement in (None, RandomSubsetCRF())[: 1 + crf]:
            scores = [score(Council(members, rule, refinement), module, images) for rule in variants.values()]
            kept = [dice for dice, is_kept in scores[-1] if is_kept]
            columns = [np.mean([dice for dice, _ in results]) for results in scores[:-1]] + [np.mean(kept)]
            cells = " | ".join(f"{value:.3f}" for value in columns)
            print(
                f"| {name} | {'yes' if refinement else 'no'} | {cells} | {len(kept)} of {len(scores[-1])} |", flush=True
            )
    for name, members in proposers.items() if tries else ():
        if len(members) > 1:
            try_agreement(name, members, module, images)
    for run in runs if tries else ():
        model = load_model(str(proposing_checkpoint(run)[0]))
        assert isinstance(model, DiffSegSegmenter), f"{run} is no run of DiffSeg"
        try_differences(run, model, module, free["luminance"][0], images)


if __name__ == "__main__":
    auto_cli(main)
