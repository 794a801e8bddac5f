"""Kill commands at random moments and start them again: ``make kill KILLS=1000``.

Each command runs in a folder of its own, in a process that was forked from one that has imported everything. It is
killed by SIGKILL after a random part of the time that it takes, and started again as a user would. Then its results
have to be those of a command that nobody killed, with nothing half-written, doubled or left over.
"""

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from jsonargparse import auto_cli

Results = dict[str, object]


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Attributes:
        name: Its name.
        prepare: Writes what it reads into a folder.
        run: Runs it there; it is told whether it was started before.
        results: Reads what it wrote: by name, what has to be equal. Raises where anything is damaged.
        check: Looks at what is there after a kill, and raises where a file that has its own name is damaged.
        share: Its share of all kills, relative to the others.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path, bool], None]
    results: Callable[[Path], Results]
    check: Callable[[Path], object]
    share: float = 1.0


@dataclass
class Tally:
    """What became of the kills of a command.

    Attributes:
        kills: Processes that were killed.
        too_late: Processes that were done before.
        losses: What was wrong afterwards, and how often.
        seconds: Of all.
    """

    kills: int = 0
    too_late: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def start(command: Command, folder: Path, again: bool, log_file: Path | None = None) -> int:
    """Run a command in a process of its own; return its id.

    Args:
        command: The command.
        folder: Where it runs.
        again: Whether it was started before.
        log_file: What it says goes there; None for ``log.txt`` in the folder.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        log = os.open(log_file or folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        os.environ["DIFFMEDSEG_CACHE"] = str(folder / "cache")
        command.run(folder, again)
        code = 0
    except SystemExit as error:
        print(error.code, flush=True)
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process: int, seconds: float | None = None) -> int | None:
    """Return the exit code of a process; None where it is still running after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is not None and time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(min(0.002, max(end - time.monotonic(), 0)))
    if end is not None:
        return None
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def finish(command: Command, folder: Path, again: bool) -> None:
    """Run a command to its end.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    code = wait(start(command, folder, again))
    if code != 0:
        said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"exit code {code}: {said[-1] if said else ''}"[:200])


def leftovers(folder: Path) -> list[str]:
    """Name the temporary files and folders that are left."""
    names = {path.name for path in folder.rglob("*") if path.name.startswith(".tmp")}
    return sorted(names)


def differences(whole: Results, found: Results) -> list[str]:
    """Say what differs from the results of a command that nobody killed."""
    lost = [f"{name} is missing" for name in whole if name not in found]
    more = [f"{name} is too much" for name in found if name not in whole]
    return lost + more + [f"{name} differs" for name in whole if name in found and found[name] != whole[name]]


def kill_once(command: Command, folder: Path, whole: Results, delays: Sequence[float], tally: Tally) -> None:
    """Kill a command, one time for each delay, let it come to its end, and look at what there is."""
    command.prepare(folder)
    again = False
    for delay in delays:
        process = start(command, folder, again)
        again = True
        if wait(process, delay) is None:
            os.kill(process, signal.SIGKILL)
            wait(process)
            tally.kills += 1
        else:
            tally.too_late += 1
        command.check(folder)
    finish(command, folder, again)
    found = differences(whole, command.results(folder)) + [f"{name} is left over" for name in leftovers(folder)]
    if found:
        raise RuntimeError("; ".join(found[:3]))


def kill(command: Command, kills: int, seed: int, place: Path, keep: bool = False) -> Tally:
    """Kill a command so many times.

    Args:
        command: The command.
        kills: How many times.
        seed: Of the moments.
        place: Folder for its runs.
        keep: Keep the folders in which something was lost.
    """
    tally, rng, started = Tally(), random.Random(f"{seed}/{command.name}"), time.monotonic()
    first = place / "whole"
    first.mkdir(parents=True)
    command.prepare(first)
    finish(command, first, False)
    whole, begun = command.results(first), time.monotonic()
    second = place / "timed"  # what is imported late was imported in the process that has ended: once more for the time
    second.mkdir()
    command.prepare(second)
    finish(command, second, False)
    seconds = time.monotonic() - begun
    number = 0
    while tally.kills < kills and tally.too_late < kills:
        folder = place / str(number)
        folder.mkdir()
        delays = [rng.uniform(0, seconds) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        try:
            kill_once(command, folder, whole, delays, tally)
        except Exception as error:
            tally.losses[
                f"{type(error).__name__}: {error}".replace(str(folder), "").replace(f"/{number}/", "/N/")[:200]
            ] += 1
            if keep:
                continue
        finally:
            number += 1
        shutil.rmtree(folder, ignore_errors=True)
    tally.seconds = time.monotonic() - started
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """Print what became of all kills."""
    lines = [f"{'command':<16}{'kills':>7}{'too late':>10}{'losses':>8}{'seconds':>9}"]
    for name, tally in tallies.items():
        lost = sum(tally.losses.values())
        lines.append(f"{name:<16}{tally.kills:>7}{tally.too_late:>10}{lost:>8}{tally.seconds:>9.0f}")
        lines += [f"    {number:>4} x {what}" for what, number in tally.losses.most_common(12)]
    total = sum(tally.kills for tally in tallies.values())
    lines.append(f"{total} kills, {sum(sum(tally.losses.values()) for tally in tallies.values())} losses")
    return "\n".join(lines)


def main(kills: int = 100, faults: int = 3, seed: int = 0, commands: str = "", out: Path | None = None) -> None:
    """Kill all commands, print a table, and end with exit code 1 where anything was lost.

    Args:
        kills: Kills of all commands together.
        faults: How often each command meets a full disk, and runs in two processes at once.
        seed: Of the moments.
        commands: Names of commands, with commas between; none for all.
        out: Folder in which the runs stay where something was lost; None for a temporary one.
    """
    from robustness.commands import all_commands
    from robustness.faults import try_faults

    chosen = [one for one in all_commands() if not commands or one.name in commands.split(",")]
    total, tallies, others = sum(one.share for one in chosen), {}, {}
    with TemporaryDirectory() as temporary:
        for one in chosen:
            count = max(1, round(kills * one.share / total))
            tallies[one.name] = kill(one, count, seed, (out or Path(temporary)) / one.name, out is not None)
            print("\n".join(table({one.name: tallies[one.name]}).splitlines()[1:-1]), flush=True)
            if faults:
                try_faults(one, Path(temporary) / f"{one.name}-faults", faults, seed, others)
    print(table(tallies))
    print(table(others).replace("command", "fault  ").replace("  kills", "  times").replace(" kills", " faults"))
    sys.exit(any(tally.losses for tally in (*tallies.values(), *others.values())))


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    auto_cli(main)
