"""Time and memory of sampling by image side, S, steps and parameters, and the share of the machine's limit.

``python experiments/benchmarks/scaling.py table`` prints the table and draws ``figures/scaling.png``. ``... allocator``
prints the effect of the allocator on times. Each setting runs in a separate process, to measure its peak memory.
*Limit* is the throughput in floating-point operations, as a share of the throughput of a large matrix product on the
same machine in the same run. Operations of convolutions and products count, and FFTs do not.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from samples_time import inference, segmenter
from timing import best_device, hardware, median_seconds
from torch.utils.flop_counter import FlopCounterMode

from diffmedseg.allocator import keep_freed_memory
from diffmedseg.figures import save_figure
from diffmedseg.models.sizes import Size

FIGURE = Path(__file__).parents[1] / "figures" / "scaling.png"
_PRODUCT = 2048  # side of the matrices


@dataclass(frozen=True)
class Setting:
    """A setting of sampling.

    Attributes:
        member: Model of the family.
        size: Size of its networks.
        side: Side of the image, in pixels.
        samples: S.
        steps: Network evaluations per sample.
    """

    member: str
    size: Size = "tiny"
    side: int = 128
    samples: int = 16
    steps: int = 4


#: Values along each axis of the plot. All other values are the defaults of Setting.
AXES: dict[str, list[object]] = {
    "side": [64, 128, 256, 512],
    "samples": [1, 4, 16, 64],
    "steps": [1, 2, 4, 8],
    "size": ["tiny", "base"],
}


def one(setting: Setting, rounds: int = 3, keep: bool = True) -> None:
    """Measure one setting, and print seconds, MiB, operations and share of the limit as JSON.

    Args:
        setting: The setting.
        rounds: Number of timings.
        keep: Whether to keep freed memory, like the command line.
    """
    if keep:
        keep_freed_memory()
    device = best_device()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, the default for convolutions
    model = segmenter(setting.member, setting.size, setting.side).to(device).eval()
    image = torch.rand(1, 3, setting.side, setting.side, device=device) * 2 - 1
    a, b = torch.rand(2, _PRODUCT, _PRODUCT, device=device)
    draw = partial(model.sample, image, setting.samples, setting.steps, keys=["one"])
    with inference(device, torch.float32):
        model.sample(image, 1, 1, keys=["one"])  # warm up
        before = _peak()
        draw()
        memory = _peak() - before
        with FlopCounterMode(display=False) as counter:
            draw()
        taken = median_seconds({"draw": draw, "product": partial(torch.mm, a, b)}, rounds)
    rate = 2 * _PRODUCT**3 / taken["product"]
    flops = counter.get_total_flops()
    measured = {"seconds": taken["draw"], "mib": memory, "gflop": flops / 1e9, "limit": flops / taken["draw"] / rate}
    print(json.dumps(measured))


def _peak() -> float:
    """Return the peak memory of the process so far, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def table(members: list[str] = ["V1", "lite"], figure: Path = FIGURE) -> None:  # noqa: B006
    """Measure all settings, print the table and draw the plot.

    Args:
        members: Models of the family.
        figure: The PNG.
    """
    results: dict[Setting, dict[str, float]] = {}
    print(f"{hardware()}\n")
    print("| member | size | side, px | S | steps | seconds | MiB more | GFLOP | of the limit |")
    print("|---|---|---|---|---|---|---|---|---|")
    for member in members:
        for axis, values in AXES.items():
            for value in values:
                setting = replace(Setting(member), **{axis: value})  # type: ignore[arg-type]  # any field
                if setting in results:
                    continue
                results[setting] = _measure(setting)
                result = results[setting]
                cells = [*asdict(setting).values(), f"{result['seconds']:.3f}", f"{result['mib']:.0f}",
                         f"{result['gflop']:.1f}", f"{result['limit']:.2f}"]  # fmt: skip
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    save_figure(draw(results, members), figure)


def allocator(members: list[str] = ["V1", "lite"], sides: list[int] = [128, 256, 512], turns: int = 3) -> None:  # noqa: B006
    """Print the seconds of sampling with the default allocator, and with freed memory kept.

    Args:
        members: Models of the family.
        sides: Sides of the image, in pixels.
        turns: Processes per setting, in turns. The median of their times counts.
    """
    print(f"{hardware()}\n")
    print("| member | side, px | as it is, s | kept, s | ratio |\n|---|---|---|---|---|")
    for setting in (Setting(member, side=side) for member in members for side in sides):
        pairs = [[_measure(setting, keep)["seconds"] for keep in (False, True)] for _ in range(turns)]
        plain, kept = (statistics.median(taken) for taken in zip(*pairs, strict=True))
        print(f"| {setting.member} | {setting.side} | {plain:.3f} | {kept:.3f} | {kept / plain:.2f} |", flush=True)


def _measure(setting: Setting, keep: bool = True) -> dict[str, float]:
    arguments = [part for name, value in asdict(setting).items() for part in (f"--setting.{name}", str(value))]
    command = [sys.executable, __file__, "one", *arguments, f"--keep={keep}"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(printed.splitlines()[-1])
    return result


def draw(found: dict[Setting, dict[str, float]], members: list[str]) -> Figure:
    """Plot seconds and memory along each numeric axis, on logarithmic scales."""
    axes_of = [name for name, values in AXES.items() if isinstance(values[0], int)]
    figure = Figure(figsize=(3.2 * len(axes_of), 5), layout="constrained")
    grid = figure.subplots(2, len(axes_of), squeeze=False)
    for column, name in enumerate(axes_of):
        for row, (score, label) in enumerate((("seconds", "seconds"), ("mib", "MiB above one sample"))):
            axis = grid[row, column]
            for member in members:
                points = [(v, found[replace(Setting(member), **{name: v})][score]) for v in AXES[name]]  # type: ignore[arg-type]
                axis.plot([v for v, _ in points], [max(y, 1e-3) for _, y in points], marker="o", label=member)
            axis.set(xscale="log", yscale="log", xlabel="side, px" if name == "side" else name)
            axis.set_xticks(AXES[name], [str(v) for v in AXES[name]])
            axis.minorticks_off()
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel(label)
    grid[0, 0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    auto_cli([table, allocator, one], as_positional=True)
