"""Segment with an exported graph, with onnxruntime and NumPy alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import ExportError
from diffmedseg.export.arrays import Floats, calibrate, contour, resize_soft, to_grid, to_model_range
from diffmedseg.export.contract import KEY, Contract
from diffmedseg.export.noise import draw_noise

if TYPE_CHECKING:
    import onnxruntime

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class ArraySegmentation:
    """A set of masks for each image, as NumPy arrays; see :class:`~diffmedseg.segmentation.Segmentation`.

    Attributes:
        samples: (B, S, K, h, w) on the model's grid: soft masks in [0, 1] with the decision level 0.5.
        probability: (B, K, H, W), in [0, 1], at the input's size: the fused samples, calibrated.
        uncertainty: (B, K, H, W), in [0, 0.5]: the standard deviation of a pixel over the samples.
        mask: (B, K, H, W): where ``probability`` exceeds the model's threshold.
        inner: (B, K, H, W): the filled inner contour. None if the model has no contours.
        outer: (B, K, H, W): the filled outer contour. None if the model has no contours.
        prior: (B, K, h, w), in [0, 1]: the condition network's own mask. None without such a mask.
    """

    samples: Floats
    probability: Floats
    uncertainty: Floats
    mask: Masks
    inner: Masks | None = None
    outer: Masks | None = None
    prior: Floats | None = None


class OnnxSegmenter:
    """Segments images with a sampler graph of ``diffmedseg export --format onnx``.

    Args:
        path: File of the sampler.
        threads: Threads of onnxruntime; None for its own choice.
        providers: onnxruntime's execution providers, in order. The default is the CPU.

    Attributes:
        contract: The contract in the graph's metadata.

    Raises:
        ExportError: If onnxruntime is missing, the file is no graph of diffmedseg, or the graph is no sampler.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        self._session = _open(Path(path), threads, providers)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if KEY not in metadata:
            raise ExportError(
                f"{path} was not written by diffmedseg: give a file of `diffmedseg export --format onnx`."
            )
        self.contract = Contract.from_json(metadata[KEY])
        if self.contract.graph != "sampler":
            raise ExportError(
                f"{path} holds the graph {self.contract.graph!r}, which does not segment by itself: give the sampler, "
                f"the file without .{self.contract.graph} in its name."
            )

    def segment(
        self,
        image: object,
        num_samples: int | None = None,
        seed: int | None = None,
        keys: Sequence[str] | None = None,
    ) -> ArraySegmentation:
        """Segment images. The same image, seed and key give the same samples as the PyTorch model.

        Args:
            image: Array (H, W), (H, W, C) if uint8, (C, H, W) or (B, C, H, W). The range is [0, 255] for uint8, and
                [-1, 1] for float. Images are resized to the model's grid, and the results back to the images' size.
            num_samples: S; None for the model's default.
            seed: Seed of the noise; None for the model's default.
            keys: Key of each image's noise; None for keys made from the content of the images.

        Raises:
            ValueError: If the image does not fit, ``num_samples`` is below 1, or there is not one key per image.
        """
        contract = self.contract
        count = contract.num_samples if num_samples is None else num_samples
        if count < 1:
            raise ValueError(f"num_samples is {count}; it has to be at least 1.")
        values = to_model_range(image, len(contract.channels))
        if keys is None:
            keys = [blake2b(row.tobytes(), digest_size=8).hexdigest() for row in values]
        if len(keys) != len(values):
            raise ValueError(f"There are {len(values)} images and {len(keys)} keys; each image needs one.")
        noise = draw_noise(contract.noise, contract.seed if seed is None else seed, keys, range(count))
        outputs = self.run(to_grid(values, contract.image_size), noise)
        if not contract.noise:  # a method without noise has one sample
            outputs["samples"] = np.repeat(outputs["samples"], count, 1)
        return self._finish(outputs, (values.shape[-2], values.shape[-1]))

    def run(self, image: Floats, noise: dict[str, Floats]) -> dict[str, Floats]:
        """Run the graph, without conversions before and after it.

        Args:
            image: (B, C, h, w), in [-1, 1], on the model's grid.
            noise: The noise inputs by name, each (B, S, *shape); see ``contract.noise``.

        Returns:
            ``samples`` (B, S, K, h, w), ``probability`` (B, K, h, w) before calibration and, if the network has its own
            mask, ``prior`` (B, K, h, w).
        """
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {"image": image, **noise}), strict=True))

    def _finish(self, outputs: dict[str, Floats], size: tuple[int, int]) -> ArraySegmentation:
        """Resize the graph's outputs to the input's size, calibrate them and apply the threshold."""
        contract = self.contract
        plain, mean = (resize_soft(maps, size) for maps in (outputs["probability"], outputs["samples"].mean(1)))
        probability = calibrate(plain, contract.calibration)
        contours = {name: contour(plain, levels) for name, levels in (contract.contours or {}).items()}
        return ArraySegmentation(
            outputs["samples"],
            probability,
            np.sqrt(mean * (1 - mean)),
            probability > np.float32(contract.threshold),
            contours.get("inner"),
            contours.get("outer"),
            outputs.get("prior"),
        )

    def __repr__(self) -> str:
        contract = self.contract
        return f"OnnxSegmenter({contract.model}: {', '.join(contract.channels)} -> {', '.join(contract.regions)})"


def _open(path: Path, threads: int | None, providers: Sequence[str]) -> "onnxruntime.InferenceSession":
    """Open a graph.

    Raises:
        ExportError: If onnxruntime is missing, or the file is no graph.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ExportError("OnnxSegmenter needs onnxruntime: pip install 'diffmedseg[onnx]'") from error
    if not path.is_file():
        raise ExportError(f"There is no file {path}: write it by `diffmedseg export NAME --format onnx`.")
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # a file can be anything, and onnxruntime raises many kinds of errors
        raise ExportError(f"{path} cannot be opened as an ONNX graph: {str(error).splitlines()[0]}") from error
