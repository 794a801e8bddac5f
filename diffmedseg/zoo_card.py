"""The card of a zoo entry."""

from pathlib import Path
from typing import Any

from diffmedseg.data.configured import build_data
from diffmedseg.metrics.cases import summarise
from diffmedseg.metrics.table import read_cases


def write_card(
    folder: Path, name: str, model: dict[str, Any], run: dict[str, Any], steps: int, learned_from: str, notes: str
) -> None:
    """Write ``README.md`` from what the run recorded.

    Args:
        folder: The entry's folder, with ``cases.csv``.
        name: Name of the entry.
        model: The model's config.
        run: The run's resolved config.
        steps: Optimiser steps of the chosen checkpoint.
        learned_from: The supervision it took.
        notes: What else to say.
    """
    info, init = build_data(run["data"]).info, model["init_args"]
    denoiser, batch = init["denoiser"], run["data"]["init_args"]["batch_size"]
    rows = read_cases(folder / "cases.csv")
    regions = ", ".join(dict.fromkeys(row.region for row in rows))
    scores = "\n".join(
        f"| {s.region} | {s.score} | {s.mean:.4f} | {s.low:.4f} to {s.high:.4f} | {s.cases} |" for s in summarise(rows)
    )
    calibrated, before = "", run["model"]["init_args"].get("least_contrast")
    if init.get("calibration"):
        masks = "its masks are the same" if init.get("least_contrast") == before else "some of its masks became empty"
        calibrated = (
            f"- **Calibrated** on the validation cases after it was scored: {masks}, its probabilities (NLL, Brier "
            "score) are others.\n"
        )
    (folder / "README.md").write_text(
        f"""# {name}

{denoiser["class_path"].rsplit(".", 1)[1]} ({denoiser["init_args"].get("size", "")}), trained on {info.title}
for {steps} steps (batch {batch}, precision {run["trainer"]["precision"]}, seed {run["seed_everything"]})
and scored by `python -m diffmedseg fit -c run.yaml`, where run.yaml lies beside this card.
{notes}

Research software: **not for diagnosis**.

    from diffmedseg import load_pretrained

    model = load_pretrained("{name}")
    result = model.segment(image)  # a PIL image, an array or a tensor; result.mask has its size

- **Input**: {len(init["channels"])} channels ({", ".join(init["channels"])}), resized to {init["image_size"][0]} x
  {init["image_size"][1]} px; float is taken as [-1, 1], uint8 as [0, 255].
- **Learned from**: {learned_from}.
- **Output**: {regions}; foreground where the probability exceeds {init["threshold"]}.
- **Sampling**: {init["num_samples"]} samples, {init["num_steps"]} steps.
{calibrated}
## Scores

Of the run, before the weights were stored as they are here: means over the data set's reported split at native
resolution, with 95 % bootstrap intervals over cases; two empty masks count 1. Per case: `cases.csv`.

| region | score | mean | 95 % interval | cases |
|---|---|---|---|---|
{scores}

## Licence

Data: {info.licence}. Weights and code: Apache-2.0. Please cite: {info.citation}.
"""
    )
