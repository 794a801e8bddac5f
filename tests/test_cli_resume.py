"""Runs of the command line that are stopped and go on, and checkpoints that cannot be used."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from helpers.process_state import kept_process_state
from helpers.signals import LONGER, assert_same_weights, signal_settings, write_signal_at
from helpers.tiny_run import tiny_command, tiny_fit

from diffmedseg.cli import main
from diffmedseg.runs import last_checkpoint


@pytest.fixture
def signal_at(tmp_path, monkeypatch):
    """Settings that have a run signalled."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.syspath_prepend(str(tmp_path))
    write_signal_at(tmp_path)
    return signal_settings


@pytest.fixture
def again(monkeypatch):
    """Run the command line as a process of its own would."""

    def run(arguments):
        monkeypatch.delenv("DIFFMEDSEG_RUN_FOLDER", raising=False)
        main(arguments)

    return run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    runs = tmp_path_factory.mktemp("alone")
    with kept_process_state():
        main(tiny_fit(runs, *LONGER))
    return runs / "medsegdiff-lite-synthetic" / "version_0"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_nothing_comes_after_it(signum, code, alone, signal_at, again, tmp_path):
    with pytest.raises(SystemExit) as found:
        again(tiny_fit(tmp_path / "runs", *LONGER, *signal_at(signum, 4)))
    assert found.value.code == code
    [run] = (tmp_path / "runs" / "medsegdiff-lite-synthetic").iterdir()
    assert not (run / "cases.csv").exists()
    again(tiny_fit(tmp_path / "runs", *LONGER, "--ckpt_path=last"))
    assert (run / "cases.csv").exists()
    assert_same_weights(alone, run)


def test_a_signal_ends_a_test_at_once(signal_at, again, tmp_path):
    with pytest.raises(SystemExit) as found:
        again(tiny_fit(tmp_path / "runs", *signal_at(signal.SIGTERM, -1)))
    assert found.value.code == 143
    [run] = (tmp_path / "runs" / "medsegdiff-lite-synthetic").iterdir()
    assert not (run / "cases.csv").exists()


def test_a_slurm_job_is_requeued_and_goes_on_in_its_folder(alone, signal_at, again, tmp_path, monkeypatch):
    job = {"JOB_ID": "71", "JOB_NAME": "train", "NTASKS": "1", "NTASKS_PER_NODE": "1", "NNODES": "1"}
    for name, value in (job | {"PROCID": "0", "LOCALID": "0", "NODEID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path / "asked"}"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}")
    command = tiny_fit(tmp_path / "runs", *LONGER, *signal_at(signal.SIGUSR1, 4))
    found = subprocess.run([sys.executable, "-m", "diffmedseg", *command], capture_output=True, text=True, timeout=300)
    assert found.returncode == 128 + signal.SIGUSR1, found.stderr[-2000:]
    assert (tmp_path / "asked").read_text() == "requeue 71\n"
    [run] = (tmp_path / "runs" / "medsegdiff-lite-synthetic").iterdir()
    assert "job71" in run.name
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 5
    again(command)  # the same command: nothing says that it goes on
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert_same_weights(alone, run)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_copy_the_process_are_refused(strategy, again, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*--trainer\.strategy ddp\."):
        again(tiny_fit(tmp_path, f"--trainer.strategy={strategy}", "--trainer.devices=2"))
    assert not list(tmp_path.rglob("version_*"))


def damaged(folder, run):
    """Files that are no checkpoint of this model, by name."""
    whole = torch.load(last_checkpoint(run), weights_only=True)
    paths = {name: folder / f"{name}.ckpt" for name in ("empty", "text", "cut", "other", "foreign", "weights")}
    paths["empty"].touch()
    paths["text"].write_text("no checkpoint")
    paths["cut"].write_bytes(last_checkpoint(run).read_bytes()[:20_000])
    torch.save({"a": 1}, paths["other"])
    name, value = next(iter(whole["state_dict"].items()))
    torch.save(whole | {"state_dict": whole["state_dict"] | {name: torch.zeros(*value.shape, 2)}}, paths["foreign"])
    torch.save({"state_dict": whole["state_dict"]}, paths["weights"])
    return paths | {"missing": folder / "missing.ckpt"}


@pytest.mark.parametrize(
    ("name", "command"),
    [*((name, "fit") for name in ("empty", "text", "cut", "other", "foreign", "weights", "missing")),
     ("cut", "test"), ("foreign", "test"), ("missing", "test")],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_used_is_refused(name, command, run, again, tmp_path):
    path = damaged(tmp_path, run)[name]
    with pytest.raises(SystemExit) as found:
        again(tiny_command(command, tmp_path / "runs", f"--ckpt_path={path}"))
    said = str(found.value.code)
    assert said.startswith("error: ")
    assert str(path) in said
    expected = "There is no checkpoint" if name == "missing" else "damaged, of another version, or no model of this"
    assert expected in said
    assert not [path for path in tmp_path.rglob("*_0")]


def test_a_damaged_last_checkpoint_names_what_can_be_done(run, again, tmp_path):
    broken = last_checkpoint(tmp_path / "runs" / "medsegdiff-lite-synthetic" / "version_0")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(last_checkpoint(run).read_bytes()[:20_000])
    with pytest.raises(SystemExit, match=r"cannot be loaded: it is damaged.*Train again without --ckpt_path last\."):
        again(tiny_fit(tmp_path / "runs", "--ckpt_path=last"))
    best = broken.with_name("best.ckpt")
    best.write_bytes(last_checkpoint(run).with_name("best.ckpt").read_bytes())
    with pytest.raises(SystemExit, match=r"Start from .*best\.ckpt in a new folder: --ckpt_path .*best\.ckpt"):
        again(tiny_fit(tmp_path / "runs", "--ckpt_path=last"))


def test_testing_last_tests_the_newest_run(run, again, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "medsegdiff-lite-synthetic" / "version_0")
    again(tiny_command("test", tmp_path, "--ckpt_path=last"))
    tested = (tmp_path / "medsegdiff-lite-synthetic" / "test_0" / "metrics.json").read_text()
    from diffmedseg.zoo import file_sha256

    assert file_sha256(last_checkpoint(run)) in tested
