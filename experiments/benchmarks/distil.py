"""Distil the chains of a trained MedSegDiff into one or two steps, and measure the remaining Dice and GED.

A deterministic chain is a function of its first noise (Song et al. 2021, arXiv 2010.02502, section 4.2). So a student
can learn the end of the teacher's chains (Luhman & Luhman 2021, arXiv 2101.02388). Its first step starts from the
noise. Its second step, at the level of the teacher's sampler, starts from the result of the first. The student keeps
the teacher's condition network unchanged.

``python experiments/benchmarks/distil.py runs/medsegdiff-lite-synthetic/version_0 --out one_step.ckpt`` trains, prints
the table and writes the student. ``predict``, ``evaluate`` and ``load_checkpoint`` take it like any checkpoint.
"""

import copy
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from samples_and_steps import load_run
from torch import Tensor

from diffmedseg.atomic import write_whole
from diffmedseg.callbacks import WarmupEMA
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.keyed_random import keyed_generator, keyed_normal
from diffmedseg.metrics.cases import score_cases, score_image, summarise
from diffmedseg.models import Condition, MedSegDiffSegmenter

SHOWN = ("dice", "ged_unbiased", "diversity")


def main(
    run: Path,
    iterations: int = 800,
    chains: int = 4,
    teacher_steps: int = 10,
    samples: int = 16,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Distil and print the table.

    Args:
        run: The teacher's run, with DDIM at eta 0, UniPC, or DPM-Solver++.
        iterations: Training steps of the student.
        chains: Chains of each image in a training step.
        teacher_steps: Steps of the teacher's chains.
        samples: S of the table.
        seed: Seed of the student's noise.
        out: File for the student's checkpoint, with one step; None to write none.
    """
    model, data = load_run(run)
    if not (isinstance(model, MedSegDiffSegmenter) and model.denoiser.has_prior and model.process.prediction == "x_0"):
        raise ValueError(f"{run} cannot be distilled: of MedSegDiff, -v2 and -lite that predict x_0 can.")
    if model.reverse.eta or len(model.tiling.parts()) > 1:
        raise ValueError(f"{run} draws noise at each step (eta), or looks through windows: neither can be distilled.")
    student = _distil(model, data, iterations, chains, teacher_steps, seed)
    if out is not None:
        _save(student, run, out)
    print(f"{run}: {len(data.stores['test'])} images, {samples} samples; {iterations} steps of distillation\n")
    print(f"| network | steps | {' | '.join(SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}")
    for name, network in (("teacher", model), ("student", student)):
        for steps in (1, 2) if name == "student" else (1, 2, 4, teacher_steps):
            print(f"| {name} | {steps} | {' | '.join(_score(network, data, samples, steps))} |", flush=True)


def _save(student: MedSegDiffSegmenter, run: Path, path: Path) -> None:
    """Write the teacher's checkpoint with the student's weights and number of steps."""
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    checkpoint["state_dict"] = student.state_dict()
    checkpoint["hyper_parameters"] |= {"num_steps": 1, "val_num_steps": 1}
    write_whole(path, partial(torch.save, checkpoint))


def _distil(
    teacher: MedSegDiffSegmenter,
    data: SegmentationDataModule,
    iterations: int,
    chains: int,
    teacher_steps: int,
    seed: int,
) -> MedSegDiffSegmenter:
    data.setup("fit")
    data.configure_targets((), teacher.regions)
    data.steps_per_epoch = iterations
    student = copy.deepcopy(teacher).train()
    average, ema = copy.deepcopy(teacher).eval(), WarmupEMA(0.995)
    student.denoiser.condition.requires_grad_(False).eval()  # type: ignore[union-attr]  # members with a condition network
    parameters = [p for p in student.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    shape = (teacher.denoiser.mask_channels, *teacher.image_size)
    for iteration, batch in enumerate(data.train_dataloader()):
        image = data.on_after_batch_transfer(batch, 0)["image"]
        generators = [[keyed_generator(seed, "distil", draw, j) for j in range(chains)] for draw in batch["draw"]]
        x_T = keyed_normal(shape, [generator.clone_state() for row in generators for generator in row], image.device)
        with torch.no_grad():
            end = teacher.draw_samples(image, generators, teacher_steps).samples.flatten(0, 1)
        condition = student.denoiser.encode(image)
        loss = _loss(student, x_T, condition, end)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        decay = ema.decay_after(iteration)
        with torch.no_grad():
            for kept, new in zip(average.parameters(), student.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        if iteration % 100 == 0:
            print(f"step {iteration}, loss {loss.item():.4f}", flush=True)
    return average


def _loss(student: MedSegDiffSegmenter, x_T: Tensor, condition: Condition, end: Tensor) -> Tensor:
    """Return the cross-entropy of the first and the second step with the ends of the teacher's chains."""
    process = student.process
    first, middle = student.reverse.levels(process, 2)  # the first of two steps is a DDIM step in all these samplers
    loss, x_t = x_T.new_zeros(()), x_T
    for t in (first, middle):
        logits = student.denoiser(x_t, torch.full((len(x_t),), t, device=x_t.device), condition)
        loss = loss + F.binary_cross_entropy_with_logits(logits, end)
        x_0 = process.to_x_0(logits, x_t, t).detach()
        signal, noise = process.signal_and_noise(t)
        x_t = process.add_noise(x_0, (x_t - signal * x_0) / noise, torch.full((len(x_t),), middle, device=x_t.device))
    return loss


def _score(model: MedSegDiffSegmenter, data: SegmentationDataModule, samples: int, steps: int) -> list[str]:
    images = []
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        result = model.segment(batch["image"], samples, steps, keys=batch["case"])
        for i, case in enumerate(batch["case"]):
            images.append(score_image(case, result.probability[i], result.samples[i], batch["reference"][i], 0.5, 0.0))
    summary = {score.score: score for score in summarise(score_cases(images, model.regions))}
    return [f"{summary[name].mean:.3f} ({summary[name].low:.3f} to {summary[name].high:.3f})" for name in SHOWN
            if name in summary]  # fmt: skip


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
