"""Two processes under torchrun and under programs that stand in for SLURM's: all of them end with the same weights."""

import csv
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.signals import LONGER, assert_same_weights, signal_settings, write_signal_at
from helpers.tiny_run import EXPERIMENTS, tiny_fit

from diffmedseg.runs import last_checkpoint

#: Starts the command once for each task of two nodes with one task each, as srun does.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[1:], env=os.environ | {{
        "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0", "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1",
    }})
    for rank in range(2)
]
sys.exit(max(task.wait() for task in tasks))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
JOB = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "diffmedseg"}


@pytest.fixture
def job(tmp_path):
    """Return the environment of a job, whose programs lie in a folder of their own; asked-for requeues are noted."""
    commands = {
        "srun": SRUN,
        "diffmedseg": f'#!/bin/sh\nexec {sys.executable} -m diffmedseg "$@"\n',
        "scontrol": f'#!/bin/sh\necho "$@" >> "{tmp_path / "asked"}"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    write_signal_at(tmp_path)
    with socket.socket() as free:  # Lightning takes the port from the job's id
        free.bind(("127.0.0.1", 0))
        port = 15000 + free.getsockname()[1] % 1000
    places = os.pathsep.join([str(tmp_path), *sys.path])
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | JOB | {"PATH": path, "PYTHONPATH": places, "SLURM_JOB_ID": str(port)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two nodes under torchrun, which nothing stops."""
    runs = tmp_path_factory.mktemp("whole")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    settings = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp", "--data.batch_size=1"]
    launch = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}", "--rdzv_id=7"]
    command = [*TORCHRUN, *launch, "-m", "diffmedseg", *tiny_fit(runs, *LONGER, *settings)]
    nodes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [node.communicate(timeout=500)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(text[-2000:] for text in said)
    [run] = (runs / "medsegdiff-lite-synthetic").iterdir()
    return run


def assert_all_cases(run):
    rows = list(csv.DictReader((run / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["test-0000", "test-0001", "test-0002"]


def submit(script, environment, *arguments):
    command = ["bash", str(EXPERIMENTS / "cluster" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


def test_a_job_on_two_nodes_is_requeued_and_ends(job, whole, tmp_path):
    """SIGUSR1 comes two minutes before the time limit; the same job then goes on and tests every case once."""
    signals = signal_settings(signal.SIGUSR1, 4)
    command = tiny_fit(tmp_path / "runs", *LONGER, "--data.batch_size=1", *signals)[1:]
    found = submit("train.sbatch", job, *command)
    # srun ends with the largest code; the signal of this test reaches one process, which has the other stop, too.
    assert found.returncode == 128 + max(signal.SIGUSR1, signal.SIGTERM), found.stderr[-3000:]
    assert (tmp_path / "asked").read_text() == f"requeue {job['SLURM_JOB_ID']}\n"
    [run] = (tmp_path / "runs" / "medsegdiff-lite-synthetic").iterdir()
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 5
    assert not (run / "cases.csv").exists()
    found = submit("train.sbatch", job, *command)
    assert found.returncode == 0, found.stderr[-3000:]
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert_all_cases(run)
    assert_same_weights(whole, run)


def test_an_array_of_jobs_divides_a_folder(job, tmp_path):
    (tmp_path / "bin" / "diffmedseg").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    task = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8"}
    found = submit("predict.sbatch", job | task, "entry", "my photos", "--out", "masks")
    expected = ["predict", "entry", "my photos", "--out", "masks", "--part", "2/8", "--resume"]
    assert found.stdout.splitlines() == expected, found.stderr


@pytest.mark.parametrize("script", sorted((EXPERIMENTS / "cluster").iterdir()), ids=lambda path: path.name)
def test_job_scripts_are_whole(script):
    text = Path(script).read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert text.startswith("#!/bin/bash\n")  # sbatch reads its options up to the first command
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert text.index(options[-1]) < text.index("set -euo pipefail")
    assert "#SBATCH --requeue" in options


def test_two_nodes_under_torchrun_test_all_cases(whole):
    assert_all_cases(whole)


def test_processes_that_torchrun_starts_again_go_on_in_one_folder(whole, tmp_path, monkeypatch):
    write_signal_at(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    settings = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=1", *LONGER]
    settings += signal_settings(signal.SIGTERM, 4, rank=1)
    launch = ["--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    command = [*TORCHRUN, *launch, "-m", "diffmedseg", *tiny_fit(tmp_path / "runs", *settings)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stderr[-3000:]
    [run] = (tmp_path / "runs" / "medsegdiff-lite-synthetic").iterdir()
    assert_same_weights(whole, run)
