"""Other faults of the machine: a disk that is full or read-only, and two processes at once."""

import contextlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from robustness.kill import Command, Results, Tally, differences, finish, leftovers, start, wait


def run_twice(command: Command, folder: Path, whole: Results) -> None:
    """Run a command in two processes at once; each has to come to its end or say why not.

    Raises:
        RuntimeError: If anything is lost.
    """
    command.prepare(folder)
    first = start(command, folder, False)
    second = start(command, folder, True)
    codes = [wait(process) for process in (first, second)]
    said = (folder / "log.txt").read_text(errors="replace")
    if codes != [0, 0] and (min(codes) != 0 or "error: " not in said or "Traceback" in said):
        raise RuntimeError(f"exit codes {codes}: {said.strip().splitlines()[-1] if said.strip() else ''}")
    finish(command, folder, True)
    _compare(command, folder, whole)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a disk in memory at a folder; only root can."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def can_mount(place: Path) -> bool:
    """Whether this process may mount a disk."""
    try:
        with small_disk(place / "mount"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def run_without_room(command: Command, folder: Path, whole: Results, rng: random.Random, needed: int) -> None:
    """Run a command on a disk that becomes full, then with room.

    Raises:
        RuntimeError: If it does not say what is wrong, or anything is lost.
    """
    with small_disk(folder):
        command.prepare(folder)
        used = shutil.disk_usage(folder).used
        _remount(folder, f"size={used + 4096 + int(rng.uniform(0, needed))}")
        _expect_error(command, folder)
        _remount(folder, "size=512m")
        command.check(folder)
        finish(command, folder, True)
        _compare(command, folder, whole)


def run_read_only(command: Command, folder: Path, whole: Results) -> None:
    """Run a command on a disk that cannot be written, then on one that can.

    Raises:
        RuntimeError: If it does not say what is wrong, or anything is lost.
    """
    with small_disk(folder):
        command.prepare(folder)
        _remount(folder, "ro")
        _expect_error(command, folder)
        _remount(folder, "rw")
        finish(command, folder, True)
        _compare(command, folder, whole)


def _remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def _expect_error(command: Command, folder: Path) -> None:
    """Run a command, whose log lies elsewhere; it may end well, or with a line that says what is wrong."""
    log = folder.with_name(f"{folder.name}.log")
    code = wait(start(command, folder, False, log))
    said = log.read_text(errors="replace").strip()
    log.unlink()
    if code and (code < 0 or "Traceback" in said or ("error: " not in said and "failed: " not in said)):
        lines = said.splitlines()
        raise RuntimeError(f"exit code {code}: {lines[-1] if lines else 'nothing said'}")


def _compare(command: Command, folder: Path, whole: Results) -> None:
    found = differences(whole, command.results(folder)) + [f"{name} is left over" for name in leftovers(folder)]
    if found:
        raise RuntimeError("; ".join(found[:3]))


def try_faults(command: Command, place: Path, times: int, seed: int, tallies: dict[str, Tally]) -> None:
    """Try each fault several times; how often each was met, and what was lost, goes to ``tallies``."""
    place.mkdir(parents=True)
    first, rng = place / "whole", random.Random(f"{seed}/{command.name}")
    first.mkdir()
    command.prepare(first)
    before = _size(first)
    finish(command, first, False)
    whole, needed = command.results(first), _size(first) - before
    faults = {"two at once": lambda folder: (folder.mkdir(), run_twice(command, folder, whole))}
    if can_mount(place):
        faults["full disk"] = lambda folder: run_without_room(command, folder, whole, rng, needed)
        faults["read-only"] = lambda folder: run_read_only(command, folder, whole)
    for name, fault in faults.items():
        tally = tallies.setdefault(name, Tally())
        for number in range(1 if name == "read-only" else times):
            folder = place / f"{name.replace(' ', '-')}-{number}"
            tally.kills += 1
            try:
                fault(folder)
            except Exception as error:
                said = f"{command.name}: {type(error).__name__}: {error}"
                tally.losses[said.replace(str(folder), "").replace(str(place), "")[:220]] += 1
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
