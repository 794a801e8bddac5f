"""The paper's ablation: MedSegDiff without dynamic encoding, without FF-Parser, without both; Lite and the baseline.

- ``python experiments/benchmarks/ablation.py train isic2017 --root /path/to/isic2017`` trains and scores all runs
  without scores, and resumes stopped runs.
- ``... collect`` collects the scores of every case in ablation.csv beside this file.
- ``... table`` prints means and the paired difference from the whole network, by data set.
- ``... thin SPLITS 7 FEWER`` keeps every seventh test case of a file of splits, so that tests take less time.

Every run has the same number of steps. Its last averaged weights are scored: no checkpoint is chosen. Settings such as
--settings '[--data.reported=tenth]' keep images apart that are reported elsewhere.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from jsonargparse import auto_cli
from rows import paired, read_rows, with_earlier, write_rows
from training import train_run

from diffmedseg.files import read_yaml
from diffmedseg.metrics import bootstrap_interval

SCORES = Path(__file__).with_suffix(".csv")
RUN = ("data", "variant", "image_size", "steps", "seed")
START = "V1"
_NO_ENCODING = "--model.denoiser.dynamic_encoding=false"
_NO_FILTER = "--model.denoiser.ff_parser=false"
#: The model and the arguments of the command line, by name of the variant.
VARIANTS: dict[str, tuple[str, list[str]]] = {
    START: ("medsegdiff", []),
    "without dynamic encoding": ("medsegdiff", [_NO_ENCODING]),
    "without FF-Parser": ("medsegdiff", [_NO_FILTER]),
    "without both": ("medsegdiff", [_NO_ENCODING, _NO_FILTER]),
    "lite": ("medsegdiff-lite", []),
    "supervised": ("supervised", []),
}
#: Scores of a case, by title of the column.
TITLES = {"dice": "Dice", "ged_unbiased": "GED (unbiased)", "diversity": "diversity"}


def train(
    data: str,
    root: Path | None = None,
    runs: Path = Path("runs/ablation"),
    steps: int = 2000,
    image_size: int = 64,
    seeds: list[int] = [0, 1],  # noqa: B006
    only: list[str] = [],  # noqa: B006
    settings: list[str] = [],  # noqa: B006
) -> None:
    """Train and score every variant and seed without scores.

    Args:
        data: Name of the data set, such as isic2017 or lidc.
        root: Folder of the data set; None for $DIFFMEDSEG_DATA/<data>.
        runs: Folder of the runs.
        steps: Training steps of every run.
        image_size: Side of the images in pixels.
        seeds: Seeds of the weights, the order and the noise.
        only: Names of VARIANTS; all when empty.
        settings: Further settings of every run.
    """
    common = [
        *([] if root is None else [f"--data.root={root}"]), f"--data.image_size={image_size}", "--early_stopping=false",
        f"--trainer.max_steps={steps}", f"--data.steps_per_epoch={steps}", "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0", "--logger=csv",
    ]  # fmt: skip
    for seed in seeds:
        for variant in only or VARIANTS:
            model, changes = VARIANTS[variant]
            seeded = [f"--seed_everything={seed}", *common, *settings, *changes]
            train_run(runs / data / f"{image_size}px" / str(steps), _name(variant, seed), model, data, seeded)


def _name(variant: str, seed: int) -> str:
    return f"{variant.replace(' ', '-')}.{seed}"


def collect(runs: Path = Path("runs/ablation"), output: Path = SCORES) -> None:
    """Collect the scores of every case and region. Runs that are missing here keep their earlier scores.

    Args:
        runs: Folder of the runs.
        output: The table of scores.

    Raises:
        FileNotFoundError: If there is no finished run.
    """
    rows: list[Mapping[str, object]] = []
    for variant in VARIANTS:
        for path in sorted(runs.glob(f"*/*px/*/{_name(variant, 0)[:-1]}*/version_0/cases.csv")):
            run, steps, size, data = path.parents[1:5]
            about = (data.name, variant, size.name[:-2], steps.name, run.name.rpartition(".")[2])
            for case in read_rows(path):
                scores = {name: f"{float(case[name]):.4f}" if case.get(name) else "" for name in TITLES}
                who = {"case": f"{case['case']}/{case['region']}", "patient": case.get("patient") or case["case"]}
                rows.append(dict(zip(RUN, about, strict=True)) | who | scores)
    if not rows:
        raise FileNotFoundError(f"There are no finished runs in {runs}: train first.")
    write_rows(with_earlier(rows, output, run=RUN), output)


def table(scores: Path = SCORES) -> None:
    """Print the mean of every score by variant, and the paired difference from START in the same setting.

    Scores are averaged over the cases of a patient, then over seeds. The 95 % intervals are bootstrapped over patients.

    Args:
        scores: The table of scores.
    """
    rows = read_rows(scores)
    for setting in sorted({(row["data"], int(row["image_size"]), int(row["steps"])) for row in rows}):
        group = [row for row in rows if (row["data"], int(row["image_size"]), int(row["steps"])) == setting]
        titles = [name for name in TITLES if any(row[name] for row in group)]
        data, size, steps = setting
        print(f"\n{data}, {size} px, {steps} steps\n\n| variant | patients | seeds | {_heads(titles)} |")
        print("|---" * (3 + len(titles)) + "|")
        for variant in [name for name in VARIANTS if any(row["variant"] == name for row in group)]:
            by_seed = _by_seed(group, variant, titles[0])
            counts = [str(len(next(iter(by_seed.values())))), str(len(by_seed))]
            cells = [_cell(_by_seed(group, variant, name), _by_seed(group, START, name)) for name in titles]
            print(f"| {' | '.join([variant, *counts, *cells])} |")


def _heads(titles: Sequence[str]) -> str:
    return " | ".join(TITLES[name] for name in titles)


def _by_seed(rows: Sequence[Mapping[str, str]], variant: str, score: str) -> dict[str, dict[str, float]]:
    """Return a score of every patient that has the score, by seed: the mean over the patient's cases."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["variant"] == variant and row[score]:
            scores[row["seed"]][row["patient"]].append(float(row[score]))
    return {seed: {name: float(np.mean(values)) for name, values in cases.items()} for seed, cases in scores.items()}


def _cell(scores: Mapping[str, Mapping[str, float]], start: Mapping[str, Mapping[str, float]]) -> str:
    """Format the mean over seeds and patients, and the difference from START with its interval and by seed."""
    if not scores:
        return ""
    mean = np.mean([np.mean(list(values.values())) for values in scores.values()])
    differences = [paired(scores[seed], start[seed]) for seed in scores if seed in start]
    if not differences or not np.any(differences):
        return f"{mean:.4f}"
    average = np.mean(differences, 0)
    low, high = bootstrap_interval(average)
    by_seed = ", ".join(f"{difference.mean():+.4f}" for difference in differences)
    return f"{mean:.4f}, {average.mean():+.4f} ({low:+.4f} to {high:+.4f}; {by_seed})"


def thin(splits: Path, every: int, output: Path) -> None:
    """Write a file of splits with fewer test cases.

    Args:
        splits: File that ``--data.splits`` wrote.
        every: The first test case and every so many after it are kept.
        output: File to write.
    """
    content = read_yaml(splits, as_text=True)
    content["test"] = content["test"][::every]
    output.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


if __name__ == "__main__":
    auto_cli([train, collect, table, thin], as_positional=True)
