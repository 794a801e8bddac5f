"""Time of S samples of an image, relative to a pass of the supervised baseline, for each MedSegDiff model.

The baseline is the condition network. A pass of V1 costs at least as much as a pass of the baseline. V2 and Lite run
the condition network only once. Run ``python experiments/benchmarks/samples_time.py``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from diffusers import UniPCMultistepScheduler
from jsonargparse import auto_cli
from timing import best_device, hardware, median_seconds

from diffmedseg.diffusion import ReverseProcess
from diffmedseg.models import (
    DiffusionSegmenter,
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    MedSegDiffV2,
    ResidualUNet,
)
from diffmedseg.models.sizes import Size

MEMBERS = {"V1": MedSegDiffV1, "V2": MedSegDiffV2, "lite": MedSegDiffLite}


def main(
    sides: list[int] = [64, 128, 256],  # noqa: B006
    size: Size = "tiny",
    samples: int = 16,
    steps: list[int] = [1, 4, 10],  # noqa: B006
    members: list[str] = list(MEMBERS),  # noqa: B006
    rounds: int = 5,
    compiled: Literal["default", "reduce-overhead"] | None = None,
) -> None:
    """Print the table.

    Args:
        sides: Sides of the image, in pixels.
        size: Size of the networks.
        samples: S.
        steps: Network evaluations per sample.
        members: Models of the family.
        rounds: Number of timings per setting.
        compiled: Mode of ``torch.compile``, for timings with a compiled step, too; "reduce-overhead" records CUDA
            graphs. The baseline is not compiled.
    """
    device = best_device()
    modes: dict[str, tuple[str, str | None]] = {name: (name, None) for name in members}
    if compiled:
        modes |= {f"{name} compiled": (name, compiled) for name in members}
    heads = [f"{name}, {n} step{'s' * (n > 1)}" for name in modes for n in steps]
    print(f"{hardware()}; {size}; {samples} samples of one image over one pass of the control\n")
    print(f"| side, px | precision | control, ms | {' | '.join(heads)} |\n|---|---|---|{'---|' * len(heads)}")
    for side in sides:
        image = torch.rand(1, 3, side, side, device=device) * 2 - 1
        control = ResidualUNet(3, 1, size).to(device, memory_format=torch.channels_last).eval()
        segmenters = {name: segmenter(member, size, side).to(device).eval() for name, (member, _) in modes.items()}
        for name, (_, mode) in modes.items():
            if mode is not None:
                segmenters[name].denoiser.compile(mode=mode)
        for precision in (torch.float32, torch.bfloat16):
            work: dict[str, Callable[[], object]] = {"control": partial(one_pass, control, image, precision)}
            for name in modes:
                for n in steps:
                    work[f"{name} {n}"] = partial(sample, segmenters[name], image, samples, n, precision)
            taken = median_seconds(work, rounds)
            unit = taken.pop("control")
            cells = [f"{seconds / unit:.1f}" for seconds in taken.values()]
            name = str(precision).removeprefix("torch.")
            print(f"| {side} | {name} | {unit * 1e3:.1f} | {' | '.join(cells)} |", flush=True)


def segmenter(member: str, size: Size, side: int) -> DiffusionSegmenter:
    """Build a model of the family with the sampling of its yaml files. Its weights are untrained, at the same cost."""
    reverse = ReverseProcess(UniPCMultistepScheduler())
    return MedSegDiffSegmenter(MEMBERS[member](3, 1, size), image_size=(side, side), reverse=reverse)


def one_pass(network: ResidualUNet, image: torch.Tensor, precision: torch.dtype) -> None:
    """Run the supervised baseline once."""
    with inference(image.device, precision):
        network.encode(image.contiguous(memory_format=torch.channels_last))


def sample(model: DiffusionSegmenter, image: torch.Tensor, samples: int, steps: int, precision: torch.dtype) -> None:
    """Draw samples like ``predict``."""
    with inference(image.device, precision):
        model.sample(image, samples, steps, keys=["one"])


@contextmanager
def inference(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Disable gradients, and set a precision."""
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        yield


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
