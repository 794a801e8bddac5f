"""Run a reader on mutated inputs in a forked process with limits of time and memory, and watch what it does.

A crash or a hang of a C library ends that process alone: the parent notes the input's number and goes on.
"""

import contextlib
import json
import mmap
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diffmedseg.errors import CheckpointError, DataError, NoRunError, PluginError, RecipeError, ZooError
from robustness.formats import mutate

SECONDS = 5  # of processor time for one input
WALL_SECONDS = 300  # and of the clock: other processes may take most of it
BYTES = 2 * 2**30  # of memory beyond what the process has at its start
_RESERVED = 3 * BYTES  # what it may reserve, of which it uses a part: this guards the machine
_TOO_LARGE = 71  # exit code of a process whose memory is not known any more, since an input took too much
OWN_ERRORS = (CheckpointError, DataError, NoRunError, PluginError, RecipeError, ZooError)
CANARY = "canary-was-run"
_STATE = struct.Struct("<qdqq")  # number, its start, values and refusals so far

Files = dict[str, bytes]
Mutate = Callable[[str, bytes, random.Random, bytes], bytes]


@dataclass(frozen=True)
class Reader:
    """A function of the project that reads files of users, and files that it reads.

    Attributes:
        name: Its name.
        seeds: Valid inputs: files by name, of which the first is mutated.
        read: Reads the file that was mutated, of which the others lie in the same folder.
        share: Its share of all inputs, relative to the others: what is quick gets more.
        mutate: Mutates the content of a file of a name.
        exits: Whether it may end the process with a message, as a command line does.
        trusts: Whether it imports the classes that its files name: they are the user's own.
        changes: Whether it changes or removes the files that it reads.
    """

    name: str
    seeds: list[Files]
    read: Callable[[Path], object]
    share: float = 1.0
    mutate: Mutate = mutate
    exits: bool = False
    trusts: bool = False
    changes: bool = False


class TimeLimitError(BaseException):
    """An input took too long."""


class WorkBeginsError(BaseException):
    """Stands for the work that a command would begin: the command line was taken."""


@dataclass
class Tally:
    """What became of the inputs of a reader.

    Attributes:
        values: Inputs that gave a value.
        refusals: Inputs that were refused by an error of the project.
        crashes: How many inputs ended in each other way.
        examples: The number of the first input of each.
        seconds: Of all processes together.
        hung: Inputs that did not end: each is tried twice, for the process may have been held up by others.
    """

    values: int = 0
    refusals: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    hung: set[int] = field(default_factory=set)

    @property
    def inputs(self) -> int:
        """Inputs that were tried."""
        return self.values + self.refusals + sum(self.crashes.values())

    def crash(self, kind: str, number: int) -> None:
        """Count a crash."""
        self.crashes[kind] += 1
        self.examples.setdefault(kind, []).append(number)


def make_input(reader: Reader, seed: int, number: int) -> tuple[Files, str, bytes]:
    """Return an input by its number: all files of its seed, and name and mutated content of the first of them."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    files, other = rng.choice(reader.seeds), rng.choice(reader.seeds)
    name = next(iter(files))
    return files, name, reader.mutate(name, files[name], rng, next(iter(other.values())))


def judge(reader: Reader, path: Path) -> str:
    """Read a file; return ``value``, ``refusal``, or in a few words what else happened and where."""
    try:
        reader.read(path)
    except WorkBeginsError:
        return "value"
    except TimeLimitError as error:
        return f"over {SECONDS} s in {_place(error)}"
    except BaseException as error:
        if isinstance(error, OWN_ERRORS):
            return "refusal" if str(error).strip() else f"{type(error).__name__} without a message in {_place(error)}"
        if reader.exits and isinstance(error, SystemExit):
            said = error.code in (0, 2) or str(error.code).startswith("error: ")
            return "refusal" if said else f"SystemExit({error.code!r})"
        return f"{type(error).__name__} in {_place(error)}"
    return "value"


def _place(error: BaseException) -> str:
    """Return the last function of the project that an error came through."""
    found = "no function of the project"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("diffmedseg"):
            found = f"{module}.{frame.f_code.co_name}"
    return found


def run(reader: Reader, seed: int, first: int, last: int, tally: Tally) -> None:
    """Try the inputs from ``first`` up to, not including, ``last``."""
    while first < last:
        first = _run_process(reader, seed, first, last, tally)


def _run_process(reader: Reader, seed: int, first: int, last: int, tally: Tally) -> int:
    """Start a process that tries inputs until it dies; return the number that comes next."""
    state, (reading, writing) = mmap.mmap(-1, _STATE.size), os.pipe()
    _STATE.pack_into(state, 0, first, time.monotonic(), 0, 0)
    folder, start = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory_folder())), time.monotonic()
    process = os.fork()
    if process == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            _Worker(reader, seed, folder, state, writing).work(first, last)
            os._exit(0)
        os._exit(70)
    os.close(writing)
    hung = _collect(process, state, reading, tally)
    _, status = os.waitpid(process, 0)
    shutil.rmtree(folder, ignore_errors=True)
    number, _, values, refusals = _STATE.unpack_from(state)
    tally.values, tally.refusals = tally.values + values, tally.refusals + refusals
    tally.seconds += time.monotonic() - start
    if status == 0:
        return last
    if os.waitstatus_to_exitcode(status) == _TOO_LARGE:
        return int(number)
    code = os.waitstatus_to_exitcode(status)
    if code == 70 and number == first and values + refusals == 0:
        raise RuntimeError(f"The process for {reader.name} could not start.")
    if hung and number not in tally.hung:
        tally.hung.add(number)
        return int(number)
    ended = (
        f"no end in {WALL_SECONDS} s"
        if hung
        else f"killed by {signal.Signals(-code).name}"
        if code < 0
        else f"exit {code}"
    )
    tally.crash(ended, number)
    return int(number) + 1


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _collect(process: int, state: mmap.mmap, reading: int, tally: Tally) -> bool:
    """Take what a process reports, until it ends; end it where it hangs."""
    hung = False
    with os.fdopen(reading) as lines:
        while True:
            if select.select([lines], [], [], 1)[0]:
                line = lines.readline()
                if not line:
                    return hung
                tally.crash(*json.loads(line))
            elif time.monotonic() - _STATE.unpack_from(state)[1] > WALL_SECONDS and not hung:
                hung = True
                os.kill(process, signal.SIGKILL)


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Worker:
    """Tries inputs in this process, which was forked for it."""

    def __init__(self, reader: Reader, seed: int, folder: Path, state: mmap.mmap, writing: int) -> None:
        self.reader, self.seed, self.folder, self.state = reader, seed, folder, state
        self.report = os.fdopen(writing, "w", buffering=1)
        self.violations: list[str] = []
        self.values = self.refusals = 0
        self.written: Files | None = None

    def work(self, first: int, last: int) -> None:
        """Try inputs, and report what crashes."""
        self._confine()
        peak = _peak()
        for number in range(first, last):
            self._note(number)
            outcome = self._read(number)
            grown = [f"over {BYTES / 2**30:g} GB"] * (_peak() > peak + BYTES)
            crashes = [*([outcome] if outcome not in ("value", "refusal") else []), *grown, *self.violations]
            if crashes:
                self.report.write(json.dumps(["; ".join(dict.fromkeys(crashes)), number]) + "\n")
                self.written = None  # what it left behind may matter to the next
            else:
                self.values, self.refusals = self.values + (outcome == "value"), self.refusals + (outcome == "refusal")
            self.violations.clear()
            if grown:
                self._note(number + 1)
                self.report.flush()
                os._exit(_TOO_LARGE)
        self._note(last)

    def _note(self, number: int) -> None:
        """Tell the parent which input comes now."""
        _STATE.pack_into(self.state, 0, number, time.monotonic(), self.values, self.refusals)

    def _read(self, number: int) -> str:
        files, name, content = make_input(self.reader, self.seed, number)
        folder = self.folder / "input"
        if self.written is not files or self.reader.changes:
            shutil.rmtree(folder, ignore_errors=True)
            for each, data in files.items():
                (folder / each).parent.mkdir(parents=True, exist_ok=True)
                (folder / each).write_bytes(data)
            self.written = files
        (folder / name).write_bytes(content)
        return self._limited(folder / name)

    def _limited(self, path: Path) -> str:
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                outcome = judge(self.reader, path)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except TimeLimitError:  # just when it was done
            outcome = f"over {SECONDS} s"
        if os.path.exists(CANARY):
            os.unlink(CANARY)
            if not self.reader.trusts:
                self.violations.append("code of the input was run")
        return outcome

    def _confine(self) -> None:
        os.chdir(self.folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.folder)
        (self.folder / "fuzz_canary.py").write_text(f"open({CANARY!r}, 'w').close()\nclass Thing: pass\n")
        sys.path.insert(0, str(self.folder))
        sys.dont_write_bytecode = True
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _RESERVED, size + _RESERVED))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def stop(signum: int, frame: object) -> None:
            raise TimeLimitError

        signal.signal(signal.SIGPROF, stop)
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = set(mode) & set("wax+") if isinstance(mode, str) else isinstance(flags, int) and flags & _WRITING
            if writes and not isinstance(path, int):
                self._check_inside("opened for writing", path)
        elif event in _PLACES:
            for path in arguments[: _PLACES[event]]:
                self._check_inside(event, path)
        elif event in _FORBIDDEN:
            self.violations.append(f"event {event}")

    def _check_inside(self, what: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))
            if not place.startswith((str(self.folder), "/dev/null")):
                self.violations.append(f"{what} outside of its folder")


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PLACES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"), 2),
}
_FORBIDDEN = {
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.kill"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "webbrowser.open", "pty.spawn"),
}
