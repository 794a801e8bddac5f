"""How often do trained models draw a mask that few raters draw?

There is a single image. Most raters outline its core, and few outline the halo around it. Run ``python
experiments/benchmarks/rare_mode.py`` for the table (a quarter of an hour on one idle core).
"""

from collections.abc import Callable

import torch
from jsonargparse import auto_cli
from torch import Tensor

from diffmedseg.diffusion import DiffusionLoss, NoiseProcess
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.models import DiffusionSegmenter, MedSegDiffLite, MedSegDiffSegmenter, SSNSegmenter, StochasticUNet

SIZE = (32, 32)
RARE = (0.1, 0.2, 0.5)
STEPS = (1, 4)


def rings() -> Tensor:
    """Return the masks of core and halo, (2, 1, H, W), in {0, 1}."""
    masks = torch.zeros(2, 1, *SIZE)
    masks[0, :, 12:20, 12:20] = masks[1, :, 6:26, 6:26] = 1
    return masks


def train(model: DiffusionSegmenter, rare: float, steps: int, rows: int = 8) -> None:
    """Train a model on the image, with newly drawn raters at every step."""
    masks = rings()
    image = (2 * masks[1:] - 1).expand(rows, -1, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rater = (torch.rand(rows, generator=keyed_generator("raters", step)) < rare).long()
        draws = list(range(step * rows, (step + 1) * rows))
        loss = model.training_loss({"image": image, "mask": masks[rater], "draw": draws})
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def drawn(model: DiffusionSegmenter, num_samples: int, num_steps: int) -> tuple[float, float]:
    """Return the share of samples nearer to the halo than to the core, and the share of samples between the two."""
    masks = rings()
    ring = (masks[1] - masks[0])[0].bool()
    samples = model.segment(2 * masks[1:] - 1, num_samples, num_steps, keys=["image"]).binary_samples
    share = samples[0, :, 0, ring].float().mean(1)
    return float((share > 0.5).float().mean()), float(((share > 0.1) & (share < 0.9)).float().mean())


def models() -> dict[str, Callable[[int], DiffusionSegmenter]]:
    """Return functions that make each model from a seed, by name."""

    def lite(seed: int, **options: str) -> DiffusionSegmenter:
        return MedSegDiffSegmenter(
            MedSegDiffLite(1, 1, "tiny", **options),  # type: ignore[arg-type]  # literal types
            NoiseProcess(schedule="cosine", input_scale=0.3, prediction="x_0"),  # as for several raters
            loss=DiffusionLoss(bce=1.0, dice=0.0),
            image_size=SIZE,
            seed=seed,
        )

    def ssn(seed: int, mc_samples: int) -> DiffusionSegmenter:
        return SSNSegmenter(StochasticUNet(1, 1, "tiny"), mc_samples, image_size=SIZE, seed=seed)

    return {
        "ssn, 20 samples in training": lambda seed: ssn(seed, 20),
        "ssn, 100 samples in training": lambda seed: ssn(seed, 100),
        "medsegdiff-lite": lite,
        "medsegdiff-lite, prior: samples": lambda seed: lite(seed, prior="samples"),
    }


def main(train_steps: int = 500, samples: int = 1000, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Print the table.

    Args:
        train_steps: Training steps of each model.
        samples: Samples of each model.
        seeds: Seeds. Each model is trained once with each seed.
    """
    print(f"Halo drawn of {samples} samples, and at most neither, by seed {seeds}; {train_steps} training steps\n")
    print("| model | steps | " + " | ".join(f"truth {rare:.0%}" for rare in RARE) + " |")
    print("|---|---|" + "---|" * len(RARE))
    for name, make in models().items():
        shares: dict[tuple[int, float], list[tuple[float, float]]] = {}
        steps = (1,) if name.startswith("ssn") else STEPS
        for rare in RARE:
            for seed in seeds:
                torch.manual_seed(seed)
                model = make(seed)
                train(model, rare, train_steps)
                for n in steps:
                    shares.setdefault((n, rare), []).append(drawn(model, samples, n))
        for n in steps:
            print(f"| {name} | {n} | " + " | ".join(_cell(shares[n, rare]) for rare in RARE) + " |", flush=True)


def _cell(shares: list[tuple[float, float]]) -> str:
    halo, neither = zip(*shares, strict=True)
    return f"{', '.join(f'{share:.1%}' for share in halo)} ({max(neither):.0%})"


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
