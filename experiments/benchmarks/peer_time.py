"""Time of MedSegDiff here and in ``med-seg-diff-pytorch`` 0.3.3 (PyPI): a training step, and samples of an image.

Make an environment with both packages: ``python -m venv peer; peer/bin/pip install . med-seg-diff-pytorch``. Run
``peer/bin/python experiments/benchmarks/peer_time.py``. The other package, called the peer in the tables, has the
settings of its README: 1,000 steps of DDPM, float32. All its steps cost the same, so only some steps of a chain are
timed, and multiplied. It is also timed in bfloat16 and channels-last format, which our models always have.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from unittest.mock import patch

import torch
from jsonargparse import auto_cli
from timing import best_device, hardware, median_seconds
from torch import Tensor, nn

from diffmedseg.models import Denoiser, MedSegDiffLite, MedSegDiffSegmenter, MedSegDiffV1, MedSegDiffV2
from diffmedseg.models.medsegdiff import denoiser_lite
from diffmedseg.models.sizes import SIZES, SizeSpec

#: Widths for as many parameters as the peer has, 51.3 million: of V1, and of Lite's condition and step network.
_EQUAL_V1 = SizeSpec((80, 160, 320, 640), 1, (1, 2))
_EQUAL_LITE = SizeSpec((88, 176, 352, 704), 1, (1, 2)), denoiser_lite.LiteSpec(128, 3)
_NOISE_LEVELS = {"V1": 1, "lite": 4}  # per image and training step, as in their yaml files
_PEER_STEPS = 1000
_FORMATS = {"peer": torch.contiguous_format, "peer, channels_last": torch.channels_last}


def main(
    side: int = 128,
    samples: int = 16,
    steps: int = 10,
    timed: int = 1,
    batch: int = 2,
    training_rounds: int = 7,
    sampling_rounds: int = 2,
) -> None:
    """Print both tables.

    Args:
        side: Side of the images, in pixels.
        samples: Samples of one image.
        steps: Steps of our samplers, and of the peer's DDIM at equal steps.
        timed: Number of timed steps in a chain of the peer.
        batch: Images per training step.
        training_rounds: Number of timings per training step; 0 for none.
        sampling_rounds: Number of timings of sampling, which takes minutes; 0 for none.
    """
    from med_seg_diff_pytorch import MedSegDiff, Unet

    device = best_device()
    peer = MedSegDiff(Unet(dim=64, image_size=side, dim_mults=(1, 2, 4, 8)), timesteps=_PEER_STEPS).to(device)
    peers = {name: copy.deepcopy(peer).to(memory_format=form) for name, form in _FORMATS.items()}
    equal = {name: network.to(device, memory_format=torch.channels_last) for name, network in _of_equal_size().items()}
    print(f"{hardware()}; {side} px\n")
    if training_rounds:
        _training(peers, equal, side, batch, training_rounds)
    if sampling_rounds:
        _sampling(peers, equal, side, samples, steps, timed, sampling_rounds)


def _of_equal_size() -> dict[str, Denoiser]:
    with patch.dict(SIZES, base=_EQUAL_V1):
        v1 = MedSegDiffV1(3, 1, "base")
    with (
        patch.dict(SIZES, base=_EQUAL_LITE[0]),
        patch.dict(denoiser_lite.LITE_SIZES, base=_EQUAL_LITE[1]),
    ):
        return {"V1": v1, "lite": MedSegDiffLite(3, 1, "base")}


def _training(
    peers: Mapping[str, nn.Module], equal: Mapping[str, Denoiser], side: int, batch: int, rounds: int
) -> None:
    device = best_device()
    image, mask = torch.rand(batch, 3, side, side, device=device), torch.ones(batch, 1, side, side, device=device)
    segmenters = {
        name: MedSegDiffSegmenter(network, image_size=(side, side), noise_levels=_NOISE_LEVELS[name]).to(device)
        for name, network in equal.items()
    }
    data = {"image": image.contiguous(memory_format=torch.channels_last), "mask": mask, "draw": list(range(batch))}

    def step(parameters: nn.Module, loss: Callable[[], Tensor], bf16: bool) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters.parameters(), 1e-4)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                value = loss()
            value.backward()
            optimizer.step()

        return run

    work = {}
    for bf16 in (False, True):
        for name, peer in peers.items():
            given = [tensor.contiguous(memory_format=_FORMATS[name]) for tensor in (mask, image)]
            work[name, bf16] = step(peer, partial(peer, *given), bf16)
        for name, segmenter in segmenters.items():
            work[name, bf16] = step(segmenter, partial(segmenter.training_loss, data), bf16)
    taken = median_seconds(work, rounds)
    unit = taken["peer", False]
    print(f"Training step, batch {batch}\n\n| network | parameters | float32, s | over the peer's | bfloat16, s | "
          "over the peer's float32 | over its bfloat16 |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name, network in {**peers, **equal}.items():
        full, half = taken[name, False], taken[name, True]
        cells = [f"{full:.2f}", f"{full / unit:.2f}", f"{half:.2f}", f"{half / unit:.2f}",
                 f"{half / taken['peer', True]:.2f}"]  # fmt: skip
        print(f"| {name} | {_millions(network)} | {' | '.join(cells)} |", flush=True)


def _sampling(
    peers: Mapping[str, nn.Module],
    equal: Mapping[str, Denoiser],
    side: int,
    samples: int,
    steps: int,
    timed: int,
    rounds: int,
) -> None:
    """Time samples of one image. In the peer's batch, all rows are samples of this image."""
    device = best_device()
    image = torch.rand(1, 3, side, side, device=device) * 2 - 1
    rows, t = image.expand(samples, -1, -1, -1), torch.zeros(samples, dtype=torch.int64, device=device)
    x_t = torch.randn(samples, 1, side, side, device=device)
    networks: dict[str, Denoiser] = {
        **{f"{name} of the peer's size": network for name, network in equal.items()},
        "V1, base": MedSegDiffV1(3, 1, "base"),
        "V2, base": MedSegDiffV2(3, 1, "base"),
        "lite, base": MedSegDiffLite(3, 1, "base"),
        "lite, tiny": MedSegDiffLite(3, 1, "tiny"),
    }
    segmenters = {
        name: MedSegDiffSegmenter(network, image_size=(side, side)).to(device).eval()
        for name, network in networks.items()
    }

    def chain(name: str) -> None:
        form = _FORMATS[name]
        for _ in range(timed):
            peers[name].model(x_t.contiguous(memory_format=form), t, rows.contiguous(memory_format=form))

    def run(work: Callable[[], object], bf16: bool) -> Callable[[], None]:
        def inference() -> None:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                work()

        return inference

    work: dict[tuple[str, bool], Callable[[], None]] = {}
    for bf16 in (False, True):
        for name in peers:
            work[name, bf16] = run(partial(chain, name), bf16)
        for name, model in segmenters.items():
            work[name, bf16] = run(lambda model=model: model.sample(image, samples, steps, keys=["a"]), bf16)
    taken = median_seconds(work, rounds)
    for name in peers:
        for bf16 in (False, True):
            seconds = taken[name, bf16] / timed
            taken[f"{name}, {_PEER_STEPS} steps", bf16], taken[name, bf16] = seconds * _PEER_STEPS, seconds * steps
    default, same = taken[f"peer, {_PEER_STEPS} steps", False], taken["peer", False]
    print(
        f"\n{samples} samples of one image, {steps} steps where not said; the peer's chains by {timed} of their steps\n"
    )
    print("| network | float32, s | peer at equal steps over it | peer at its defaults over it | bfloat16, s | "
          "peer at equal steps, bfloat16, over it |\n|---|---|---|---|---|---|")  # fmt: skip
    for name in dict.fromkeys(name for name, _ in taken):
        full, half = taken[name, False], taken[name, True]
        cells = [f"{full:.2f}", f"{same / full:.1f}", f"{default / full:.0f}", f"{half:.2f}",
                 f"{taken['peer', True] / half:.1f}"]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _millions(network: nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
