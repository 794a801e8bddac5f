"""``diffmedseg export``: make a zoo entry of a run, or ONNX graphs of a model."""

import argparse
from pathlib import Path

from diffmedseg.cli.parsing import Parser, add_trust, file_ending, positive_integer, report_errors

_FORMATS = ("entry", "onnx")


def export(args: list[str]) -> None:
    """Run ``diffmedseg export``, by ``--format``."""
    parser = Parser("diffmedseg export", add_help=False)
    parser.add_argument("--format", choices=_FORMATS, default="entry")
    options, arguments = parser.parse_known_args(args)
    if options.format == "onnx":
        _export_onnx(arguments)
        return
    from diffmedseg.cli.zoo import export_command

    export_command(arguments)


def _export_onnx(args: list[str]) -> None:
    options = _parser().parse_args(args)
    with report_errors():
        from diffmedseg.export import export_onnx  # this loads torch
        from diffmedseg.zoo.loading import load_single

        out = options.out or Path(f"{Path(options.model).name}.onnx")
        model = load_single(options.model, options.trust)
        normalisation = _normalisation(options.model)
        for path in export_onnx(model, out, options.model, options.num_steps, options.refine, **normalisation):
            print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def _normalisation(name: str) -> dict[str, str]:
    """Return the input normalisation of a zoo entry as an argument; empty for runs and checkpoints."""
    from diffmedseg.zoo.source import current_source

    source = current_source()
    if Path(name).exists() or not source.has(name):
        return {}
    return {"normalisation": source.find(name)[1].input.normalisation}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "diffmedseg export --format onnx",
        "Write a model as ONNX graphs: the sampler and, for a diffusion model, encode and step.",
    )
    parser.add_argument("model", metavar="NAME", help="A zoo entry, a run's folder or a checkpoint.")
    parser.add_argument("--out", type=file_ending(".onnx"), help="File for the sampler. Default: NAME.onnx.")
    parser.add_argument(
        "--num_steps", type=positive_integer, help="Network evaluations per sample. Default: the model's own."
    )
    parser.add_argument(
        "--no_refinement",
        dest="refine",
        action="store_false",
        help="Leave out the model's refinement, such as a CRF. A graph cannot hold a refinement.",
    )
    add_trust(parser)
    return parser
