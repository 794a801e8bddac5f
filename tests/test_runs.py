"""Folders of runs: one for all processes of a run, one for each run, found again when a run starts again."""

import csv
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from diffmedseg.checkpoints import WholeFileIO
from diffmedseg.run_log import RunLogger, read_whole_rows
from diffmedseg.runs import (
    NoRunError,
    experiment_folder,
    last_checkpoint,
    new_run,
    newest_run,
    remove_leftovers,
    shared_run,
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def test_runs_that_start_at_the_same_moment_take_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: new_run(tmp_path, "version"), range(8)))
    with multiprocessing.get_context("fork").Pool(4) as processes:
        folders |= set(processes.starmap(new_run, [(tmp_path, "version")] * 8))
    assert {path.name for path in folders} == {f"version_{number}" for number in range(16)}


@pytest.fixture
def slurm(monkeypatch):
    """A process of a batch job."""

    def start(job="71", **variables):
        named = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}
        for name, value in (named | variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("DIFFMEDSEG_RUN_FOLDER", raising=False)

    return start


def test_all_processes_of_a_job_and_its_next_start_take_one_folder(slurm, tmp_path):
    slurm(SLURM_PROCID="0")
    first = shared_run(tmp_path, "version", ["fit", "-c", "a.yaml"])
    slurm(SLURM_PROCID="1", SLURM_RESTART_COUNT="1")
    assert shared_run(tmp_path, "version", ["fit", "-c", "a.yaml"]) == first
    assert first.is_dir()
    assert "job71" in first.name


def test_commands_jobs_and_tasks_of_an_array_have_folders_of_their_own(slurm, tmp_path):
    starts = [
        ("71", ["fit"], {}),
        ("71", ["fit", "--seed_everything=1"], {}),
        ("72", ["fit"], {}),
        ("73", ["fit"], {"SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "0"}),
        ("74", ["fit"], {"SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "1"}),
    ]
    folders = set()
    for job, command, variables in starts:
        slurm(job, **variables)
        folders.add(shared_run(tmp_path, "version", command))
    assert len(folders) == len(starts)


def test_a_person_in_an_interactive_job_starts_a_new_run_each_time(slurm, tmp_path):
    for number in range(2):
        slurm(SLURM_JOB_NAME="bash")
        assert shared_run(tmp_path, "version", ["fit"]).name == f"version_{number}"


def test_processes_of_an_unknown_launcher_have_to_be_told_their_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NoRunError, match="DIFFMEDSEG_RUN_FOLDER"):
        shared_run(tmp_path, "version", ["fit"])
    monkeypatch.setenv("DIFFMEDSEG_RUN_FOLDER", str(tmp_path / "ours"))
    assert shared_run(tmp_path, "version", ["fit"]) == tmp_path / "ours"


def test_the_newest_run_is_the_last_that_was_started_or_the_job_that_saved_later(tmp_path):
    for name in ("version_9", "version_10", "version_11"):
        last_checkpoint(tmp_path / name).parent.mkdir(parents=True)
    for name in ("version_10", "version_9"):
        last_checkpoint(tmp_path / name).touch()
    assert newest_run(tmp_path).name == "version_10"  # version_11 has saved nothing
    job = last_checkpoint(tmp_path / "version_job71-0a1b2c3d")
    job.parent.mkdir(parents=True)
    job.touch()
    assert newest_run(tmp_path) == job.parents[1]


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def test_rows_from_beyond_the_checkpoint_are_dropped(tmp_path):
    logger = RunLogger(tmp_path)
    for step in range(5):
        logger.log_metrics({"loss": step / 10}, step)
    logger.save()
    goes_on = RunLogger(tmp_path, steps=3)
    goes_on.log_metrics({"loss": 0.7, "val": 1.0}, 3)  # the header changes, too
    goes_on.save()
    assert [(row["step"], row["loss"]) for row in rows_of(tmp_path)] == [
        ("0", "0.0"),
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "0.7"),
    ]


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_a_file_that_was_cut_off_anywhere_keeps_its_whole_rows(length, tmp_path):
    whole = b"loss,step\r\n0.25,0\r\n0.5,1\r\n0.75,2\r\n"
    (tmp_path / "metrics.csv").write_bytes(whole[:length])
    _, rows = read_whole_rows(tmp_path / "metrics.csv")
    assert len(rows) == max(whole[:length].count(b"\r") - 1, 0)
    logger = RunLogger(tmp_path, steps=9)
    logger.log_metrics({"loss": 1.0}, 9)
    logger.save()
    assert [row["step"] for row in rows_of(tmp_path)] == [row["step"] for row in rows] + ["9"]


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = last_checkpoint(tmp_path)
    WholeFileIO().save_checkpoint({"weights": torch.ones(3)}, path)

    def killed(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        WholeFileIO().save_checkpoint({"weights": torch.zeros(3)}, path)
    assert torch.load(path, weights_only=True)["weights"].tolist() == [1, 1, 1]
    (path.parent / f".tmp-{'0' * 32}-last.ckpt").touch()
    remove_leftovers(tmp_path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/../../b", "", "."])
def test_no_name_leads_out_of_the_folder_of_runs(name):
    with pytest.raises(NoRunError, match="leads out of runs"):
        experiment_folder("runs", name)
    assert experiment_folder("runs", "choices/lite.0") == Path("runs/choices/lite.0")
