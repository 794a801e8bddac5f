"""The cards of entries, and the table of all entries.

A card is generated from the files of its entry and from the registry, so it can be written again at any time.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diffmedseg.atomic import write_alone
from diffmedseg.wording import count
from diffmedseg.zoo.front_matter import front_matter
from diffmedseg.zoo.registry import CARD, CASES, CONFIG, PICTURE, RUN, Entry, Metrics
from diffmedseg.zoo.robustness import robustness_section

if TYPE_CHECKING:
    from diffmedseg.metrics.scores import CaseScore

_PSEUDO_MASKS = "**These scores compare with pseudo masks, not with true masks.**"
_LOWEST = 5  # number of cases that the card names


def write_card(folder: Path, name: str, entry: Entry) -> None:
    """Write ``README.md`` of an entry, with the front matter of the Hugging Face Hub.

    Args:
        folder: The entry's folder, with all its other files.
        name: Name of the entry.
        entry: Facts of the entry in the registry.
    """
    run = yaml.safe_load((folder / RUN).read_text(encoding="utf-8"))
    if entry.status == "recipe":
        parts = _recipe_parts(name, entry, run)
    else:
        parts = _parts(folder, name, entry, yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")), run)
    text = front_matter(name, entry) + "\n" + "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
    write_alone(folder / CARD, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _parts(folder: Path, name: str, entry: Entry, model: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """Return the paragraphs and sections of a trained entry's card, in order."""
    init = model["init_args"]
    trust = f", trust={entry.packages}" if entry.packages else ""
    return [
        f"# {name}",
        f"{_network(entry, init)}, trained on {entry.data}. Version {entry.version}.",
        "Research software: **not for diagnosis**.",
        entry.notes,
        "## Use",
        f"""    from diffmedseg import load_pretrained

    model = load_pretrained("{name}"{trust})
    result = model.segment(image)  # a PIL image, an array or a tensor; result.mask has its size""",
        _contract(entry, _cropped(init, run)),
        _scores(folder, entry),
        _failures(folder, name, entry),
        robustness_section(folder),
        _calibration(init, run),
        _weights(entry),
        _training(entry, run),
        _licence(entry),
        _changelog(entry),
    ]


def _recipe_parts(name: str, entry: Entry, run: dict[str, Any]) -> list[str]:
    """Return the paragraphs and sections of a recipe's card, in order."""
    trainer = run["trainer"]
    return [
        f"# {name}",
        f"A recipe: {_network(entry, run['model']['init_args'])}, for {entry.data}. `run.yaml` in this folder has all "
        "settings. **Nobody has trained it yet**: it has no weights and no scores.",
        entry.notes,
        "## Use",
        f"""    diffmedseg fit -c run.yaml --data.root /path/to/the/data
    diffmedseg export runs/{run["experiment"]}/version_0 --name {name.rpartition(".")[0]}.mine""",
        f"Training takes at most {trainer['max_steps']} steps (batch {run['data']['init_args']['batch_size']}, "
        f"precision {trainer['precision']}, seed {run['seed_everything']}).",
        _contract(entry),
        _licence(entry),
        _changelog(entry),
    ]


def _network(entry: Entry, init: Mapping[str, Any]) -> str:
    arguments = init["denoiser"]["init_args"]
    title = entry.network or init["denoiser"]["class_path"].rpartition(".")[2]
    settings = [f", {key} {arguments[key]}" for key in ("size", "encoder") if arguments.get(key)]
    return title + "".join(settings)


def _contract(entry: Entry, windows: str = "") -> str:
    """Return the inputs and outputs of an entry as a table."""
    channels, (height, width) = ", ".join(entry.input.channels), entry.input.size
    packages = ", ".join(entry.packages)
    rows = {
        "Input": f"{count(len(entry.input.channels), 'channel')} ({channels}), resized to {height} x {width} px. "
        f"Float images are read as [-1, 1] ({entry.input.normalisation}), uint8 images as [0, 255].",
        "Output": f"{', '.join(entry.regions)}. Foreground is where the probability exceeds {entry.threshold:.4g}.",
        "Sampling": f"{count(entry.num_samples, 'sample')} of {count(entry.num_steps, 'step')}, fused by "
        f"{entry.fusion}.",
        "Learned from": f"{entry.learned_from}.",
        "Windows": windows,
        "Needs": packages
        and f"the code of {packages}, which is not part of this entry: pass `trust={entry.packages}`.",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {text} |" for key, text in rows.items() if text)])


def _cropped(init: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    if not init.get("cropped"):
        return ""
    return (
        "The model was trained on windows of pictures, so give it such windows: `predict --windows FILE`. "
        f"The windows of its training are in {run['data']['init_args']['windows']}."
    )


def _scores(folder: Path, entry: Entry) -> str:
    from diffmedseg.metrics.table import read_cases

    if entry.metrics is None:
        return ""
    cases = read_cases(folder / CASES)
    patients = len({row.patient or row.case for row in cases})
    units = f"{patients} patients" if patients < len({row.case for row in cases}) else "cases"
    rows = [
        f"| {region} | {score} | {mean:.4f} | {_interval(low, high, 4)} |"
        for region, scores in entry.metrics.scores.items()
        for score, (mean, low, high) in scores.items()
    ]
    table = "\n".join(["| region | score | mean | 95 % interval |", "|---|---|---|---|", *rows])
    metrics, fewer = entry.metrics, _fewer_cases(cases, entry.metrics)
    warning = f"{_PSEUDO_MASKS} Their origin: {metrics.pseudo_masks}.\n\n" if metrics.pseudo_masks else ""
    return f"""## Scores

{warning}{table}

Means over {count(metrics.cases, "case")} of the split {metrics.split}{fewer}. Scores were computed at native
resolution, with the weights before rounding. Intervals are bootstrap intervals over {units}. Two empty masks
score 1. `cases.csv` has the scores of every case."""


def _fewer_cases(rows: "Sequence[CaseScore]", metrics: Metrics) -> str:
    """Name the scores that some of the cases lack, such as GED where a case has a single rater."""
    numbers = {
        (region, score): sum(row.region == region and not math.isnan(getattr(row, score)) for row in rows)
        for region, scores in metrics.scores.items()
        for score in scores
    }
    fewer = [f"{score} of {region}: {number}" for (region, score), number in numbers.items() if number < metrics.cases]
    return f", or over fewer cases that have the score ({', '.join(fewer)})" if fewer else ""


def _failures(folder: Path, name: str, entry: Entry) -> str:
    from diffmedseg.metrics.table import read_cases  # needs torch; the table below does not

    rows = sorted(read_cases(folder / CASES), key=lambda row: row.dice)[:_LOWEST]
    lowest = ", ".join(f"{row.case} ({row.region}) {row.dice:.2f}" for row in rows)
    picture = _picture(entry) if PICTURE in entry.sha256 else (
        f"There is no picture of these cases: {entry.unpictured or 'the author left it out'}. If you have the data, "
        "this command draws the worst, median and best cases:\n\n"
        f"    diffmedseg zoo cases {name} --root /path/to/the/data"
    )  # fmt: skip
    return f"## Where it fails\n\nThe lowest Dice: {lowest}.\n\n{picture}"


def _picture(entry: Entry) -> str:
    link = f", {entry.url}" if entry.url else ""
    return f"""![the worst, median and best cases]({PICTURE})

Blue: the masks of the raters. Orange: the mask of the model. Cases are chosen by the Dice of {entry.regions[0]}.
Cases in which both masks are empty are left out. Dice was computed in the test of the run, at native resolution. With
two raters the reference is the first rater; with more raters it is their majority. The maps come from the stored
weights.

Images: {entry.data} ({entry.citation}{link}), licence {entry.licences["data"]}. The images were resized, and outlines
were drawn on them."""


def _calibration(init: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the section on fits to validation cases after training."""
    lines = []
    if init.get("calibration"):
        trained_contrast = run["model"]["init_args"].get("least_contrast")
        masks = "did not change" if init.get("least_contrast") == trained_contrast else "changed: some became empty"
        lines.append(f"- **Calibrated** probabilities, fitted after the model was scored. Its masks {masks}.")
    if init.get("conformal"):
        fit = init["conformal"]["init_args"]
        lines.append(
            f"- **Conformal contours**, fitted to {count(fit['cases'], 'case')}: in {100 * fit['coverage']:.0f} % of "
            f"new cases, the outer contour contains at least {100 * fit['share']:.0f} % of the region."
        )
    if init.get("familiarity"):
        cases = init["familiarity"]["init_args"]["cases"]
        lines.append(
            f"- **Unfamiliar images**: `result.familiarity` is low if an image looks unlike the {cases} validation "
            "cases. `predict` warns of such images."
        )
    return "## Fitted to validation cases\n\n" + "\n".join(lines) if lines else ""


def _weights(entry: Entry) -> str:
    summary = f" {entry.storage.summary()}" if entry.storage else ""
    return f"## Weights\n\n{entry.bytes / 1e6:.1f} MB of safetensors.{summary}"


def _training(entry: Entry, run: Mapping[str, Any]) -> str:
    batch, trainer = run["data"]["init_args"]["batch_size"], run["trainer"]
    steps = f"The weights are from optimiser step {entry.steps}. " if entry.steps else ""
    reproduction = "A script of the author trained it. `run.yaml` has the settings of model and data."
    if entry.metrics and entry.metrics.command:
        reproduction = f"`{entry.metrics.command}` trains and scores it again. `run.yaml` is in this folder."
    text = f"{steps}Batch {batch}, precision {trainer['precision']}, seed {run['seed_everything']}."
    return f"## Training\n\n{text} {reproduction}\n\n{_versions(entry)}"


def _versions(entry: Entry) -> str:
    names = [name for name in entry.exported_with | entry.trained_with]
    if not names:
        return ""
    rows = [
        f"| {n} | {entry.trained_with.get(n, 'unknown')} | {entry.exported_with.get(n, 'unknown')} |" for n in names
    ]
    return "\n".join(["| package | trained with | exported with |", "|---|---|---|", *rows])


def _licence(entry: Entry) -> str:
    works = [work for work in (entry.citation, *entry.papers) if work]
    cite = f"\n\nPlease cite: {'; '.join(works)}" if works else ""
    data = f"{entry.data}, {entry.licences['data']}{f' ({entry.url})' if entry.url else ''}"
    return f"""## Licence

Code: {entry.licences["code"]}. Weights: {entry.licences["weights"]}. Data: {data}.{cite}"""


def _changelog(entry: Entry) -> str:
    return "## Changes\n\n" + "\n".join(f"- {line}" for line in entry.changelog) if entry.changelog else ""


def _interval(low: float, high: float, digits: int) -> str:
    return "one case" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def markdown_table(entries: Mapping[str, Entry]) -> str:
    """Return entries as a Markdown table, with Dice of the first region, and GED for data with several raters."""
    heads = ("entry", "data", "Dice, 95 % interval", "GED (unbiased)", "cases", "samples x steps")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, entry in sorted(entries.items()):
        dice = ged = cases = ""
        if entry.metrics:
            scores = entry.metrics.scores[entry.regions[0]]
            mean, low, high = scores["dice"]
            dice, cases = f"{mean:.3f} ({_interval(low, high, 3)})", str(entry.metrics.cases)
            dice += ", of pseudo masks" if entry.metrics.pseudo_masks else ""
            ged = f"{scores['ged_unbiased'][0]:.3f}" if "ged_unbiased" in scores else ""
        sampling = f"{entry.num_samples} x {entry.num_steps}"
        lines.append(f"| `{name}` | {entry.data} | {dice or 'recipe: not trained'} | {ged} | {cases} | {sampling} |")
    return "\n".join(lines)
