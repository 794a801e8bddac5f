"""GED on synthetic lesions of a perfect sampler, a model, and a supervised baseline that repeats its mask as samples.

The raters of synthetic lesions are drawn from a known distribution. The perfect sampler draws from the same
distribution, so its GED is the smallest that training can reach. S samples of an image are the first S of its samples.
``python experiments/benchmarks/ged_references.py runs/medsegdiff-lite-synthetic/version_0
runs/supervised-synthetic/version_0`` prints the table.
"""

from collections import defaultdict
from pathlib import Path

import torch
from jsonargparse import auto_cli
from samples_and_steps import load_run
from torch import Tensor

from diffmedseg.data.synthetic import MODE_PROBABILITIES, SyntheticStore
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.metrics.cases import score_cases, score_image, summarise

SHOWN = ("ged_biased", "ged_unbiased", "diversity", "dice")


def main(run: Path, control: Path, samples: list[int] = [4, 8, 16, 32], seed: int = 0) -> None:  # noqa: B006
    """Print the table.

    Args:
        run: Folder of a model's run on synthetic lesions.
        control: Folder of a supervised baseline's run on synthetic lesions.
        samples: Numbers of samples.
        seed: Seed of the perfect sampler.
    """
    (model, data), (other, _) = load_run(run), load_run(control)
    store, most = data.stores["test"], max(samples)
    assert isinstance(store, SyntheticStore), f"{run} is no run on synthetic lesions"
    scores: dict[tuple[str, int], list] = defaultdict(list)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        by_name = {
            "perfect sampler": torch.stack(
                [perfect_samples(store, i, most, seed) for i in map(store.ids.index, batch["id"])]
            ),
            "medsegdiff": model.segment(batch["image"], most, keys=batch["case"]).samples,
            "supervised, one mask": other.segment(batch["image"], 1, keys=batch["case"]).samples.repeat_interleave(
                most, 1
            ),
        }
        for name, masks in by_name.items():
            for s in samples:
                for case, maps, reference in zip(batch["case"], masks[:, :s], batch["reference"], strict=True):
                    scores[name, s].append(score_image(case, maps.mean(0), maps, reference, 0.5, 0.0))
    print(f"{len(store)} images, {model.num_steps} steps\n\n| | S | {' | '.join(SHOWN)} |")
    print("|---|---|" + "---|" * len(SHOWN))
    for (name, s), images in scores.items():
        summaries = {score.score: score for score in summarise(score_cases(images, model.regions))}
        cells = [
            f"{summaries[title].mean:.3f} ({summaries[title].low:.3f} to {summaries[title].high:.3f})"
            for title in SHOWN
        ]
        print(f"| {name} | {s} | {' | '.join(cells)} |")


def perfect_samples(store: SyntheticStore, index: int, number: int, seed: int) -> Tensor:
    """Draw masks (S, K, H, W) from the distribution of an image's raters."""
    generator = keyed_generator(seed, "perfect", store.ids[index])
    modes = torch.multinomial(torch.tensor(MODE_PROBABILITIES), number, True, generator=generator)
    return store.mode_masks(index, store.native_size)[modes].float()


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
