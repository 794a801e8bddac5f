"""Whether entries are what they say: verified by their hashes and a stored example, or trained again."""

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

#: Mean difference of a probability: convolutions differ in their last digits between machines, and chains amplify that.
TOLERANCE = 1e-3
_KEY = "example"
_COARSE = 6  # pixels: blobs that differ in size with the grid
_LARGEST = 128  # pixels of a side: models resize what they are given, and examples are to be small


def example_image(model: DiffusionSegmenter) -> torch.Tensor:
    """Return a made-up, smooth input, (1, C, H, W) in [-1, 1]; float16."""
    shape = (1, len(model.image_channels), _COARSE, _COARSE)
    coarse = torch.rand(shape, generator=keyed_generator(_KEY)) * 2 - 1
    size = [min(side, _LARGEST) for side in model.image_size]
    return F.interpolate(coarse, size, mode="bicubic").clamp(-1, 1).half()


def write_example(model: DiffusionSegmenter, path: Path) -> None:
    """Write the made-up input, and what the model makes of it."""
    image = example_image(model)
    path.write_bytes(save({"image": image, "probability": _segment(model, image).half()}))


def _segment(model: DiffusionSegmenter, image: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is made up looks unlike the validation cases
        return model.segment(image.float(), keys=[_KEY]).probability


def verify_entry(source: Source, name: str, trust: Collection[str] = ()) -> float | None:
    """Check an entry's hashes, load it, and segment its stored input.

    Args:
        source: The zoo.
        name: The entry.
        trust: Packages besides diffmedseg whose classes may be built.

    Returns:
        The mean difference from the stored output; None for a recipe, which has none.

    Raises:
        ZooError: If anything is not as it should be; the message says what.
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
        stored = load_file(folder / EXAMPLE)
        difference = float((_segment(model, stored["image"]) - stored["probability"].float()).abs().mean())
    except Exception as error:  # a file can be anything
        raise ZooError(f"{folder / EXAMPLE} cannot be segmented ({error}): export the entry again.") from error
    if not difference <= TOLERANCE:
        raise ZooError(
            f"{name} does not give its stored output: the probability differs by {difference:.4f} on average, and "
            f"{TOLERANCE} is allowed. The code that loads it computes something else than the code that wrote it."
        )
    return difference


def agrees(entry: Entry, rows: Sequence[CaseScore]) -> tuple[float, list[float], bool]:
    """Compare the Dice of an entry's first region with that of another run of its configuration.

    Args:
        entry: What the registry says; trained.
        rows: Scores of the other run's cases.

    Returns:
        The other run's mean, what the entry states (mean and the ends of its interval), and whether it lies within.
    """
    assert entry.metrics is not None
    stated = entry.metrics.scores[entry.regions[0]]["dice"]
    found = next(one.mean for one in summarise(rows) if (one.region, one.score) == (entry.regions[0], "dice"))
    return found, stated, stated[1] <= found <= stated[2]
