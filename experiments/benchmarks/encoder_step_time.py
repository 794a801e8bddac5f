"""Time of a training step of a U-Net with a pretrained encoder on a CPU, with depthwise convolutions in float32 or not.

Run ``python experiments/benchmarks/encoder_step_time.py``.
"""

from collections.abc import Callable

import torch
from jsonargparse import auto_cli
from timing import hardware, median_seconds

from diffmedseg.models import SMPNetwork


def main(encoder: str = "lite0", size: int = 128, batch: int = 16, rounds: int = 10) -> None:
    """Print the table. The settings are timed in turns.

    Args:
        encoder: Name of the encoder.
        size: Side of the images, in pixels.
        batch: Images per step.
        rounds: Number of timings per setting.
    """
    image = torch.randn(batch, 3, size, size)
    precise = _step(encoder, image, precise=True)
    taken = median_seconds({"float32": precise, "bfloat16": _step(encoder, image, precise=False)}, rounds)
    print(f"{hardware()}; U-Net on {encoder}, bf16 autocast, batch {batch}, {size} px\n")
    print("| depthwise convolutions | ms per step | share |\n|---|---|---|")
    for precision, seconds in taken.items():
        print(f"| {precision} | {seconds * 1e3:.0f} | {seconds / taken['bfloat16']:.2f} |")


def _step(encoder: str, image: torch.Tensor, precise: bool) -> Callable[[], None]:
    network = SMPNetwork(3, 1, encoder=encoder, decoder_channels="slim")
    if not precise:
        for module in network.modules():
            vars(module).pop("forward", None)  # restores the method of the class

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            prior = network.maps(image).prior
        prior.float().square().mean().backward()

    return run


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
