"""What a graph has to be told to segment as its model does: stored as JSON in the graph's metadata."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from diffmedseg.errors import ExportError
from diffmedseg.noise_input import NoiseInput

#: Key of the contract in the metadata of a graph.
KEY = "diffmedseg"
FORMAT = 1


@dataclass(frozen=True)
class Contract:
    """The contract of a graph.

    Attributes:
        model: What the model was loaded by, such as the name of a zoo entry.
        title: What people call the network.
        graph: What the graph computes: ``sampler``, ``encode`` or ``step``.
        channels: Names of the image's channels, in order.
        regions: Names of the mask's regions, in order.
        nested: Whether each region lies within the one before it.
        image_size: Height and width of the model's grid, in pixels.
        input: How an image becomes the graph's input.
        noise: Inputs of noise of the sampler, in the order in which a sample's stream gives them.
        num_samples: S that the model takes by default.
        num_steps: Network evaluations per sample, unrolled in the graph.
        seed: Seed of the noise.
        threshold: Foreground is where the calibrated probability exceeds it.
        calibration: ``{class_path, init_args}`` of what maps the probability; None for nothing.
        contours: Levels of the ``inner`` and the ``outer`` contour, by region; a level of None is that of an empty
            contour. None where the model has none.
        cropped: Whether images have to be windows of pictures, as those around an optic disc.
        steps: Of ``step``: ``levels`` t of the sampler's steps, and the ``weights`` of the first x_t and of the x_0
            before, for the x_t of each step but the first.
        intended_use: What the model is for.
        version: Version of diffmedseg that wrote it.
    """

    model: str
    title: str
    graph: Literal["sampler", "encode", "step"]
    channels: tuple[str, ...]
    regions: tuple[str, ...]
    nested: bool
    image_size: tuple[int, int]
    input: str
    noise: tuple[NoiseInput, ...]
    num_samples: int
    num_steps: int
    seed: int
    threshold: float
    calibration: Mapping[str, Any] | None = None
    contours: Mapping[str, list[float | None]] | None = None
    cropped: bool = False
    steps: Mapping[str, Any] | None = None
    intended_use: str = "Research. Not for diagnosis."
    version: str = ""
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        """Return the contract as JSON; floats keep every bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Read the contract back.

        Raises:
            ExportError: If it is no contract, or that of a later version.
        """
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT:
                raise ExportError(
                    f"The graph has format {stored['format']}; this version of diffmedseg reads format {FORMAT}: "
                    "install the version that wrote it, or export again."
                )
            known = {name: stored[name] for name in (one.name for one in fields(cls))}
            known["noise"] = tuple(NoiseInput(n["name"], n["kind"], tuple(n["shape"])) for n in stored["noise"])
            for name in ("channels", "regions", "image_size"):
                known[name] = tuple(stored[name])
            return cls(**known)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ExportError(f"The graph's metadata is damaged ({error!r}): export the model again.") from error
