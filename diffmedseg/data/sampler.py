"""Samplers for every stage, aware of cases and of the other processes."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from diffmedseg.keyed_random import keyed_generator


class TrainingSampler(Sampler[tuple[int, int]]):
    """Yields the items of one epoch as (index, draw). Draws are numbered from the start of training.

    Draw d is item ``d mod n`` of shuffle ``d // n``. It depends only on the seed and d, and not on the batch size, the
    number of processes or the length of an epoch. A global batch consists of consecutive draws.

    Args:
        num_items: n, the size of the split.
        draws_per_epoch: Number of items in an epoch, over all processes.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes; ``draws_per_epoch`` has to be a multiple of it.
        draws_before: Returns the number of items drawn before an epoch, over all processes. (The number of the epoch
            does not suffice: a resumed run may continue in the middle of an epoch, and Lightning's ``set_epoch`` is
            one too high after a resume from the end of an epoch.)
        weights: Relative frequency of each item; a shuffle then draws n items with replacement.
    """

    def __init__(
        self,
        num_items: int,
        draws_per_epoch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        draws_before: Callable[[], int] = lambda: 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        if num_items < 1:
            raise ValueError("There is nothing to sample from: the training split is empty.")
        if draws_per_epoch % world_size:
            raise ValueError(
                f"{draws_per_epoch} draws per epoch cannot be divided evenly between {world_size} processes: make "
                "draws per epoch a multiple of the processes."
            )
        self.num_items, self.draws_per_epoch, self.seed = num_items, draws_per_epoch, seed
        self.rank, self.world_size, self.draws_before = rank, world_size, draws_before
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        if self.weights is not None and (len(self.weights) != num_items or not self.weights.sum() > 0):
            raise ValueError(
                f"There are {len(self.weights)} weights for {num_items} items; expected one for each item, with one "
                "above 0 at least."
            )

    def __len__(self) -> int:
        """Return the number of draws of this process in an epoch."""
        return self.draws_per_epoch // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (index, draw)."""
        first = self.draws_before()
        shuffle, order = -1, torch.empty(0)
        for draw in range(first + self.rank, first + self.draws_per_epoch, self.world_size):
            if draw // self.num_items != shuffle:
                shuffle = draw // self.num_items
                generator = keyed_generator(self.seed, "order", shuffle)
                if self.weights is None:
                    order = torch.randperm(self.num_items, generator=generator)
                else:
                    order = torch.multinomial(self.weights, self.num_items, replacement=True, generator=generator)
            yield int(order[draw % self.num_items]), draw


class StackSampler(Sampler[tuple[int, int]]):
    """Deals a stack of neighbouring slices, around each item that another sampler draws, for networks of volumes.

    Where in its stack the drawn slice lies is drawn, too, keyed by the draw. All slices of a stack have its draw, so
    that patches and augmentation are the same for all. Stacks stay within their case; where that has fewer slices, its
    last one is repeated.

    Args:
        drawn: Draws the items.
        cases: The case of each item; items of a case stand together, in the order of their slices.
        depth: Slices of a stack.
        seed: Seed of the places.
    """

    def __init__(self, drawn: TrainingSampler, cases: Sequence[str], depth: int, seed: int = 0) -> None:
        self.drawn, self.cases, self.depth, self.seed = drawn, cases, depth, seed
        self._first = {case: index for index, case in reversed([*enumerate(cases)])}
        self._last = {case: index for index, case in enumerate(cases)}

    def __len__(self) -> int:
        """Return the number of slices of this process in an epoch."""
        return len(self.drawn) * self.depth

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (index, draw), stack after stack."""
        for index, draw in self.drawn:
            first, last = (ends[self.cases[index]] for ends in (self._first, self._last))
            offset = int(torch.randint(self.depth, (), generator=keyed_generator(self.seed, "stack", draw)))
            start = max(min(index - offset, last - self.depth + 1), first)
            yield from ((min(position, last), draw) for position in range(start, start + self.depth))


class CaseSampler(Sampler[int]):
    """Divides whole cases between processes for evaluation: no duplicates, no padding, items of a case together.

    Args:
        cases: The case of each item.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, cases: Sequence[str], rank: int = 0, world_size: int = 1) -> None:
        number = {case: position for position, case in enumerate(dict.fromkeys(cases))}
        pairs = [(number[case], index) for index, case in enumerate(cases) if number[case] % world_size == rank]
        self.indices = [index for _, index in sorted(pairs)]

    def __len__(self) -> int:
        """Return the number of items of this process."""
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        """Yield indices, case after case."""
        return iter(self.indices)
