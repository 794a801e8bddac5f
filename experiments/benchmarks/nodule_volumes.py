"""Noise over slices: scores of sets of sampled volumes against sets of readers' volumes, for nodules of LIDC.

The slices of a nodule make a small volume, and their masks make the volumes of four readers. A sample is a volume, too:
the slices are segmented one by one. A sample draws presence (whether there is a nodule) and shape. The noise of each is

- ``shared``: the same in all slices, the default of ``predict``,
- ``own``: independent in every slice, as with ``--slice_correlation 0``,
- ``within n``: correlated over slices, and independent from a distance of n slices on, as with ``--slice_correlation``.

``python experiments/benchmarks/nodule_volumes.py zoo/medsegdiff-lite_lidc_slices.lite0 --nodules 30`` takes the first
nodules of the test split with enough slices. It needs DIFFMEDSEG_DATA. It prints means over nodules, and the paired
difference from ``shared`` with its 95 % interval over patients.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from rows import write_rows
from samples_and_steps import load_run
from shared_noise import roughness
from torch import Tensor

from diffmedseg.keyed_random import Generator, SplitGenerator, sample_generator, slice_keys
from diffmedseg.metrics import bootstrap_interval, generalized_energy_distance
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.segmentation import nest

SCORES = ("GED, biased", "GED, unbiased", "roughness", "of readers", "spread", "spread of readers")


def noises(lengths: Sequence[int]) -> dict[str, float | None]:
    """Return the ``slice_correlation`` in slices of each kind of noise, by name."""
    return {"shared": None, "own": 0} | {f"within {length}": length for length in lengths}


def generators_of(
    seed: int, nodule: str, slices: Sequence[int], samples: int, presence: float | None, shape: float | None
) -> list[list[Generator]]:
    """Return the generators of the samples of each slice, for a noise of presence and a noise of shape."""

    def draw(length: float | None) -> list[list[Generator]]:
        keys = slice_keys(nodule, slices, 1.0, length)
        return [[sample_generator(seed, key, s) for s in range(samples)] for key in keys]

    if presence == shape:
        return draw(shape)
    rows = zip(draw(shape), draw(presence), strict=True)
    return [[SplitGenerator(*pair) for pair in zip(*row, strict=True)] for row in rows]


def scores(samples: Tensor, readers: Tensor) -> list[float]:
    """Score volumes (S, D, H, W) against the readers' volumes (R, D, H, W), all bool."""
    energy = generalized_energy_distance(samples, readers)
    rough = [
        float(np.mean([roughness(volume) for volume in group if volume.any()] or [np.nan]))
        for group in (samples, readers)
    ]
    sizes = [group.flatten(1).sum(1).double() for group in (samples, readers)]
    spread = [float(voxels.std() / voxels.mean().clamp(1)) for voxels in sizes]
    return [float(energy.biased), float(energy.unbiased), *rough, *spread]


@torch.inference_mode()
def segment(model: DiffusionSegmenter, images: Tensor, generators: list[list[Generator]]) -> Tensor:
    """Return the samples (S, K, D, H, W), bool, of slices (D, C, H, W), a few slices at a time."""
    masks = []
    for first in range(0, len(images), 4):
        rows = slice(first, first + 4)
        samples = model.draw_samples(model._memory_format(images[rows]), generators[rows], model.num_steps).samples
        masks.append((nest(samples) if model.nested else samples) > 0.5)
    return torch.cat(masks).permute(1, 2, 0, 3, 4)


def main(
    run: Path, nodules: int = 30, samples: int = 8, fewest: int = 4, lengths: list[int] = [4, 8], seed: int = 0,  # noqa: B006
    out: Path = Path("nodule_volumes.csv"),
) -> None:  # fmt: skip
    """Score the nodules, and print the table.

    Args:
        run: Folder of a run or of a zoo entry.
        nodules: Number of nodules.
        samples: Samples per nodule.
        fewest: Minimum number of slices of a nodule.
        lengths: Distances in slices from which correlated noise is independent.
        seed: Seed of the noise.
        out: CSV with a row for each nodule and noise.
    """
    model, data = load_run(run)
    model.eval()
    store = data.test_dataloader().dataset.store
    volumes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, name in enumerate(store.ids):
        nodule, number = re.fullmatch(r"(.+)_slice-(\d+)", name).groups()
        volumes[nodule].append((int(number), index))
    chosen = [nodule for nodule in sorted(volumes) if len(volumes[nodule]) >= fewest][:nodules]
    rows: list[dict[str, object]] = []
    for nodule in chosen:
        numbers, indices = zip(*sorted(volumes[nodule]), strict=True)
        images = torch.stack([store.image(index) for index in indices])
        readers = torch.stack([store.reference(index)[:, 0].bool() for index in indices], 1)
        for (presence, first), (shape, second) in product(noises(lengths).items(), repeat=2):
            masks = segment(model, images, generators_of(seed, nodule, numbers, samples, first, second))[:, 0]
            row = {"nodule": nodule, "presence": presence, "shape": shape, "slices": len(indices)}
            rows.append(row | dict(zip(SCORES, scores(masks, readers), strict=True)))
        write_rows(rows, out)
        print(f"{nodule}: {len(indices)} slices", flush=True)
    print(table(rows))


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return means over nodules, and the difference in unbiased GED from shared noise."""
    by_noise: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        by_noise[str(row["presence"]), str(row["shape"])].append(row)
    shared = by_noise["shared", "shared"]
    patients = [str(row["nodule"]).split("_")[0] for row in shared]
    title = "GED, unbiased: difference from shared"
    lines = [f"| presence | shape | {' | '.join(SCORES)} | {title} |", "|---|---|" + "---|" * (len(SCORES) + 1)]
    for (presence, shape), noise_rows in by_noise.items():
        means = [np.nanmean([float(str(row[score])) for row in noise_rows]) for score in SCORES]
        difference = np.array([
            float(str(row["GED, unbiased"])) - float(str(first["GED, unbiased"]))
            for row, first in zip(noise_rows, shared, strict=True)
        ])  # fmt: skip
        low, high = bootstrap_interval(difference, patients=patients)
        difference_text = "" if noise_rows is shared else f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {presence} | {shape} | {' | '.join(f'{mean:.3f}' for mean in means)} | {difference_text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
