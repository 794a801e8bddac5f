"""Time of a training step of MedSegDiff-V1 by precision and memory format, side by side in one run.

Run ``python experiments/benchmarks/step_time.py``. Machines are noisy: the settings take turns, and the median counts.
"""

import statistics
import time

import torch

from diffmedseg.models import MedSegDiffV1


def main(size: int = 64, batch: int = 16, rounds: int = 10) -> None:
    """Print the table, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image = torch.randn(batch, 3, size, size, device=device)
    x_t, t = torch.randn(batch, 1, size, size, device=device), torch.randint(1000, (batch,), device=device)
    settings = [
        (precision, form)
        for precision in (torch.float32, torch.bfloat16)
        for form in (torch.contiguous_format, torch.channels_last)
    ]
    networks = [MedSegDiffV1(3, 1, "base").to(device, memory_format=form) for _, form in settings]
    seconds: list[list[float]] = [[] for _ in settings]
    for round_number in range(rounds + 1):
        for (precision, form), network, taken in zip(settings, networks, seconds, strict=True):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                output = network(x_t, t, network.encode(image.contiguous(memory_format=form)))
            output.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:  # the first warms up
                taken.append(time.perf_counter() - start)
    slowest = statistics.median(seconds[0])
    print(f"{device}, base, batch {batch}, {size} px\n")
    print("| precision | memory format | ms per step | speed-up |\n|---|---|---|---|")
    for (precision, form), taken in zip(settings, seconds, strict=True):
        median = statistics.median(taken)
        names = [str(x).removeprefix("torch.").removesuffix("_format") for x in (precision, form)]
        print(f"| {names[0]} | {names[1]} | {median * 1e3:.0f} | {slowest / median:.2f} |")


if __name__ == "__main__":
    main()
