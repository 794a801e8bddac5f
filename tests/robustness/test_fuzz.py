"""The fuzzer finds what it looks for, and a slice of what it tries."""

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest

from diffmedseg.errors import DataError
from robustness import worker
from robustness.readers import all_readers
from robustness.worker import Reader, Tally, judge, make_input, run

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of damaged files

# Each of these takes long, or needs the limits of a process of its own.
_SLOW = {"settings", "zoo_config", "zoo_weights", "zoo_entry", "model", "run_settings", "command_line"}


@pytest.fixture(scope="module")
def readers():
    return {reader.name: reader for reader in all_readers()}


def test_mutated_files_give_a_value_or_an_error_of_the_project(readers, tmp_path):
    found = {}
    for reader in readers.values():
        for number in range(2 if reader.name in _SLOW else 15):
            files, name, content = make_input(reader, 0, number)
            folder = tmp_path / f"{reader.name}-{number}"
            for each, data in {**files, name: content}.items():
                (folder / each).parent.mkdir(parents=True, exist_ok=True)
                (folder / each).write_bytes(data)
            if (outcome := judge(reader, folder / name)) not in ("value", "refusal"):
                found[f"{reader.name}:{number}"] = outcome
    assert not found


def test_every_reader_reads_its_seeds(readers, tmp_path):
    """What is refused before it is mutated says nothing when it is refused afterwards."""
    lost = []
    for reader in readers.values():
        outcomes = []
        for number, files in enumerate(reader.seeds[: 1 if reader.name in _SLOW else 4]):
            folder = tmp_path / f"{reader.name}-{number}"
            for each, data in files.items():
                (folder / each).parent.mkdir(parents=True, exist_ok=True)
                (folder / each).write_bytes(data)
            outcomes.append(judge(reader, folder / next(iter(files))))
        if "value" not in outcomes:
            lost.append((reader.name, outcomes))
    assert not lost


def test_an_input_depends_on_its_number_alone(readers):
    for name in ("picture", "dicom", "nifti", "registry", "windows", "command_line"):
        first, second = ([make_input(readers[name], 3, number)[2] for number in (5, 900)] for _ in range(2))
        assert first == second
        assert first[0] != first[1]


def planted(what):
    """A reader with a fault: the input says at which number."""

    def read(path: Path) -> object:
        number = int(path.read_bytes())
        if number % 4 == 0:
            raise DataError("as it should be")
        return what(path) if number == 2 else number

    return Reader("planted", [{"file": b""}], read)


def _spin(path):
    while True:
        pass


def _overflow(path):
    with mmap.mmap(-1, 200 * 2**20) as kept:  # of its own: the heap may hold as much that was freed before the fork
        for page in range(0, len(kept), mmap.PAGESIZE):
            kept[page] = 1


def _write_outside(path):
    place = Path(os.environ["OUTSIDE"])
    place.write_text("here")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda path: {}["x"], "KeyError in no function of the project"),
        (lambda path: ctypes.string_at(0), "killed by SIGSEGV"),
        (lambda path: os._exit(3), "exit 3"),
        (_spin, "over 0.2 s in no function of the project"),
        (_overflow, "over 0.125 GB"),
        (lambda path: os.system("true"), "event os.system"),
        (lambda path: Path("canary-was-run").touch(), "code of the input was run"),
        (_write_outside, "opened for writing outside of its folder"),
        (lambda path: time.sleep(30), "no end in 2 s"),
    ],
)
def test_what_is_planted_is_found(fault, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "SECONDS", 0.2 if fault is _spin else 10)  # others take time on a busy machine
    monkeypatch.setattr(worker, "BYTES", 2**27)
    monkeypatch.setattr(worker, "WALL_SECONDS", 2 if kind.startswith("no end") else 30)
    monkeypatch.setattr(worker, "make_input", lambda reader, _, number: (reader.seeds[0], "file", str(number).encode()))
    monkeypatch.setenv("OUTSIDE", str(tmp_path / "outside"))
    tally = Tally()
    run(planted(fault), 0, 0, 6, tally)
    assert dict(tally.crashes) == {kind: 1}
    assert tally.examples == {kind: [2]}
    assert tally.inputs == 6
