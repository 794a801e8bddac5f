"""Verify entries by their hashes and their stored example, or by training them again."""

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save

from diffmedseg.errors import ZooError
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.metrics.cases import summarise
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.zoo.loading import load_verified
from diffmedseg.zoo.registry import EXAMPLE, PICTURE, Entry
from diffmedseg.zoo.showing import check_picture
from diffmedseg.zoo.source import Source

#: Allowed mean difference of a probability. Convolutions differ between machines in the last digits, and sampling
#: amplifies this.
TOLERANCE = 1e-3
_KEY = "example"
_COARSE = 6  # pixels: side of the coarse noise
_LARGEST = 128  # pixels: longest side, to keep examples small


def example_image(model: DiffusionSegmenter) -> torch.Tensor:
    """Return a smooth random input, (1, C, H, W) in [-1, 1], float16."""
    shape = (1, len(model.image_channels), _COARSE, _COARSE)
    coarse = torch.rand(shape, generator=keyed_generator(_KEY)) * 2 - 1
    size = [min(side, _LARGEST) for side in model.image_size]
    return F.interpolate(coarse, size, mode="bicubic").clamp(-1, 1).half()


def write_example(model: DiffusionSegmenter, path: Path) -> None:
    """Write the example input, and the model's output for it."""
    image = example_image(model)
    path.write_bytes(save({"image": image, "probability": _segment(model, image).half()}))


def _segment(model: DiffusionSegmenter, image: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the example looks unlike the validation cases
        return model.segment(image.float(), keys=[_KEY]).probability


def verify_entry(source: Source, name: str, trust: Collection[str] = ()) -> float | None:
    """Check an entry's hashes, load it, and segment its stored input.

    Args:
        source: The zoo.
        name: The entry.
        trust: Packages besides diffmedseg whose classes may be built.

    Returns:
        The mean difference from the stored output; None for a recipe, which has no output.

    Raises:
        ZooError: If the entry is damaged, or its output differs; the message names the fault.
    """
    folder, entry = source.verified(name)
    if entry.status == "recipe":
        return None
    model = load_verified(name, folder, entry, trust)
    if PICTURE in entry.sha256:
        check_picture(folder / PICTURE)
    if not (folder / EXAMPLE).is_file():
        raise ZooError(f"{folder / EXAMPLE} is missing: export the entry again.")
    try:
        example = load_file(folder / EXAMPLE)
        difference = float((_segment(model, example["image"]) - example["probability"].float()).abs().mean())
    except Exception as error:  # a file can be anything
        raise ZooError(f"{folder / EXAMPLE} cannot be segmented ({error}): export the entry again.") from error
    if not difference <= TOLERANCE:
        raise ZooError(
            f"{name} does not reproduce its stored output: the probability differs by {difference:.4f} on average; at "
            f"most {TOLERANCE} is allowed. The code has changed since the export. Export the entry again."
        )
    return difference


def agrees(entry: Entry, rows: Sequence[CaseScore]) -> tuple[float, list[float], bool]:
    """Compare the Dice of an entry's first region with another run of its configuration.

    Args:
        entry: A trained entry.
        rows: Scores of the other run's cases.

    Returns:
        Mean Dice of the other run; mean and interval ends of the entry; and whether the former is in the interval.
    """
    assert entry.metrics is not None
    stated = entry.metrics.scores[entry.regions[0]]["dice"]
    dice = next(s.mean for s in summarise(rows) if (s.region, s.score) == (entry.regions[0], "dice"))
    return dice, stated, stated[1] <= dice <= stated[2]
