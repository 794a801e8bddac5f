"""The cards of entries, and the table of all of them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmedseg.zoo.registry import CARD, CASES, PICTURE, Entry


def write_card(
    folder: Path,
    name: str,
    entry: Entry,
    model: dict[str, Any],
    run: dict[str, Any],
    steps: int,
    notes: str,
    unseen: str,
) -> None:
    """Write ``README.md`` of a trained entry.

    Args:
        folder: The entry's folder.
        name: Name of the entry.
        entry: What the registry says of it.
        model: The model's config.
        run: The run's resolved config.
        steps: Optimiser steps of the chosen checkpoint.
        notes: What else to say.
        unseen: Why there is no picture of cases; empty where there is one.
    """
    from diffmedseg.metrics.table import read_cases  # needs torch, which the table below does without

    command = "a script of its author; run.yaml beside this card has the settings of model and data"
    if entry.metrics and entry.metrics.command:
        command = f"`{entry.metrics.command}`, where run.yaml lies beside this card"
    init, batch = model["init_args"], run["data"]["init_args"]["batch_size"]
    scores = "\n".join(
        f"| {region} | {score} | {mean:.4f} | {_interval(low, high, 4)} |"
        for region, found in (entry.metrics.scores if entry.metrics else {}).items()
        for score, (mean, low, high) in found.items()
    )
    cropped = ""
    if init.get("cropped"):
        file = run["data"]["init_args"]["windows"]
        cropped = (
            "- **Windows**: it was trained on windows of pictures, and has to be shown such windows; `predict` takes "
            f"them by --windows, and run.yaml names the file of its own ({file}).\n"
        )
    calibrated, before = "", run["model"]["init_args"].get("least_contrast")
    if init.get("calibration"):
        masks = "its masks are the same" if init.get("least_contrast") == before else "some of its masks became empty"
        calibrated = (
            f"- **Calibrated** on the validation cases after it was scored: {masks}, its probabilities (NLL, Brier "
            "score) are others.\n"
        )
    table = read_cases(folder / CASES)
    patients = len({row.patient or row.case for row in table})
    over = f"{patients} patients" if patients < len({row.case for row in table}) else "cases"
    rows = sorted(table, key=lambda row: row.dice)[:5]
    worst = ", ".join(f"{row.case} ({row.region}) {row.dice:.2f}" for row in rows)
    n = entry.metrics.cases if entry.metrics else 0
    cases = f"{n} case{'s' * (n != 1)}, {entry.metrics.split}" if entry.metrics else ""
    shown = (
        f"It has no pictures of them: {unseen}. Where the data is,\n\n"
        f"    diffmedseg zoo cases {name} --root /path/to/the/data\n\ndraws its worst, median and best cases."
        if unseen
        else f"![its worst, median and best cases]({PICTURE})\n\n"
        f"By {entry.regions[0]}; cases without anything in which nothing was found are left out. Dice is that of the "
        f"run, at native resolution, of two raters against the first, of more against their majority, which may be "
        f"empty; the maps are those of the weights as they are here. Images: {entry.data}, {entry.licences['data']}."
    )
    (folder / CARD).write_text(
        f"""# {name}

{_network(entry, init)}, trained on {entry.data}
for {steps} steps (batch {batch}, precision {run["trainer"]["precision"]}, seed {run["seed_everything"]})
and scored by {command}.
{notes}

Research software: **not for diagnosis**.

    from diffmedseg import load_pretrained

    model = load_pretrained("{name}"{f", trust={entry.packages}" if entry.packages else ""})
    result = model.segment(image)  # a PIL image, an array or a tensor; result.mask has its size

{_contract(entry)}
- **Sampling**: samples: {entry.num_samples}; steps of each: {entry.num_steps}; fused by {entry.fusion}.
{_packages(name, entry)}{cropped}{calibrated}
## Scores

Of the run, before the weights were stored as they are here: means over {cases}, at native
resolution, with 95 % bootstrap intervals over {over}; two empty masks count 1. All, per case: `cases.csv`.

| region | score | mean | 95 % interval |
|---|---|---|---|
{scores}

## Where it fails

The lowest Dice: {worst}.

{shown}

{_unfamiliar(init)}{_licence(entry)}
""",
        encoding="utf-8",
    )


def write_recipe_card(folder: Path, name: str, entry: Entry, run: dict[str, Any], notes: str) -> None:
    """Write ``README.md`` of an entry that nobody has trained yet.

    Args:
        folder: The entry's folder.
        name: Name of the entry.
        entry: What the registry says of it.
        run: All settings of the run.
        notes: What else to say.
    """
    trainer = run["trainer"]
    (folder / CARD).write_text(
        f"""# {name}

A recipe: {_network(entry, run["model"]["init_args"])}, for {entry.data}; all settings: run.yaml beside this card.
**Nobody has trained it yet**: it has no weights, and no numbers.
{notes}

    diffmedseg fit -c run.yaml --data.root /path/to/the/data
    diffmedseg export runs/{run["experiment"]}/version_0 --name {name.rpartition(".")[0]}.mine

- **Training**: {trainer["max_steps"]} steps at most, batch {run["data"]["init_args"]["batch_size"]}, precision \
{trainer["precision"]}, seed {run["seed_everything"]}.
{_contract(entry)}

{_licence(entry)}
""",
        encoding="utf-8",
    )


def _network(entry: Entry, init: Mapping[str, Any]) -> str:
    size = init["denoiser"]["init_args"].get("size")
    title = entry.network or init["denoiser"]["class_path"].rpartition(".")[2]
    return f"{title}, size {size}" if size else title


def _contract(entry: Entry) -> str:
    return f"""\
- **Input**: {len(entry.input.channels)} channels ({", ".join(entry.input.channels)}), resized to \
{entry.input.size[0]} x {entry.input.size[1]} px; float is
  taken as [-1, 1] ({entry.input.normalisation}), uint8 as [0, 255].
- **Learned from**: {entry.learned_from}.
- **Output**: {", ".join(entry.regions)}; foreground where the probability exceeds {entry.threshold}."""


def _unfamiliar(init: Mapping[str, Any]) -> str:
    fitted = init.get("familiarity")
    return f"{familiarity_note(fitted['init_args']['cases'])}\n" if fitted else ""


def familiarity_note(cases: int) -> str:
    """Return what a card says of a warning of unfamiliar images that was fitted to so many validation cases."""
    return (
        "## Unfamiliar images\n\n"
        f"`result.familiarity` says how usual an image is among the {cases} validation cases. `predict` warns\n"
        "of images that look unlike these.\n"
    )


def _packages(name: str, entry: Entry) -> str:
    if not entry.packages:
        return ""
    return (
        f"- **Needs** the package{'s' * (len(entry.packages) > 1)} {', '.join(entry.packages)}, whose code is not part "
        f"of this entry: `load_pretrained({name!r}, trust={entry.packages})`.\n"
    )


def _licence(entry: Entry) -> str:
    return f"""## Licence

Code: {entry.licences["code"]}. Weights: {entry.licences["weights"]}. Data: {entry.licences["data"]}.
{_citation(entry)}"""


def _citation(entry: Entry) -> str:
    works = [work for work in (entry.citation, *entry.papers) if work]
    return f"Please cite: {'; '.join(works)}" if works else ""


def _interval(low: float, high: float, digits: int) -> str:
    return "one case" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def markdown_table(entries: Mapping[str, Entry]) -> str:
    """Return entries as a Markdown table, with Dice of the first region; GED where there are several raters."""
    heads = ("entry", "data", "Dice, 95 % interval", "GED (unbiased)", "cases", "samples x steps")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, entry in sorted(entries.items()):
        dice = ged = cases = ""
        if entry.metrics:
            scores = entry.metrics.scores[entry.regions[0]]
            mean, low, high = scores["dice"]
            dice, cases = f"{mean:.3f} ({_interval(low, high, 3)})", str(entry.metrics.cases)
            ged = f"{scores['ged_unbiased'][0]:.3f}" if "ged_unbiased" in scores else ""
        drawn = f"{entry.num_samples} x {entry.num_steps}"
        lines.append(f"| `{name}` | {entry.data} | {dice or 'recipe: not trained'} | {ged} | {cases} | {drawn} |")
    return "\n".join(lines)
