"""Dice on ISIC 2017 at 64 px after an hour of one core: ``med-seg-diff-pytorch`` in its own loop, and our models.

Make an environment with both packages: ``python -m venv peer; peer/bin/pip install . med-seg-diff-pytorch``.

- ``peer/bin/python experiments/benchmarks/budget.py train /path/to/isic2017`` trains the remaining models, resumes
  stopped ones, and scores them on the 150 official validation images.
- ``... collect`` collects the scores in budget.csv beside this file.
- ``... table`` prints the scores.

Time is the processor time of the process on all cores, so other programs on the machine have no effect. With a GPU it
is wall-clock time. Reading, validation and checkpoints count, and the test does not. Our models have the ``cpu``
presets, with fewer steps (STEPS) if the preset has too many.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning import Callback, LightningModule, Trainer
from rows import read_rows, with_earlier, write_rows
from timing import best_device
from torch import Tensor
from training import train_run

from diffmedseg.atomic import write_whole
from diffmedseg.data import ISIC2017DataModule
from diffmedseg.data.batch import Batch
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.cases import score_cases, score_image
from diffmedseg.metrics.table import read_cases, write_cases

SCORES = Path(__file__).with_suffix(".csv")
PEER, CONTROL = "peer", "supervised"
MODELS = (PEER, "medsegdiff-v1", "medsegdiff-v2", "medsegdiff-lite", CONTROL)
#: Numbers of steps that fit into an hour of one core, if the preset's 8,000 do not fit. The learning rate has to reach
#: zero.
STEPS = {"medsegdiff-v1": 5750, "medsegdiff-v2": 3500}
COLUMNS = ("dice", "dice_prior", "diversity")
_BEGAN = time.perf_counter()


def _process_seconds() -> float:
    """Return the seconds that this process has used: processor time of all cores, or with a GPU wall-clock time."""
    return time.perf_counter() - _BEGAN if torch.cuda.is_available() else time.process_time()


class ProcessTime(Callback):
    """Ends training before an epoch that would exceed the time limit. The time of resumed runs adds up.

    Args:
        minutes: Time limit in minutes, for all cores together.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds, self.before = 60 * minutes, 0.0
        self.began = _process_seconds()  # a resumed run may end an epoch before it starts one

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the start time of the epoch."""
        self.began = _process_seconds()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if another epoch of the same length would exceed the limit."""
        now = _process_seconds()
        trainer.should_stop |= self.before + now + (now - self.began) > self.seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the used time."""
        return {"used": self.before + _process_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the used time."""
        self.before = state_dict["used"]


def train(
    root: Path,
    runs: Path = Path("runs/budget"),
    minutes: float = 60,
    samples: int = 4,
    steps: int = 10,
    only: list[str] = [],  # noqa: B006
) -> None:
    """Train and score all models without scores.

    Args:
        root: Folder that contains the official folders of ISIC 2017.
        runs: Folder of the runs.
        minutes: Time limit of each model in minutes, for all cores together.
        samples: S of the test.
        steps: Network evaluations per sample.
        only: Keys of MODELS; all if empty.
    """
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]  # for the import of ProcessTime
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    for name in MODELS:
        if only and name not in only:
            continue
        if name == PEER:
            _train_peer(root, runs / PEER, minutes, samples, steps)
            continue
        settings = [
            f"--data.root={root}", "--data.reported=validation", f"--model.num_steps={steps}",
            f"--model.num_samples={samples}", "--data.steps_per_epoch=250", "--trainer.callbacks+=budget.ProcessTime",
            f"--trainer.callbacks.minutes={minutes}",
        ]  # fmt: skip
        settings += [f"--trainer.max_steps={STEPS[name]}"] if name in STEPS else []
        train_run(
            runs,
            name,
            name,
            "isic2017",
            [setting for setting in settings if name != CONTROL or not setting.startswith("--model")],
        )


def _train_peer(root: Path, folder: Path, minutes: float, samples: int, steps: int) -> None:
    """Train the network of med-seg-diff-pytorch with its loss and settings (its README and driver.py), in float32."""
    from med_seg_diff_pytorch import MedSegDiff, Unet

    if (folder / "cases.csv").is_file():
        return
    torch.manual_seed(0)
    device = best_device()
    network = Unet(dim=64, image_size=64, dim_mults=(1, 2, 4, 8))
    peer = MedSegDiff(network, timesteps=1000, sampling_timesteps=steps).to(device)
    optimizer = torch.optim.AdamW(peer.parameters(), 1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    data = ISIC2017DataModule(root, reported="validation", image_size=64)
    data.setup("fit")
    data.setup("test")
    data.configure_targets((), data.info.regions)
    last, before, step = folder / "last.pt", 0.0, 0
    folder.mkdir(parents=True, exist_ok=True)
    if last.is_file():
        state = torch.load(last, device, weights_only=True)
        peer.load_state_dict(state["peer"])
        optimizer.load_state_dict(state["optimizer"])
        before, step = state["used"], state["step"]
        torch.manual_seed(step)  # a resumed run does not repeat the noise of the first steps

    def used() -> float:
        return before + _process_seconds()

    def save(temporary: Path) -> None:
        state = {"peer": peer.state_dict(), "optimizer": optimizer.state_dict(), "used": used(), "step": step}
        torch.save(state, temporary)

    loader = data.train_dataloader()
    loader.sampler.draws_before = lambda: step * data.batch_size  # type: ignore[attr-defined]  # there is no Trainer to count them
    while used() < 60 * minutes:
        for batch in loader:
            image, mask = _peers(data, batch, device)
            optimizer.zero_grad()
            loss = peer(mask, image)
            loss.backward()
            optimizer.step()
            step += 1
            if step % 20 == 0:
                print(f"{PEER}: step {step}, {used() / 60:.1f} minutes, loss {loss.item():.4f}", flush=True)
                write_whole(last, save)
            if used() >= 60 * minutes:
                break
    write_whole(last, save)
    write_cases(score_cases(_score_peer(peer.eval(), data, samples), data.info.regions), folder / "cases.csv")


@torch.inference_mode()
def _score_peer(peer: torch.nn.Module, data: ISIC2017DataModule, samples: int) -> list:
    scores = []
    for batch in data.test_dataloader():
        image, _ = _peers(data, batch, best_device())
        masks = peer.sample(image.repeat_interleave(samples, 0)).clamp(0, 1).unflatten(0, (len(image), samples)).cpu()
        for i, case in enumerate(batch["case"]):
            scores.append(score_image(case, masks[i].mean(0), masks[i], batch["reference"][i], 0.5, 0.0))
    return scores


def _peers(data: ISIC2017DataModule, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images and masks in [0, 1] on the device, for med-seg-diff-pytorch."""
    batch = data.on_after_batch_transfer(data.transfer_batch_to_device({**batch}, device, 0), 0)
    return (batch["image"] + 1) / 2, batch["mask"]


def collect(runs: Path = Path("runs/budget"), output: Path = SCORES) -> None:
    """Collect the scores of all cases. Models that are missing here keep their earlier scores.

    Args:
        runs: Folder of the runs.
        output: The table of scores.
    """
    rows: list[dict[str, object]] = []
    for name in MODELS:
        folder = runs / PEER if name == PEER else runs / name / "version_0"
        if not (folder / "cases.csv").is_file():
            continue
        state = torch.load(folder / "last.pt" if name == PEER else folder / "checkpoints" / "last.ckpt", "cpu")
        steps = state["step"] if name == PEER else state["global_step"]
        used = (state if name == PEER else state["callbacks"][ProcessTime.__qualname__])["used"]
        for case in read_cases(folder / "cases.csv"):
            values = {column: f"{getattr(case, column):.4f}" for column in COLUMNS}
            rows.append({"model": name, "steps": steps, "minutes": f"{used / 60:.0f}", "case": case.case, **values})
    write_rows(with_earlier(rows, output, run=["model"]), output)


def table(scores: Path = SCORES) -> None:
    """Print means with intervals, and the differences from the supervised baseline.

    Args:
        scores: The table of scores.
    """
    rows = read_rows(scores)
    by_model = {name: [row for row in rows if row["model"] == name] for name in MODELS}
    control = {row["case"]: float(row["dice"]) for row in by_model[CONTROL]}
    heads = ("model", "training steps", "minutes", "Dice", "less the control, paired", "prior's Dice", "diversity")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, cases in by_model.items():
        if not cases:
            continue
        dice, prior, diversity = (np.array([float(row[column]) for row in cases]) for column in COLUMNS)
        difference = dice - np.array([control[row["case"]] for row in cases])
        cells = [
            _with_interval(dice),
            _with_interval(difference),
            *(_with_interval(values) for values in (prior, diversity)),
        ]
        print(f"| {name} | {cases[0]['steps']} | {cases[0]['minutes']} | {' | '.join(cells)} |")


def _with_interval(values: np.ndarray) -> str:
    if np.isnan(values).all() or not values.any():
        return ""
    low, high = bootstrap_interval(values)
    return f"{values.mean():.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
