"""Sets of volumes against sets of volumes: nodules of LIDC, by what the slices of a sample share.

The slices of a nodule make a small volume, and each of the four masks of its slices a reader's volume. A sample is a
volume, too: the slices are segmented one by one, and their noise is

- ``own``: independent in every slice,
- ``between n``: correlated over slices, by 0.7 or less one n apart and by 0 two n apart
  (:func:`~diffmedseg.keyed_random.between`),
- ``shared``: the same in all slices, as ``predict`` has it.

``python experiments/benchmarks/nodule_volumes.py zoo/medsegdiff-lite_lidc_slices.lite0 --nodules 30`` takes the first
nodules of the test split that have enough slices. It needs DIFFMEDSEG_DATA, prints means over nodules, and the paired
difference from ``shared`` with its 95 % interval over patients.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from rows import write_rows
from samples_and_steps import load_run
from shared_noise import roughness
from torch import Tensor

from diffmedseg.keyed_random import Generator, between
from diffmedseg.metrics import bootstrap_interval, generalized_energy_distance
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.models.segmenter import sample_generators
from diffmedseg.segmentation import nest

SCORES = ("GED, biased", "GED, unbiased", "roughness", "of readers", "spread", "spread of readers")


def noises(distances: Sequence[int]) -> list[str]:
    """Name the kinds of noise."""
    return ["shared", "own", *(f"between {distance}" for distance in distances)]


def generators_of(noise: str, seed: int, nodule: str, slices: Sequence[int], samples: int) -> list[list[Generator]]:
    """Return the generators of the samples of each slice, by the kind of noise."""
    if noise.startswith("between"):
        distance = int(noise.split()[1])
        return [[between((seed, nodule, s), z / distance) for s in range(samples)] for z in slices]
    keys = [nodule if noise == "shared" else f"{nodule}/{z}" for z in slices]
    return [list(row) for row in sample_generators(seed, keys, range(samples))]


def scores(samples: Tensor, readers: Tensor) -> list[float]:
    """Score volumes (S, D, H, W) by the readers' (R, D, H, W), all bool."""
    energy = generalized_energy_distance(samples, readers)
    rough = [float(np.mean([roughness(one) for one in some if one.any()] or [np.nan])) for some in (samples, readers)]
    sizes = [some.flatten(1).sum(1).double() for some in (samples, readers)]
    spread = [float(voxels.std() / voxels.mean().clamp(1)) for voxels in sizes]
    return [float(energy.biased), float(energy.unbiased), *rough, *spread]


@torch.inference_mode()
def segment(model: DiffusionSegmenter, images: Tensor, generators: list[list[Generator]]) -> Tensor:
    """Return the samples (S, K, D, H, W), bool, of slices (D, C, H, W), a few slices at a time."""
    found = []
    for first in range(0, len(images), 4):
        some = slice(first, first + 4)
        drawn = model.draw_samples(model._memory_format(images[some]), generators[some], model.num_steps).samples
        found.append((nest(drawn) if model.nested else drawn) > 0.5)
    return torch.cat(found).permute(1, 2, 0, 3, 4)


def main(
    run: Path, nodules: int = 30, samples: int = 8, fewest: int = 4, distances: list[int] = [2, 4], seed: int = 0,  # noqa: B006
    out: Path = Path("nodule_volumes.csv"),
) -> None:  # fmt: skip
    """Score the nodules, and print the table.

    Args:
        run: A run's folder or that of a zoo entry.
        nodules: Number of nodules.
        samples: Samples of each nodule.
        fewest: Slices that a nodule needs.
        distances: Distances of independent noise, in slices.
        seed: Seed of the noise.
        out: A row for each nodule and noise.
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
        for noise in noises(distances):
            found = segment(model, images, generators_of(noise, seed, nodule, numbers, samples))[:, 0]
            row = {"nodule": nodule, "noise": noise, "slices": len(indices)}
            rows.append(row | dict(zip(SCORES, scores(found, readers), strict=True)))
        write_rows(rows, out)
        print(f"{nodule}: {len(indices)} slices", flush=True)
    print(table(rows))


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return means over nodules, and the difference of the unbiased GED from that of shared noise."""
    kinds = list(dict.fromkeys(str(row["noise"]) for row in rows))
    by_noise = {kind: [row for row in rows if row["noise"] == kind] for kind in kinds}
    patients = [str(row["nodule"]).split("_")[0] for row in by_noise["shared"]]
    title = "GED, unbiased: difference from shared"
    lines = [f"| noise | {' | '.join(SCORES)} | {title} |", "|---|" + "---|" * (len(SCORES) + 1)]
    ged = {kind: np.array([float(str(row["GED, unbiased"])) for row in own]) for kind, own in by_noise.items()}
    for kind, own in by_noise.items():
        means = [np.nanmean([float(str(row[score])) for row in own]) for score in SCORES]
        difference = ged[kind] - ged["shared"]
        low, high = bootstrap_interval(difference, patients=patients)
        said = "" if kind == "shared" else f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {kind} | {' | '.join(f'{mean:.3f}' for mean in means)} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
