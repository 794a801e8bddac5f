"""CPU seconds for S samples of one image in PyTorch, compiled PyTorch, onnxruntime and OpenVINO, and the loss by int8.

Run ``OMP_NUM_THREADS=1 python experiments/benchmarks/onnx_runtimes.py``. All runtimes run the same sampler with equal
noise and one thread, in turns. Other programs on the machine hardly change CPU seconds. Runtimes that are not installed
(OpenVINO, onnxslim) are left out and named. With ``--images``, int8 is also calibrated on pictures, and the masks of
every runtime with reduced precision are compared with the masks of the model.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from jsonargparse import auto_cli
from PIL import Image, ImageOps
from timing import hardware, median_seconds

from diffmedseg.export import OnnxSegmenter, export_onnx
from diffmedseg.export.graphs import SamplerGraph
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.zoo.loading import load_pretrained

#: Prefixes of the names of a condition network's modules, in the networks of this project.
CONDITION = ("condition", "trunk")


def main(
    entry: str = "medsegdiff-lite_isic2017.lite0",
    graph: Path | None = None,
    samples: int = 16,
    rounds: int = 10,
    images: Path | None = None,
    masks: Path | None = None,
    count: int = 100,
    calibrate_on: int = 16,
    compiled: bool = True,
) -> None:
    """Print the tables.

    Args:
        entry: Name of the zoo entry.
        graph: Exported sampler of the entry, if there is one.
        samples: S.
        rounds: Number of timings per runtime.
        images: Folder of pictures, for the comparison of masks.
        masks: Folder of the pictures' masks, ``NAME*.png``, for Dice; only with ``images``.
        count: Number of pictures, the first by name.
        calibrate_on: Number of the following pictures, on which int8 is calibrated.
        compiled: Whether to time compiled PyTorch, which needs a C++ compiler.
    """
    torch.set_num_threads(1)
    model = load_pretrained(entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.onnx"
        if graph is None:
            export_onnx(model, path, entry)
        else:
            shutil.copy(graph, path)
        graphs = {"float32": path}
        files = [] if images is None else sorted(p for p in images.iterdir() if p.suffix.lower() in {".jpg", ".png"})
        pictures = [file for file in files if "superpixels" not in file.name]
        graphs["int8, dynamic"] = quantised(path, None)
        if images is not None:
            graphs["int8, static"] = quantised(path, inputs(model, pictures[count:][:calibrate_on]))
        print(f"{hardware()}, onnxruntime {onnxruntime.__version__}; {entry}, {samples} samples, medians of {rounds}\n")
        runtimes(model, graphs, samples, rounds, compiled)
        if images is not None:
            compare(model, graphs, pictures[:count], masks)


def runtimes(model: DiffusionSegmenter, graphs: dict[str, Path], samples: int, rounds: int, compiled: bool) -> None:
    """Time all runtimes in turns."""
    graph = SamplerGraph(model, model.num_steps)
    example = graph.example(1, samples)
    arrays = dict(zip(graph.inputs, (tensor.numpy() for tensor in example), strict=True))
    work: dict[str, Callable[[], object]] = {
        "torch": partial(in_torch, graph, example),
        "torch, bfloat16": partial(in_bfloat16, graph, example),
    }
    if compiled:
        work["torch, compiled"] = partial(in_torch, torch.compile(graph), example)
    for name, path in graphs.items():
        work[f"onnxruntime, {name}"] = partial(session(path).run, None, arrays)
    for name, opened in tries(graphs["float32"]).items():
        work[f"onnxruntime, float32, {name}"] = partial(opened.run, None, arrays)
    if installed("openvino"):
        for name, hint in (("float32", "f32"), ("bfloat16", "bf16")):
            work[f"OpenVINO, {name}"] = partial(openvino_request(graphs["float32"], hint), arrays)
    taken = median_seconds(work, rounds, time.process_time)
    print("| runtime | CPU ms | share of torch | MB |\n|---|---|---|---|")
    for name, seconds in taken.items():
        path = graphs.get(name.partition(", ")[2])
        size = "" if path is None else f"{path.stat().st_size / 1e6:.1f}"
        print(f"| {name} | {seconds * 1e3:.0f} | {seconds / taken['torch']:.2f} | {size} |")


def installed(package: str) -> bool:
    """Return whether a package is installed. If not, print that it is left out."""
    if find_spec(package) is None:
        print(f"{package} is not installed, and left out.\n")
        return False
    return True


@torch.inference_mode()
def in_torch(graph: Callable[..., object], example: Sequence[torch.Tensor]) -> None:
    """Run PyTorch once."""
    graph(*example)


def in_bfloat16(graph: Callable[..., object], example: Sequence[torch.Tensor]) -> None:
    """Run PyTorch once, in bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        in_torch(graph, example)


def session(
    path: Path,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    **entries: str,
) -> onnxruntime.InferenceSession:
    """Open a graph for one thread; ``entries`` are settings of the session, with ``_`` for ``.`` after ``session``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    for name, value in entries.items():
        options.add_session_config_entry(name.replace("session_", "session.", 1), value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def tries(path: Path) -> dict[str, onnxruntime.InferenceSession]:
    """Open a graph with several settings that could make it faster."""
    levels = onnxruntime.GraphOptimizationLevel
    opened = {
        "as exported, not optimised": session(path, levels.ORT_DISABLE_ALL),
        "optimised without the blocked layout": session(path, levels.ORT_ENABLE_EXTENDED),
        "denormal numbers as 0": session(path, session_set_denormal_as_zero="1"),
    }
    if installed("onnxslim"):
        import onnxslim

        simplified = path.with_name("simplified.onnx")
        onnx.save(onnxslim.slim(onnx.load(path)), simplified)
        opened["simplified"] = session(simplified)
    return opened


def openvino_request(path: Path, precision: str) -> Callable[[dict[str, np.ndarray]], object]:
    """Compile a graph in OpenVINO, for one thread and a precision, ``f32`` or ``bf16``."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    return openvino.Core().compile_model(str(path), "CPU", settings)


def quantised(path: Path, calibration: Sequence[dict[str, np.ndarray]] | None) -> Path:
    """Write a graph with int8 weights in its condition network and, with calibration pictures, int8 maps."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, rows: Iterator[dict[str, np.ndarray]]) -> None:
            self.rows = rows

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    graph = onnx.load(path)
    nodes = [node.name for node in graph.graph.node if node.op_type == "Conv" and in_condition(node)]
    out = path.with_name(f"{path.stem}.int8.{'dynamic' if calibration is None else 'static'}.onnx")
    if calibration is None:
        quantize_dynamic(path, out, nodes_to_quantize=nodes, weight_type=QuantType.QUInt8)
    else:
        quantize_static(path, out, Reader(iter(calibration)), nodes_to_quantize=nodes, per_channel=True)
    written = onnx.load(out)
    if not written.metadata_props:
        written.metadata_props.extend(graph.metadata_props)
        onnx.save(written, out)
    return out


def in_condition(node: onnx.NodeProto) -> bool:
    """Return whether a node belongs to the condition network, by the names of its modules."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    return any(f"denoiser.{name}." in scopes for name in CONDITION)


def inputs(model: DiffusionSegmenter, pictures: Sequence[Path]) -> list[dict[str, np.ndarray]]:
    """Return inputs of the sampler, each for one picture and one sample."""
    from diffmedseg.export.arrays import to_grid, to_model_range
    from diffmedseg.export.noise import draw_noise

    noise = draw_noise(SamplerGraph(model, model.num_steps).noise, 0, ["calibration"], range(1))
    rows = (to_grid(to_model_range(read(picture), len(model.channels)), model.image_size) for picture in pictures)
    return [{"image": row, **noise} for row in rows]


def read(picture: Path) -> np.ndarray:
    """Read a picture, upright, at most 768 pixels wide and high, so that this script is fast."""
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    image.thumbnail((768, 768))
    return np.asarray(image)


def compare(model: DiffusionSegmenter, graphs: dict[str, Path], pictures: Sequence[Path], masks: Path | None) -> None:
    """Print the differences between the masks of graphs and the masks of the model."""
    segment: dict[str, Callable[[np.ndarray], Any]] = {
        name: OnnxSegmenter(path, threads=1).segment for name, path in graphs.items()
    }
    segment["torch, bfloat16"] = torch.autocast("cpu", torch.bfloat16)(model.segment)
    worst, flipped, pixels = dict.fromkeys(segment, 0.0), dict.fromkeys(segment, 0), 0
    means: dict[str, list[float]] = {name: [] for name in segment}
    dice: dict[str, list[float]] = {name: [] for name in ("torch", *segment)}
    for picture in pictures:
        image = read(picture)
        expected = model.segment(image)
        truth = None if masks is None else read_mask(masks, picture, image.shape[:2])
        pixels += expected.mask.numel()
        predicted = {"torch": expected.mask.numpy()}
        for name, run in segment.items():
            result = run(image)
            probability, predicted[name] = np.asarray(result.probability), np.asarray(result.mask)
            difference = np.abs(probability - expected.probability.numpy())
            worst[name] = max(worst[name], float(difference.max()))
            means[name].append(float(difference.mean()))
            flipped[name] += int((predicted[name] != expected.mask.numpy()).sum())
        if truth is not None:
            for name, mask in predicted.items():
                dice[name].append(float(2 * (mask & truth).sum() / max(mask.sum() + truth.sum(), 1)))
    print(f"\n{len(pictures)} pictures, {pixels:,} pixels, the model's own samples and steps\n")
    print(
        "| graph | largest difference of probability | mean difference | flipped pixels | Dice |\n|---|---|---|---|---|"
    )
    if masks is not None:
        print(f"| torch | | | | {np.mean(dice['torch']):.4f} |")
    for name in segment:
        score = f"{np.mean(dice[name]):.4f}" if masks is not None else ""
        print(f"| {name} | {worst[name]:.1e} | {np.mean(means[name]):.1e} | {flipped[name]:,} | {score} |")


def read_mask(masks: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """Read the mask of a picture at a size, (1, 1, H, W)."""
    (file,) = masks.glob(f"{picture.stem}*.png")
    mask = Image.open(file).convert("L").resize(size[::-1], Image.Resampling.NEAREST)
    return (np.asarray(mask) > 127)[None, None]


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
