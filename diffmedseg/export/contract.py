"""The contract of a graph: the settings that it needs to segment like its model, as JSON in the graph's metadata."""

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
        model: Name by which the model was loaded, such as the name of a zoo entry.
        title: Name of the network for people.
        graph: Kind of the graph: ``sampler``, ``encode`` or ``step``.
        channels: Names of the image's channels, in order.
        regions: Names of the mask's regions, in order.
        nested: Whether each region lies within the previous region.
        image_size: Height and width of the model's grid, in pixels.
        input: Description of the conversion of an image to the graph's input.
        noise: Noise inputs of the sampler, in the order in which the generator of a sample draws them.
        num_samples: The model's default number of samples, S.
        num_steps: Network evaluations per sample, unrolled in the graph.
        seed: Seed of the noise.
        threshold: A pixel is foreground if its calibrated probability exceeds this number.
        calibration: ``{class_path, init_args}`` of the calibration; None for no calibration.
        contours: Levels of the ``inner`` and the ``outer`` contour, by region; a level of None gives an empty contour.
            None if the model has no contours.
        cropped: Whether images have to be windows of pictures, such as windows around an optic disc.
        steps: For a ``step`` graph: the ``levels`` t of the sampler's steps, and the ``weights`` of the first x_t and
            all earlier x_0 in the x_t of each step but the first.
        intended_use: Intended use of the model.
        version: Version of diffmedseg that wrote the graph.
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
        """Return the contract as JSON. Floats keep every bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Read a contract from JSON.

        Raises:
            ExportError: If the text is no contract, or has another format.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ExportError(
                    f"The graph has format {content['format']}; this version of diffmedseg reads format {FORMAT}: "
                    "install the version that wrote it, or export again."
                )
            arguments = {name: content[name] for name in (attribute.name for attribute in fields(cls))}
            arguments["noise"] = tuple(NoiseInput(n["name"], n["kind"], tuple(n["shape"])) for n in content["noise"])
            for name in ("channels", "regions", "image_size"):
                arguments[name] = tuple(content[name])
            return cls(**arguments)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ExportError(f"The graph's metadata is damaged ({error!r}): export the model again.") from error
