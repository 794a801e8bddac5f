"""Fuzz the readers: ``make fuzz INPUTS=1000000``.

Valid files are mutated and read in process. Each input has to end in a value or in an error of the project, within 5 s
of processor time and 2 GB of memory; nothing in it may be run, and nothing written outside of the input's folder. The
mutator is ours (``mutation.py``, ``formats.py``): an input depends on the seed, the reader and its number alone, so
that ``ONLY=picture:1234`` makes it again and shows the traceback.
"""

import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from jsonargparse import auto_cli

from robustness.worker import Reader, Tally, make_input, run

_CHUNK = 2000  # inputs of one process: what a library leaks goes with it


def share_out(readers: Sequence[Reader], inputs: int) -> dict[str, int]:
    """Say how many inputs each reader gets."""
    total = sum(reader.share for reader in readers)
    return {reader.name: max(1, round(inputs * reader.share / total)) for reader in readers}


def fuzz(readers: Sequence[Reader], counts: dict[str, int], seed: int, jobs: int, log: Path | None) -> dict[str, Tally]:
    """Try inputs of all readers, each process on a few thousand of them.

    Args:
        readers: The readers.
        counts: Inputs of each.
        seed: Of the mutations.
        jobs: Processes at a time.
        log: File to which the table is written as it comes about; None for none.
    """
    tallies, lock, start = {reader.name: Tally() for reader in readers}, Lock(), time.monotonic()
    chunks = [
        (reader, first, min(first + _CHUNK, counts[reader.name]))
        for reader in readers
        for first in range(0, counts[reader.name], _CHUNK)
    ]
    random.Random(seed).shuffle(chunks)  # what is slow comes among what is quick

    def work(chunk: tuple[Reader, int, int]) -> None:
        reader, first, last = chunk
        own = Tally()
        run(reader, seed, first, last, own)
        with lock:
            merge(tallies[reader.name], own)
            if log is not None:
                log.write_text(table(tallies, time.monotonic() - start))

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, chunks))
    return tallies


def merge(total: Tally, part: Tally) -> None:
    """Add what became of some inputs to what became of others."""
    total.values, total.refusals = total.values + part.values, total.refusals + part.refusals
    total.crashes, total.seconds = total.crashes + part.crashes, total.seconds + part.seconds
    for kind, numbers in part.examples.items():
        total.examples[kind] = sorted([*total.examples.get(kind, []), *numbers])[:5]


def table(tallies: dict[str, Tally], seconds: float) -> str:
    """Print what became of all inputs."""
    lines = [f"{'reader':<22}{'inputs':>9}{'values':>9}{'refusals':>9}{'crashes':>8}{'seconds':>9}{'per s':>7}"]
    for name, tally in tallies.items():
        speed = tally.inputs / tally.seconds if tally.seconds else 0
        crashes = sum(tally.crashes.values())
        lines.append(
            f"{name:<22}{tally.inputs:>9}{tally.values:>9}{tally.refusals:>9}{crashes:>8}{tally.seconds:>9.1f}{speed:>7.0f}"
        )
        for kind, number in tally.crashes.most_common():
            lines.append(f"    {number:>6} x {kind}; ONLY={name}:{tally.examples[kind][0]}")
    inputs, crashes = (
        sum(values) for values in zip(*((t.inputs, sum(t.crashes.values())) for t in tallies.values()), strict=True)
    )
    spent = sum(tally.seconds for tally in tallies.values())
    lines.append(
        f"{inputs} inputs, {crashes} crashes, {spent / 3600:.2f} hours of processes in {seconds / 3600:.2f} hours"
    )
    return "\n".join(lines) + "\n"


def save_examples(readers: Sequence[Reader], tallies: dict[str, Tally], seed: int, out: Path) -> None:
    """Write the first inputs of each kind of crash."""
    for reader in readers:
        for kind, numbers in tallies[reader.name].examples.items():
            for number in numbers[:3]:
                files, name, content = make_input(reader, seed, number)
                folder = out / reader.name / f"{number}-{''.join(c if c.isalnum() else '-' for c in kind)[:80]}"
                for each, data in {**files, name: content}.items():
                    (folder / each).parent.mkdir(parents=True, exist_ok=True)
                    (folder / each).write_bytes(data)


def show(reader: Reader, seed: int, number: int) -> None:
    """Read one input in this process, without limits."""
    files, name, content = make_input(reader, seed, number)
    with TemporaryDirectory() as folder:
        for each, data in {**files, name: content}.items():
            (Path(folder) / each).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / each).write_bytes(data)
        print(f"{reader.name} {number}: {name}, {len(content)} bytes: {content[:400]!r}", flush=True)
        print(reader.read(Path(folder) / name))


def main(
    inputs: int = 100_000,
    seed: int = 0,
    jobs: int = 2,
    readers: str = "",
    only: str = "",
    out: Path | None = None,
) -> None:
    """Fuzz, and end with exit code 1 where anything crashed.

    Args:
        inputs: Inputs of all readers together.
        seed: Of the mutations.
        jobs: Processes at a time.
        readers: Names of readers, with commas between; none for all.
        only: One input, as reader:number, which is read in this process: its traceback is shown.
        out: Folder for inputs that crashed and for the table.
    """
    from robustness.readers import all_readers

    chosen = {reader.name: reader for reader in all_readers()}
    if only:
        name, _, number = only.partition(":")
        show(chosen[name], seed, int(number))
        return
    if readers:
        chosen = {name: chosen[name] for name in readers.split(",")}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    listed, start = list(chosen.values()), time.monotonic()
    tallies = fuzz(listed, share_out(listed, inputs), seed, jobs, None if out is None else out / "table.txt")
    print(table(tallies, time.monotonic() - start))
    if out is not None:
        save_examples(listed, tallies, seed, out)
    sys.exit(any(tally.crashes for tally in tallies.values()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    auto_cli(main)
