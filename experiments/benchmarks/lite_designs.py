"""MedSegDiff-Lite's step network: single changes of its design and training, after equal steps.

- ``python experiments/benchmarks/lite_designs.py train '[RUN, OTHER_RUN]'`` freezes the condition networks of finished
  runs (one for each seed, for example of ``encoders.py``). It trains and scores a new step network for every variant
  without scores. So all variants of a seed share the condition network, and only the step network differs.
- ``... collect`` collects the scores of every patient in lite_designs.csv beside this file.
- ``... table`` prints means and paired differences from the first variant.
- ``... cost`` prints operations and times of a step.

Scores are on test images of the runs, evenly spread. These must not be the reported images: use for example the seeded
tenth (--data.reported tenth) or another fold. The last averaged weights are scored: no checkpoint is chosen.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning import Trainer, seed_everything
from patch_borders import jumps, ratios
from rows import paired, read_rows, with_earlier, write_rows
from samples_and_steps import load_run
from timing import hardware, median_seconds
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

from diffmedseg.callbacks import WarmupEMA
from diffmedseg.configurable import to_config
from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.batch import Batch
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.cases import score_cases
from diffmedseg.metrics.images import score_image
from diffmedseg.models import DiffusionSegmenter, MedSegDiffLite
from diffmedseg.models.building import build
from diffmedseg.models.encoders import weights_follow

SCORES = Path(__file__).with_suffix(".csv")
RUN = ("data", "variant", "steps", "seed")
#: Arguments of the segmenter, and of its parts with dots, by name of the variant.
VARIANTS: dict[str, dict[str, object]] = {
    "unchanged": {},
    "apart": {"denoiser.patches": "apart"},
    "interpolated": {"denoiser.patches": "interpolated"},
    "FF-Parser": {"denoiser.ff_parser": True},
    "dynamic encoding": {"denoiser.dynamic_encoding": True},
    "FF-Parser, dynamic encoding": {"denoiser.ff_parser": True, "denoiser.dynamic_encoding": True},
    "no presence": {"denoiser.presence": False},
    "no energy": {"energy_weight": 0.0},
    "neither presence nor energy": {"denoiser.presence": False, "energy_weight": 0.0},
    "energy of 4 samples": {"energy_samples": 4},
    "all raters": {"raters": "all"},
    "Dice term": {"loss.dice": 1.0},
    "input scale 0.1": {"process.input_scale": 0.1},
    "input scale 1": {"process.input_scale": 1.0},
    "even steps": {"reverse.spacing": 1.0},
    "base size": {"denoiser.size": "base"},
}
#: Scores of a case, by title of the column.
TITLES = {
    "dice": "Dice",
    "dice_samples": "Dice of the samples alone",
    "dice_prior": "Dice of the prior",
    "diversity": "diversity",
    "distance_to_raters": "distance to raters",
    "ged_unbiased": "GED (unbiased)",
}
#: Mean difference between neighbouring pixels across borders of patches and within patches, of samples and fused maps.
JUMPS = {"blocks of samples": ("sample_border", "sample_inside"), "blocks of maps": ("map_border", "map_inside")}
SAMPLES = 8


def train(
    bases: list[Path],
    data: str = "isic2017",
    runs: Path = Path("runs/lite_designs"),
    steps: int = 600,
    only: list[str] = [],  # noqa: B006
    cases: int = 100,
) -> None:
    """Train and score every variant on every condition network, unless it has scores.

    Args:
        bases: Folders of finished runs of MedSegDiff-Lite. Their positions in the list are the seeds.
        data: Name of the data set, for the table.
        runs: Folder of the scores.
        steps: Training steps of every step network.
        only: Names of VARIANTS; all if empty.
        cases: Number of scored images.
    """
    for seed, base in enumerate(bases):
        for variant in only or VARIANTS:
            output = runs / data / str(steps) / _name(variant, seed) / "designs.csv"
            if output.is_file():
                continue
            print(output.parent.name, flush=True)
            seed_everything(seed)
            model, source = with_new_steps(base, VARIANTS[variant])
            trainer = Trainer(
                max_steps=steps, precision="bf16-mixed", gradient_clip_val=1.0, callbacks=[WarmupEMA()], logger=False,
                limit_val_batches=0, num_sanity_val_steps=0, use_distributed_sampler=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=output.parent, accelerator="cpu", devices=1,
            )  # fmt: skip
            trainer.fit(model, source)
            score(model.eval(), source, output, cases)


def with_new_steps(base: Path, options: Mapping[str, object]) -> tuple[DiffusionSegmenter, SegmentationDataModule]:
    """Build a run's model and data, with the run's condition network, frozen, and a new step network.

    Args:
        base: The run's folder.
        options: Arguments as in VARIANTS.
    """
    trained, data = load_run(base)
    config = to_config(trained)
    for dotted, value in options.items():
        *parts, name = dotted.split(".")
        arguments = config["init_args"]
        for part in parts:
            arguments = arguments[part]["init_args"]
        arguments[name] = value
    with weights_follow():
        model: DiffusionSegmenter = build(config)
    model.denoiser.condition.load_state_dict(trained.denoiser.condition.state_dict())  # type: ignore[operator, union-attr]
    model.train()
    model.denoiser.condition.requires_grad_(False).eval()  # type: ignore[operator, union-attr]
    return model, data


def _name(variant: str, seed: int) -> str:
    return f"{variant.replace(', ', '_').replace(' ', '-')}.{seed}"


def score(model: DiffusionSegmenter, data: SegmentationDataModule, output: Path, cases: int) -> None:
    """Score evenly spread test images."""
    data.setup("test")
    data.configure_targets((), model.regions)
    with torch.inference_mode():
        rows = [row for batch in evenly_spread(data, cases) for row in _score_batch(model, data, batch)]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_rows(rows, output)


def evenly_spread(data: SegmentationDataModule, cases: int) -> Iterator[Batch]:
    """Yield batches of a number of evenly spread test images."""
    loader = data.test_dataloader()
    total = len(data.stores["test"])
    chosen = np.unique(np.linspace(0, total - 1, min(cases, total)).round().astype(int)).tolist()
    subset = DataLoader(Subset(loader.dataset, chosen), batch_size=loader.batch_size, collate_fn=loader.collate_fn)
    for batch in subset:
        yield data.on_after_batch_transfer(batch, 0)


def _score_batch(model: DiffusionSegmenter, data: SegmentationDataModule, batch: Batch) -> Iterator[dict[str, object]]:
    """Yield a row for each image: its scores, and JUMPS of its samples and fused map on the model's grid."""
    sample_set = model.sample(batch["image"], SAMPLES, keys=batch["case"])
    fused = model.fuse_by(model.fusion, sample_set, model.image_size)
    for i, name in enumerate(batch["case"]):
        reference, samples, mean = batch["reference"][i], fused.samples[i], fused.samples[i].mean(0)
        prior = None if fused.prior is None else fused.prior[i]
        image_score = score_image(name, fused.probability[i], samples, reference, model.threshold, 0.0, prior=prior)
        alone = score_image(name, mean, mean[None], reference, 0.5, 0.0)
        (row, *_), (other, *_) = score_cases([image_score], model.regions), score_cases([alone], model.regions)
        values = {column: getattr(row, column) for column in TITLES if column != "dice_samples"}
        values["dice_samples"] = other.dice
        for columns, maps in zip(JUMPS.values(), (samples, fused.probability[i]), strict=True):
            values |= zip(columns, jumps(maps), strict=True)
        scores = {column: "" if value != value else f"{value:.6g}" for column, value in values.items()}
        yield {"case": name, "patient": data.patient(name), **scores}


def collect(runs: Path = Path("runs/lite_designs"), output: Path = SCORES) -> None:
    """Collect the scores of every patient. Runs that are missing here keep their earlier scores.

    Args:
        runs: Folder of the runs.
        output: The table of scores.

    Raises:
        FileNotFoundError: If there is no scored run.
    """
    rows: list[Mapping[str, object]] = []
    for variant in VARIANTS:
        for path in sorted(runs.glob(f"*/*/{_name(variant, 0)[:-1]}*/designs.csv")):
            run = path.parent
            about = (run.parents[1].name, variant, run.parent.name, run.name.rpartition(".")[2])
            rows += [dict(zip(RUN, about, strict=True)) | row for row in by_patient(read_rows(path))]
    if not rows:
        raise FileNotFoundError(f"There are no scored runs in {runs}: train first.")
    write_rows(with_earlier(rows, output, run=RUN), output)


def by_patient(rows: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    """Return the mean of every score over the images of a patient, which is all that the table needs."""
    patients: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        patients[row["patient"]].append(row)
    columns = [column for column in rows[0] if column not in (*RUN, "case", "patient")]
    means: list[dict[str, object]] = []
    for patient, images in patients.items():
        scores = {column: [float(row[column]) for row in images if row[column]] for column in columns}
        texts = {column: f"{np.mean(values):.6g}" if values else "" for column, values in scores.items()}
        means.append({"patient": patient, "images": len(images), **texts})
    return means


def table(scores: Path = SCORES) -> None:
    """Print the mean of every score by variant, and the paired difference from the first variant after equal steps.

    Scores are averaged over the images of a patient, then over seeds. The 95 % intervals are bootstrapped over
    patients.

    Args:
        scores: The table of scores.
    """
    rows = read_rows(scores)
    for data, steps in sorted({(row["data"], int(row["steps"])) for row in rows}):
        group = [row for row in rows if (row["data"], int(row["steps"])) == (data, steps)]
        variants = list(dict.fromkeys(row["variant"] for row in group))
        titles = [title for title in (*TITLES.values(), *JUMPS) if _values(group, variants[0], title)]
        print(f"\n{data}, {steps} steps\n\n| variant | patients | seeds | {' | '.join(titles)} |")
        print("|---" * (3 + len(titles)) + "|")
        for variant in variants:
            first = _values(group, variant, titles[0])
            counts = [str(len(next(iter(first.values())))), str(len(first))]
            cells = [_cell(_values(group, variant, title), _values(group, variants[0], title)) for title in titles]
            print(f"| {' | '.join([variant, *counts, *cells])} |")


def _cell(scores: Mapping[str, Mapping[str, float]], start: Mapping[str, Mapping[str, float]]) -> str:
    """Format the mean over seeds and patients, and the difference from ``start`` with its interval and by seed."""
    mean = np.mean([np.mean(list(values.values())) for values in scores.values()])
    shared = [seed for seed in scores if seed in start and scores[seed] is not start[seed]]
    differences = [paired(scores[seed], start[seed]) for seed in shared]
    if not differences or not np.any(differences):
        return f"{mean:.4f}"
    average = np.mean(differences, 0)
    low, high = bootstrap_interval(average)
    by_seed = ", ".join(f"{difference.mean():+.4f}" for difference in differences)
    return f"{mean:.4f}, {average.mean():+.4f} ({low:+.4f} to {high:+.4f}; {by_seed})"


def _values(rows: Sequence[Mapping[str, str]], variant: str, title: str) -> dict[str, dict[str, float]]:
    """Return a score of every patient that has the score, by seed: the mean over the patient's images."""
    columns = JUMPS.get(title) or [column for column, label in TITLES.items() if label == title]
    scores: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["variant"] == variant and all(row[column] for column in columns):
            scores[row["seed"]][row["patient"]].append([float(row[column]) for column in columns])
    means = {seed: {name: np.mean(values, 0) for name, values in patients.items()} for seed, patients in scores.items()}
    if title in JUMPS:
        return {seed: ratios(patients) for seed, patients in means.items()}
    return {seed: {name: float(values[0]) for name, values in patients.items()} for seed, patients in means.items()}


def cost(side: int = 128, samples: int = 16, rounds: int = 9) -> None:
    """Print parameters, operations and times of a step of every design. The designs are timed in turns, on one image.

    The operations do not include FFTs, interpolation and element-wise operations; the times include them.

    Args:
        side: Side of the image, in pixels.
        samples: Samples per step.
        rounds: Number of timings per design.
    """
    t, image = torch.full((samples,), 500), torch.zeros(1, 3, side, side)
    sizes, operations, work = {}, {}, {}
    for variant, options in designs().items():
        network = MedSegDiffLite(3, 1, **{"size": "tiny"} | options).eval()  # type: ignore[arg-type]  # any argument
        work[variant] = _step(network, image, t)
        with FlopCounterMode(display=False) as counter:
            work[variant]()
        sizes[variant] = sum(parameter.numel() for parameter in network.parameters())
        operations[variant] = counter.get_total_flops() / samples / 1e6
    seconds = median_seconds(work, rounds)
    print(f"{hardware()}; tiny, {side} px, a step of {samples} samples\n")
    print("| variant | parameters | MFLOP per sample | ms | times the first |\n|---|---|---|---|---|")
    first = next(iter(seconds.values()))
    for variant, taken in seconds.items():
        cells = [f"{sizes[variant]:,}", f"{operations[variant]:.1f}", f"{1e3 * taken:.1f}"]
        print(f"| {' | '.join([variant, *cells, f'{taken / first:.2f}'])} |")


def designs() -> dict[str, dict[str, object]]:
    """Return the arguments of MedSegDiffLite for all variants that change nothing else."""
    start = "denoiser."
    named = {name: options for name, options in VARIANTS.items() if all(key.startswith(start) for key in options)}
    return {name: {key.removeprefix(start): value for key, value in changes.items()} for name, changes in named.items()}


def _step(network: MedSegDiffLite, image: Tensor, t: Tensor) -> Callable[[], object]:
    x_t = torch.randn(len(t), network.mask_channels, *image.shape[-2:])
    with torch.inference_mode():
        condition = network.encode(image)

    def run() -> None:
        with torch.inference_mode():
            network(x_t, t, condition)

    return run


if __name__ == "__main__":
    auto_cli([train, collect, table, cost], as_positional=True)
