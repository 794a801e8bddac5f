"""Time of a training step of MedSegDiff-V1 by precision, memory format and compilation, in turns in one run.

Run ``python experiments/benchmarks/step_time.py``.
"""

from collections.abc import Callable

import torch
from jsonargparse import auto_cli
from timing import best_device, hardware, median_seconds

from diffmedseg.models import MedSegDiffV1


def main(size: int = 64, batch: int = 16, rounds: int = 10, compiled: bool = False) -> None:
    """Print the table. It runs on the GPU if there is a GPU.

    Args:
        size: Side of the images, in pixels.
        batch: Images per step.
        rounds: Number of timings per setting.
        compiled: Whether to time channels_last with ``torch.compile``, too (a minute or more per setting).
    """
    device = best_device()
    image = torch.randn(batch, 3, size, size, device=device)
    x_t, t = torch.randn(batch, 1, size, size, device=device), torch.randint(1000, (batch,), device=device)

    def step(precision: torch.dtype, form: torch.memory_format, compile_step: bool) -> Callable[[], None]:
        network, pixels = (
            MedSegDiffV1(3, 1, "base").to(device, memory_format=form),
            image.contiguous(memory_format=form),
        )
        if compile_step:
            network.compile()

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                output = network(x_t, t, network.encode(pixels))
            output.float().square().mean().backward()

        return run

    forms = [(torch.contiguous_format, False), (torch.channels_last, False)]
    forms += [(torch.channels_last, True)] if compiled else []
    settings = [(precision, *form) for precision in (torch.float32, torch.bfloat16) for form in forms]
    taken = median_seconds({setting: step(*setting) for setting in settings}, rounds)
    print(f"{hardware()}; base, batch {batch}, {size} px\n")
    print("| precision | memory format | ms per step | speed-up |\n|---|---|---|---|")
    for (precision, form, compile_step), seconds in taken.items():
        names = [str(x).removeprefix("torch.").removesuffix("_format") for x in (precision, form)]
        names[1] += ", compiled" if compile_step else ""
        print(f"| {names[0]} | {names[1]} | {seconds * 1e3:.0f} | {taken[settings[0]] / seconds:.2f} |")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
