"""Effect on samples of a volume if all its slices start from the same noise.

Each slice is segmented alone. If the key of the noise is the case, all slices share the noise. If the key is the slice,
their noise is independent. ``python experiments/benchmarks/shared_noise.py '[runs/medsegdiff-brats2015/version_0]'``
prints the means over the test cases of all runs (such as folds), by region.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from samples_and_steps import load_run
from torch import Tensor

from diffmedseg.metrics import dice, diversity

COLUMNS = ("Dice", "roughness of a sample", "of the truth", "diversity", "spread of volumes")


def roughness(volume: Tensor) -> float:
    """Return 1 - Dice between neighbouring slices, pooled over a volume (D, H, W), bool."""
    below, above = volume[:-1], volume[1:]
    return float((below ^ above).sum() / (below.sum() + above.sum()).clamp(1))


def scores(samples: Tensor, mask: Tensor, truth: Tensor) -> list[float]:
    """Score sampled volumes (S, D, H, W) and the fused volume against the true volume (D, H, W each), all bool."""
    rough = np.mean([roughness(sample) for sample in samples])
    volumes = samples.flatten(1).sum(1).double()
    spread = float(volumes.std() / volumes.mean().clamp(1))
    return [float(dice(mask.flatten()[None], truth.flatten()[None])), float(rough), roughness(truth),
            float(diversity(samples)), spread]  # fmt: skip


@torch.inference_mode()
def main(runs: list[Path]) -> None:
    """Print the table, with all scores on the model's grid.

    Args:
        runs: Folders of runs on volumes.
    """
    results: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for run in runs:
        model, data = load_run(run)
        parts: dict[tuple[str, str], list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        for batch in data.test_dataloader():
            batch = data.on_after_batch_transfer(batch, 0)
            for noise, keys in {"own for each slice": batch["id"], "shared by the slices": batch["case"]}.items():
                result = model.segment(batch["image"], keys=keys)
                for i, case in enumerate(batch["case"]):
                    slices = result.binary_samples[i], result.mask[i], batch["mask"][i].bool()
                    parts[case, noise].append(slices)
        for (_, noise), slices in parts.items():
            samples, mask, truth = (torch.stack(maps, -3) for maps in zip(*slices, strict=True))  # (S,) K, D, H, W
            for k, region in enumerate(model.regions):
                results[region, noise].append(scores(samples[:, k], mask[k], truth[k]))
        print(f"{run}: {len({case for case, _ in parts})} cases", flush=True)
    print(f"\n| region | noise | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for (region, noise), rows in results.items():
        print(f"| {region} | {noise} | {' | '.join(f'{value:.3f}' for value in np.nanmean(rows, axis=0))} |")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
