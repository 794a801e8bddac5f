"""Conversion between slices and volumes, for networks of volumes.

Data modules, callbacks and scores take slices. A network of volumes takes volumes: in training the slices of a draw,
elsewhere the neighbouring slices with the same key.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.models.denoiser import Denoiser

_MAPS = ("image", "mask", "raters", "unsure")
_FACTS = ("id", "case", "draw", "index", "rater_valid")


def check_depth(denoiser: Denoiser, depth: int) -> None:
    """Check that a network takes volumes of a depth, or single slices for depth 0.

    Raises:
        ValueError: If it does not; the message says what to set.
    """
    name = type(denoiser).__name__
    if depth and denoiser.spatial_dims == 2:
        raise ValueError(
            f"{name} takes single slices, and the data gives volumes of {depth} slices: set data.depth to 0. Networks "
            "of volumes are MedSegDiffLite and ResidualUNet without an encoder."
        )
    if denoiser.spatial_dims == 3 and not depth:
        raise ValueError(
            f"{name} was built for volumes, and the data gives single slices: set data.depth, such as to 32."
        )
    if depth % denoiser.divisor:
        raise ValueError(f"depth is {depth}; {name} takes multiples of {denoiser.divisor}.")


def join_slices(slices: Tensor, depth: int) -> Tensor:
    """Join every ``depth`` slices, (B * depth, ..., H, W), to a volume, (B, ..., depth, H, W)."""
    return slices.reshape(-1, depth, *slices.shape[1:]).movedim(1, -3)


def cut_slices(volume: Tensor, number: int) -> Tensor:
    """Cut the first slices of one volume, (1, ..., D, H, W), to (number, ..., H, W)."""
    return volume[..., :number, :, :].movedim(-3, 1).flatten(0, 1)


def as_volume(slices: Tensor, depth: int) -> Tensor:
    """Join slices (D, C, H, W) to a volume (1, C, D, H, W) of at least ``depth`` slices; repeat the last slice."""
    last = slices[-1:].expand(max(depth - len(slices), 0), *slices.shape[1:])
    return join_slices(torch.cat([slices, last]), max(len(slices), depth))


def volumes_of(keys: Sequence[str]) -> list[slice]:
    """Return the range of each volume: neighbouring slices with the same key."""
    ends, first = [], 0
    for _, group in groupby(keys):
        ends.append(slice(first, first + len(list(group))))
        first = ends[-1].stop
    return ends


def join_batch(batch: Batch, depth: int) -> Batch:
    """Join the slices of a training batch to volumes; each volume takes names and numbers of its first slice.

    Raises:
        ValueError: If the batch does not consist of stacks of ``depth`` slices of one case.
    """
    number = len(batch["image"])
    cases = batch["case"]
    if number % depth or any(len(set(cases[i : i + depth])) > 1 for i in range(0, number, depth)):
        raise ValueError(
            f"A training batch of {number} slices does not consist of stacks of {depth} slices of one case. A network "
            f"of volumes learns from such stacks. Set depth of the data module to {depth}."
        )
    entries = dict(batch)
    maps = {name: join_slices(cast(Tensor, entries[name]), depth) for name in _MAPS if name in entries}
    facts = {name: entries[name][::depth] for name in _FACTS if name in entries}  # type: ignore[index]  # lists and tensors
    return cast(Batch, facts | maps)
