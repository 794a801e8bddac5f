"""Write a model as ONNX graphs, and check that the graphs give the model's results."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.export import Dim

from diffmedseg import __version__
from diffmedseg.atomic import write_whole
from diffmedseg.configurable import to_config
from diffmedseg.data.info import NORMALISATION
from diffmedseg.errors import ExportError
from diffmedseg.export.arrays import CALIBRATIONS
from diffmedseg.export.contract import KEY, Contract
from diffmedseg.export.graphs import EncodeGraph, Graph, SamplerGraph, StepGraph
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.silence import silenced

#: Numbers of images and samples with which graphs are made, and other numbers with which they are checked.
_TRACED, _CHECKED = (2, 3), ((1, 1), (3, 2))
#: Largest allowed difference between the outputs of a graph and its model, relative to values above 1.
_TOLERANCE = 1e-4
_OPSET = 20
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")  # they log their own progress


def export_onnx(
    model: DiffusionSegmenter,
    path: str | Path,
    name: str = "",
    num_steps: int | None = None,
    refine: bool = True,
    normalisation: str = NORMALISATION,
) -> list[Path]:
    """Write a model as ONNX graphs: its sampler and, if it denoises step by step, ``encode`` and ``step``.

    Args:
        model: The model. It is in evaluation mode afterwards.
        path: File of the sampler, such as ``x.onnx``. The other files are ``x.encode.onnx`` and ``x.step.onnx`` beside
            it.
        name: Name by which the model was loaded, for the graphs' metadata.
        num_steps: Network evaluations per sample, unrolled in the sampler; None for the model's default.
        refine: False exports a model without its refinement, such as a CRF. A graph cannot contain a refinement.
        normalisation: Description of the conversion of values to the model's range [-1, 1], for the graphs' metadata.

    Returns:
        The files.

    Raises:
        ExportError: If the model cannot be exported, a package is missing, or a graph gives other results.
        OSError: If a file cannot be written.
    """
    path, num_steps = Path(path), model.num_steps if num_steps is None else num_steps
    _check_packages()
    _check_model(model, refine)
    model.eval()
    with torch.inference_mode(False), torch.no_grad(), silenced(*_LOGGERS, below=logging.ERROR):
        try:
            sampler = SamplerGraph(model, num_steps)
            contract = _contract(model, sampler, name, num_steps, normalisation)
        except ValueError as error:
            raise ExportError(str(error)) from error
        graphs: list[tuple[Graph, Contract]] = [(sampler, contract)]
        if (reverse := sampler.reverse) is not None:
            encode = EncodeGraph(model)
            steps = {"levels": reverse.levels, "weights": reverse.weights}
            graphs.append((encode, replace(contract, graph="encode", noise=())))
            graphs.append(
                (StepGraph(model, reverse.process, encode), replace(contract, graph="step", noise=(), steps=steps))
            )
        with TemporaryDirectory() as folder:
            checked = [_write(graph, Path(folder) / path.name, described) for graph, described in graphs]
            for file in checked:  # write all files or none
                write_whole(path.with_name(file.name), partial(shutil.copyfile, file))
            return [path.with_name(file.name) for file in checked]


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(f"Writing ONNX needs {error.name}: pip install 'diffmedseg[onnx]'") from error


def _check_model(model: DiffusionSegmenter, refine: bool) -> None:
    """Refuse models that neither a graph nor OnnxSegmenter can reproduce."""
    if model.depth:
        raise ExportError("The model is a network of volumes, and ONNX graphs take images: export one of slices.")
    if model.slice_input is not None and model.slice_input.square_pixels:
        raise ExportError(
            "The model pads slices to square pixels, which is no part of a graph: export a model that was trained with "
            "square_pixels=false."
        )
    if refine and model.refinement is not None:
        raise ExportError(
            f"The model refines its masks by {type(model.refinement).__name__}, which is no part of a graph: export "
            "with --no_refinement (in Python refine=False), and masks are those before it."
        )
    if model.tta != "none":
        raise ExportError(
            f"The model segments with tta={model.tta}, which is no part of a graph: set model.tta to 'none' first. "
            "Calibration then has to be fitted again, without it."
        )
    calibration = None if model.calibration is None else to_config(model.calibration)["class_path"]
    if calibration is not None and calibration not in CALIBRATIONS:
        raise ExportError(f"The calibration {calibration} has no form in NumPy: export without calibration.")


def _contract(
    model: DiffusionSegmenter, sampler: SamplerGraph, name: str, num_steps: int, normalisation: str
) -> Contract:
    conformal = model.conformal
    return Contract(
        model=name,
        title=model.title,
        graph="sampler",
        channels=model.channels,
        regions=model.regions,
        nested=model.nested,
        image_size=model.image_size,
        input=f"{normalisation}; then resized to image_size, bilinear with antialiasing, and clamped to [-1, 1]",
        noise=sampler.noise,
        num_samples=model.num_samples,
        num_steps=num_steps,
        seed=model.seed,
        threshold=model.threshold,
        calibration=None if model.calibration is None else to_config(model.calibration),
        contours=None if conformal is None else {"inner": _levels(conformal.inner), "outer": _levels(conformal.outer)},
        cropped=model.cropped,
        version=__version__,
    )


def _levels(levels: Sequence[float]) -> list[float | None]:
    """Return levels for JSON: None replaces infinite levels."""
    return [level if np.isfinite(level) else None for level in levels]


def _write(graph: Graph, path: Path, contract: Contract) -> Path:
    """Write a graph with its contract, and check that it gives the results of its module.

    Raises:
        ExportError: If the module cannot be exported, or the graph gives other results.
    """
    if contract.graph != "sampler":
        path = path.with_name(f"{path.stem}.{contract.graph}{path.suffix}")
    program = _translate(graph, contract)
    program.model.metadata_props[KEY] = contract.to_json()
    program.save(str(path), external_data=False)
    _compare(graph, path, contract)
    return path


def _translate(graph: Graph, contract: Contract) -> torch.onnx.ONNXProgram:
    example = graph.example(*_TRACED)
    shapes = [dict.fromkeys(range(len(axes)), Dim.DYNAMIC) for axes in graph.inputs.values()]
    first = 1 + ("x_t" in graph.inputs)  # named arguments, before the variable ones
    dynamic = (*shapes[:first], tuple(shapes[first:])) if shapes[first:] else tuple(shapes)
    try:
        exported = torch.export.export(graph, example, dynamic_shapes=dynamic)
        program = torch.onnx.export(
            exported,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # torch raises many kinds of errors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"The {contract.graph} of {contract.title} cannot be a graph: {reason[0]}. Use the model with PyTorch."
        ) from error
    if program is None:
        raise ExportError(f"PyTorch made no graph of the {contract.graph} of {contract.title}.")
    return program


def _compare(graph: Graph, path: Path, contract: Contract) -> None:
    """Refuse a graph with other results than its module, for other numbers of images and samples than at its export."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for images, samples in _CHECKED:
        inputs = graph.example(images, samples)
        expected = graph(*inputs)
        results = session.run(
            graph.outputs, dict(zip(graph.inputs, (tensor.numpy() for tensor in inputs), strict=True))
        )
        for name, tensor, result in zip(graph.outputs, expected, results, strict=True):
            fits = tensor.shape == result.shape
            difference = float(np.abs(tensor.numpy() - result).max()) if fits else np.inf
            if not difference <= _TOLERANCE * max(1.0, float(tensor.abs().max())):
                raise ExportError(
                    f"The graph {contract.graph} gives {name} that differs by {difference:.1e} from the model's, for "
                    f"{images} images of {samples} samples: it is not written. Use the model with PyTorch."
                )
