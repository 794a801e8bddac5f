"""Robustness of models of skin lesions to other cameras, optics and files: Dice on corrupted copies of images.

``python experiments/benchmarks/corrupted_images.py score '[ENTRY, runs/RUN/version_0]' /path/to/isic2017`` scores
models on the seeded tenth, writes ``robustness.csv`` and prints the table. ``--reported official`` takes the 150
official validation images. ``--elsewhere /path/to/isic2016`` adds the images of ISIC 2016 that are not training images
of ISIC 2017. ``table`` prints the table again. ``card robustness.csv MODEL RUN`` writes the rows of a model into the
folder of its run, and ``diffmedseg export`` copies them into the entry's card.

Every model gets the same images: at most 256 px, corrupted, then rounded to 8 bits. Masks are scored at this size.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from rows import read_rows, write_rows
from timing import hardware
from torch import Tensor

from diffmedseg.data import ISIC2016DataModule, ISIC2017DataModule
from diffmedseg.data.base import Split
from diffmedseg.data.isic import ISICDataModule
from diffmedseg.evaluation.corruptions import CORRUPTIONS, corrupt
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.functional import dice
from diffmedseg.reading.pictures import read_upright
from diffmedseg.zoo.loading import load_model
from diffmedseg.zoo.robustness import RobustnessRow, write_robustness

#: Location of an image: its data set, split and number in the split.
Place = tuple[ISICDataModule, Split, int]

CLEAN, MEAN = "none", "mean of all corruptions"
SETS: dict[str, tuple[Literal["tenth", "validation"], str]] = {
    "tenth": ("tenth", "ISIC 2017, seeded tenth"),
    "official": ("validation", "ISIC 2017, official validation"),
}
ELSEWHERE = "ISIC 2016, not trained on"
SCORES = Path("robustness.csv")


@dataclass(frozen=True)
class Photograph:
    """An image (3, h, w) in [0, 1] and its mask (1, h, w), bool, at the size for scoring."""

    case: str
    image: Tensor
    mask: Tensor


def score(
    models: list[str],
    root: Path,
    reported: Literal["tenth", "official"] = "tenth",
    elsewhere: Path | None = None,
    severities: list[str] = ["medium", "strong"],  # noqa: B006
    images: int | None = None,
    side: int = 256,
    output: Path = SCORES,
) -> None:
    """Score models and print the table.

    Args:
        models: Zoo entries, folders of runs, or checkpoints.
        root: Folder of ISIC 2017.
        reported: ``tenth`` of the training images, on which settings are chosen, or the ``official`` validation set.
        elsewhere: Folder of ISIC 2016; None leaves it out.
        severities: Severities, from mild, medium and strong.
        images: Number of images from each set, evenly spread; None for all.
        side: Longer side in pixels, for corruption of images and scoring of masks.
        output: The table of scores of every image.
    """
    kinds = [(CLEAN, ""), *((name, severity) for name in CORRUPTIONS for severity in severities)]
    rows: list[dict[str, object]] = []
    loaded = {name: load_model(name) for name in models}
    warnings.filterwarnings("ignore", "Some images look unlike")  # corrupted images do
    for title, items in _sets(root, reported, elsewhere).items():
        for photograph in _photographs(items, images, side):
            copies = _copies(photograph, kinds)
            for name, model in loaded.items():
                masks = model.segment(copies, keys=[photograph.case] * len(copies)).mask
                values = dice(masks, photograph.mask.expand_as(masks))[:, 0].tolist()
                same = {"model": name, "images": title, "case": photograph.case}
                rows += [
                    same | {"corruption": corruption, "severity": severity, "dice": f"{value:.4f}"}
                    for (corruption, severity), value in zip(kinds, values, strict=True)
                ]
    write_rows(rows, output)
    print(f"{hardware()}; {side} px\n")
    table(output)


def _sets(root: Path, reported: str, elsewhere: Path | None) -> dict[str, list[Place]]:
    """Return the locations of the images of each set."""
    kind, title = SETS[reported]
    data = ISIC2017DataModule(root, reported=kind)
    sets = {title: _places(data, "test")}
    if elsewhere is not None:
        trained, chosen = ({file.id for file in data.files(split)} for split in ("train", "val"))
        other = ISIC2016DataModule(elsewhere, reported="tenth")  # "tenth" needs only the training set
        places = [*_places(other, "train"), *_places(other, "val")]
        ids = {place: other.files(place[1])[place[2]].id for place in places}
        sets[ELSEWHERE] = [place for place in places if ids[place] not in trained]
        known = sum(ids[place] in chosen for place in sets[ELSEWHERE])
        print(
            f"{ELSEWHERE}: {len(sets[ELSEWHERE])} of {len(places)} images. ISIC 2017 trains on the others. "
            f"{known} of the {len(sets[ELSEWHERE])} are in the seeded tenth, on which checkpoints are chosen.\n"
        )
    return {name: places for name, places in sets.items() if places}


def _places(data: ISICDataModule, split: Split) -> list[Place]:
    return [(data, split, index) for index in range(len(data.files(split)))]


def _copies(photograph: Photograph, kinds: Sequence[tuple[str, str]]) -> Tensor:
    """Return an image under each corruption, (N, 3, h, w), uint8."""
    image, case = photograph.image, photograph.case
    copies = [image if name == CLEAN else corrupt(image, name, severity, case) for name, severity in kinds]
    return (torch.stack(copies) * 255).round().to(torch.uint8)


def _photographs(items: list[Place], most: int | None, side: int) -> Iterator[Photograph]:
    number = min(len(items), most or len(items))
    stores = {split: data.load(split) for data, split in {(data, split) for data, split, _ in items}}
    for data, split, index in [items[i * len(items) // number] for i in range(number)]:
        file = data.files(split)[index]
        picture = np.array(read_upright(file.image, side, None))
        image = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        mask = F.interpolate(stores[split].reference(index).float(), image.shape[1:], mode="nearest-exact")[0] > 0
        yield Photograph(file.id, image, mask)


def table(scores: Path = SCORES) -> None:
    """Print Dice by corruption, and differences from the first model on the same images.

    Args:
        scores: The table of scores of every image.
    """
    cells = _cells(scores)
    models = list(dict.fromkeys(model for model, *_ in cells))
    heads = ["images", "corruption", "cases", *models, *(f"{other} less {models[0]}" for other in models[1:])]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for images, corruption in dict.fromkeys((images, corruption) for _, images, corruption in cells):
        values = [cells[model, images, corruption] for model in models]
        means = [f"{value.mean():.3f}" for value in values]
        paired = [_signed(value - values[0]) for value in values[1:]]
        print(f"| {images} | {corruption} | {len(values[0])} | {' | '.join([*means, *paired])} |")


def card(scores: Path, model: str, run: Path) -> None:
    """Write a model's rows into the folder of its run, for the card.

    Args:
        scores: The table of scores of every image.
        model: Name of the model in the table.
        run: The run's folder.
    """
    rows, cells = [], _cells(scores)
    for (name, images, corruption), values in cells.items():
        if name == model:
            change = values - cells[model, images, CLEAN]
            means = float(values.mean()), float(change.mean())
            rows.append(RobustnessRow(images, corruption, len(values), *means, *bootstrap_interval(change)))
    if not rows:
        raise SystemExit(f"{scores} has no model {model!r}: score it first.")
    print(f"Wrote {write_robustness(run, rows)}")


def _cells(scores: Path) -> dict[tuple[str, str, str], np.ndarray]:
    """Return the Dice of every image by model, set of images and corruption. Each set ends with the mean.

    The mean is over all corruptions. Images are in the order of their names, so that models can be compared image by
    image.
    """
    by_kind: dict[tuple[str, str, str], dict[str, float]] = {}
    cases: dict[str, set[str]] = {}
    for row in read_rows(scores):
        kind = ", ".join(part for part in (row["corruption"], row["severity"]) if part)
        by_kind.setdefault((row["model"], row["images"], kind), {})[row["case"]] = float(row["dice"])
        cases.setdefault(row["images"], set()).add(row["case"])
    for (model, images, kind), values in by_kind.items():
        if missing := cases[images] - values.keys():
            raise SystemExit(f"{scores}: {model} has no score of {min(missing)} ({images}, {kind}). Score it again.")
    cells: dict[tuple[str, str, str], np.ndarray] = {}
    for model, images in dict.fromkeys((model, images) for model, images, _ in by_kind):
        kinds = {kind: np.array([values[case] for case in sorted(values)])
                 for (a, b, kind), values in by_kind.items() if (a, b) == (model, images)}  # fmt: skip
        corrupted = [values for kind, values in kinds.items() if kind != CLEAN]
        kinds |= {MEAN: np.mean(corrupted, 0)} if corrupted else {}
        cells |= {(model, images, kind): values for kind, values in kinds.items()}
    return cells


def _signed(difference: np.ndarray) -> str:
    low, high = bootstrap_interval(difference)
    return f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    auto_cli([score, table, card], as_positional=True)
