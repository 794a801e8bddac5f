"""The killer finds what it looks for, and a slice of what it tries."""

import os
import subprocess
import sys
import time
from pathlib import Path

from robustness.kill import Command, kill

TESTS = Path(__file__).parents[1]


def write_slowly(folder, again):
    with (folder / "out").open("a") as file:
        for _ in range(40):
            file.write("x")
            file.flush()
            time.sleep(0.005)


def nothing(folder):
    pass


def test_a_command_that_writes_in_place_loses(tmp_path):
    command = Command("planted", nothing, write_slowly, lambda folder: {"out": (folder / "out").read_text()}, nothing)
    assert kill(command, 3, 0, tmp_path).losses


def test_commands_that_are_killed_lose_nothing():
    arguments = ["--kills=4", "--faults=1", "--commands=score,fetch"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    run = [sys.executable, "-m", "robustness.kill", *arguments]
    found = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    assert " 0 losses" in found.stdout
