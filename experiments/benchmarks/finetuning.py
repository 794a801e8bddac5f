"""Fine-tuning and training from scratch, with the same small number of steps, at 64 px.

- ``python experiments/benchmarks/finetuning.py train /path/to/data`` trains and tests all runs without scores.
- ``... collect`` collects the scores of every case in finetuning.csv beside this file.
- ``... table`` prints the scores.

The data folder contains ``isic2016``, ``isic2017`` and ``chase`` with their official names.

Nearly all images of ISIC 2016 are also in ISIC 2017, so the zoo's entry has seen them. The source for ISIC 2016 is
therefore a separate run: the entry's recipe on ISIC 2017 without these images.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonargparse import auto_cli
from lightning import Trainer, seed_everything
from rows import read_rows, with_earlier, write_rows
from safetensors.torch import load_file, save_file

from diffmedseg.callbacks import CaseMetrics, WarmupEMA
from diffmedseg.data import FileNames, PictureDataModule, SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.source import Source
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.models.finetuning import initialise
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.zoo import build, current_source, load_pretrained

SCORES = Path(__file__).with_suffix(".csv")
ISIC, CHASE = "medsegdiff-lite_isic2017.cpu64", "medsegdiff-lite_chase.cpu512"
APART = "isic2017-apart"  # the entry's recipe without the images of ISIC 2016
APART_STEPS = 2000
STEPS = (100, 300)
FOLDS = 2  # one half of the patients for training, the other half for the test, and the reverse
WARMUP = 20  # steps; with the recipe's 100 steps, shorter runs would be only a warm-up
SEEN = ", seen"  # cases that the source has seen
COLUMNS = ("dice", "dice_prior", "cl_dice", "diversity")
SCRATCH, PRETRAINED, SLOW = "scratch", "pretrained", "pretrained-slow"
#: Factor on the recipe's learning rate, by start of the training.
RATES = {SCRATCH: 1.0, PRETRAINED: 1.0, SLOW: 0.1}


@dataclass(frozen=True)
class Transfer:
    """A source and a target.

    Attributes:
        source: Entry or run with the initial weights.
        recipe: Entry with the settings of the model.
        target: Make the data of a fold from the data folder and the fold's number.
        untrained: Whether to test the source without training, too. It needs the target's regions.
        scratch: Whether to train from scratch, too; False if another transfer has the same runs from scratch.
    """

    source: str
    recipe: str
    target: Callable[[Path, int], SegmentationDataModule]
    untrained: bool = True
    scratch: bool = True


def _isic(root: Path, part: str, masks: str, **settings: Any) -> PictureDataModule:
    layout = FileNames(f"{part}/(?P<id>ISIC_\\d{{7}})", {"lesion": [masks + "/{id}_Segmentation"]})
    facts = Source(root.name, root.name, "CC0", "", "", "")
    return PictureDataModule(root, facts, layout, val_fraction=0, eval_batch_size=10, **settings)


def isic2016(data: Path, fold: int) -> SegmentationDataModule:
    """Divide the pairs of ISIC 2016's training set into two folds."""
    return _isic(
        data / "isic2016", "ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth",
        folds=2, fold=fold,
    )  # fmt: skip


def isic2017_apart(data: Path) -> SegmentationDataModule:
    """Make data to train on ISIC 2017's training set without the images of ISIC 2016."""
    shared = "|".join(path.stem for path in sorted((data / "isic2016").glob("*_Data/*.jpg")))
    splits = {"apart": {"train": f"(?!{shared}).*", "test": f"({shared})"}}
    return _isic(
        data / "isic2017", "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth",
        published=splits, split_by="apart",
    )  # fmt: skip


def _chase(data: Path, **settings: Any) -> SegmentationDataModule:
    config = yaml.safe_load((current_source().entry_folder(CHASE) / "run.yaml").read_text())["data"]
    config["init_args"] |= {"root": str(data / "chase"), "val_fraction": 0.0, **settings}
    return build_data(config)


def chase(data: Path, fold: int) -> SegmentationDataModule:
    """Divide the ten children of CHASE into two folds."""
    return _chase(data, folds=2, fold=fold)


def chase_unseen(data: Path, fold: int) -> SegmentationDataModule:
    """Make data to train on one of the two children that the entry has not seen, and test the other child."""
    train, test = ("02", "06") if fold == 0 else ("06", "02")
    splits = {"unseen": {"train": f"Image_{train}.", "test": f"Image_{test}."}}
    return _chase(data, published=splits, split_by="unseen")


TRANSFERS = {
    "ISIC 2017 to 2016": Transfer(APART, ISIC, isic2016),
    f"ISIC 2017 to 2016{SEEN}": Transfer(ISIC, ISIC, isic2016, scratch=False),
    "ISIC 2017 to CHASE": Transfer(ISIC, CHASE, chase, untrained=False),
    "CHASE to another child": Transfer(CHASE, CHASE, chase_unseen),
}


def train(
    data: Path,
    runs: Path = Path("runs/finetuning"),
    seeds: list[int] = [0, 1],  # noqa: B006
    only: list[str] = [],  # noqa: B006
    starts: list[str] = [*RATES],  # noqa: B006
    steps: list[int] = [0, *STEPS],  # noqa: B006
) -> None:
    """Train and test all runs without scores.

    Args:
        data: Folder that contains the data sets.
        runs: Folder of the runs.
        seeds: Seeds of the initial weights, the order and the noise.
        only: Names of TRANSFERS; all if empty.
        starts: Keys of RATES: starts of the training, each with its learning rate.
        steps: Numbers of training steps.
    """
    for run in _plan(seeds, only, starts, steps):
        folder = runs / run.folder
        if (folder / "cases.csv").is_file():
            continue
        print(folder, flush=True)
        transfer = TRANSFERS[run.transfer]
        target = transfer.target(data, run.fold)
        model = _model(transfer.recipe, target, run.seed, RATES[run.start])
        if run.start != SCRATCH:
            print(initialise(model, _source(transfer.source, data, runs), transfer.source), flush=True)
        _fit_and_test(model, target, run.steps, folder)


@dataclass(frozen=True)
class Run:
    """A training run and its test. It is a row of the plan; its fields are also columns of the table of scores."""

    transfer: str
    start: str
    steps: int
    seed: int
    fold: int

    @property
    def folder(self) -> Path:
        """Folder of the run, below the folder of all runs."""
        transfer = self.transfer.replace(", ", "_").replace(" ", "-")
        return Path(transfer) / f"{self.start}.{self.steps}.{self.seed}.{self.fold}"


def _plan(seeds: list[int], only: list[str], starts: list[str], steps: list[int]) -> Iterator[Run]:
    for seed, name, start, count in product(seeds, only or TRANSFERS, starts, steps):
        transfer = TRANSFERS[name]
        if start == SCRATCH and (count == 0 or not transfer.scratch):
            continue
        if count == 0 and (start, seed, transfer.untrained) != (PRETRAINED, seeds[0], True):
            continue  # without training there is no rate, and only a seed of the samples' noise
        yield from (Run(name, start, count, seed, fold) for fold in range(FOLDS))


def _model(recipe: str, data: SegmentationDataModule, seed: int, rate: float = 1.0) -> DiffusionSegmenter:
    """Build an entry's model with new weights, for the data's image size.

    Args:
        recipe: Name of the entry.
        data: The training data.
        seed: Seed of the weights, the noise and the order of the data.
        rate: Factor on the learning rate.
    """
    seed_everything(seed, verbose=False)
    data.seed = seed
    config = yaml.safe_load((current_source().entry_folder(recipe) / "config.yaml").read_text())
    config["init_args"] |= {"image_size": data.image_size, "warmup_steps": WARMUP, "seed": seed}
    config["init_args"]["optimizer"]["init_args"]["lr"] *= rate
    model: DiffusionSegmenter = build(config)
    return model


def _fit_and_test(model: DiffusionSegmenter, data: SegmentationDataModule, steps: int, folder: Path) -> None:
    """Train, and test the last averaged weights. No checkpoint is chosen, so no case has to be held out for this."""
    trainer = Trainer(
        accelerator="cpu", precision="bf16-mixed", gradient_clip_val=1.0, max_steps=steps, limit_val_batches=0,
        callbacks=[WarmupEMA(), CaseMetrics()], use_distributed_sampler=False, default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if steps:
        trainer.fit(model, data)
    trainer.test(model, data, verbose=False)


def _source(name: str, data: Path, runs: Path) -> DiffusionSegmenter:
    """Load a source, or train it."""
    if name != APART:
        return load_pretrained(name)
    weights, target = runs / f"{APART}.safetensors", isic2017_apart(data)
    model = _model(ISIC, target, 0)
    if not weights.is_file():
        _fit_and_test(model, target, APART_STEPS, runs / APART)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    model.load_state_dict(load_file(weights))
    return model


def collect(runs: Path = Path("runs/finetuning"), output: Path = SCORES) -> None:
    """Collect the scores of every case. Runs that are missing here keep their earlier scores.

    Args:
        runs: Folder of the runs.
        output: The table of scores.
    """
    rows = []
    for run in _plan([*range(10)], [], [*RATES], [0, *STEPS]):
        path = runs / run.folder / "cases.csv"
        for case in read_rows(path) if path.is_file() else []:
            scores = {name: f"{float(case[name]):.4f}" if case[name] else "" for name in COLUMNS}
            rows.append({**asdict(run), "case": case["case"], "region": case["region"], **scores})
    write_rows(with_earlier(rows, output, run=[field.name for field in fields(Run)]), output)


def table(scores: Path = SCORES) -> None:
    """Print mean Dice by start and number of steps, and the paired difference from training from scratch.

    Scores are averaged over seeds first. The 95 % intervals are bootstrapped over patients, since both eyes of a child
    are alike.

    Args:
        scores: The table of scores.
    """
    heads = ["transfer", "steps", "start", "patients (cases)", "seeds", "Dice", "less scratch", "by seed"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    rows = read_rows(scores)
    keys = {(row["transfer"], int(row["steps"]), row["start"]) for row in rows}
    for name, steps, start in sorted(keys, key=lambda key: (list(TRANSFERS).index(key[0]), key[1], key[2])):
        by_seed = _dice(rows, name, start, steps)
        scratch = {} if start == SCRATCH else _dice(rows, name, SCRATCH, steps)
        differences = [_by_patient(by_seed[seed]) - _by_patient(scratch[seed]) for seed in by_seed if seed in scratch]
        first = next(iter(by_seed.values()))
        cells = [name, str(steps), start, f"{len(_by_patient(first))} ({len(first)})", str(len(by_seed))]
        cells += [_with_interval(np.mean([_by_patient(dice) for dice in by_seed.values()], 0), sign="")]
        cells += [
            _with_interval(np.mean(differences, 0)) if differences else "",
            ", ".join(f"{difference.mean():+.3f}" for difference in differences),
        ]
        print(f"| {' | '.join(cells)} |")


def _dice(rows: Sequence[Mapping[str, str]], transfer: str, start: str, steps: int) -> dict[int, dict[str, float]]:
    """Return the Dice of every case, by seed.

    Raises:
        ValueError: If the seeds have different cases, which cannot be paired.
    """
    by_seed: dict[int, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if (row["transfer"], row["start"], int(row["steps"])) == (transfer, start, steps):
            by_seed[int(row["seed"])][row["case"]] = float(row["dice"])
    cases = {row["case"] for row in rows if row["transfer"] == transfer}
    if short := [seed for seed, dice in by_seed.items() if dice.keys() != cases]:
        raise ValueError(f"{transfer}, {start}, {steps} steps: folds of seeds {short} are missing; train them first.")
    return dict(by_seed)


def _by_patient(dice: Mapping[str, float]) -> np.ndarray:
    """Average the two eyes of a child, ``Image_01L`` and ``Image_01R``. Each other image is a patient."""
    groups: dict[str, list[float]] = defaultdict(list)
    for case in sorted(dice):
        groups[case.rstrip("LR")].append(dice[case])
    return np.array([np.mean(group) for group in groups.values()])


def _with_interval(values: np.ndarray, sign: str = "+") -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
