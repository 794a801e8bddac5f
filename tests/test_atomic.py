"""Files and folders that appear whole, locks, and what killed processes leave."""

import errno
import os
import signal
import threading
import time

import pytest
import torch

from diffmedseg import runs
from diffmedseg.atomic import lock_folder, temporary_folder, write_alone, write_whole
from diffmedseg.checkpoints import write_checkpoint
from diffmedseg.errors import NoRunError


class Holder:
    """Another process that holds the lock of a folder."""

    def __init__(self, folder):
        (told, tell), (self.wait, self.end) = os.pipe(), os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.end)
            with lock_folder(folder):
                os.write(tell, b"held")
                os.read(self.wait, 1)  # until the other end is closed
            os._exit(0)
        assert os.read(told, 4) == b"held"
        for handle in (told, tell, self.wait):
            os.close(handle)

    def release(self):
        end, self.end = self.end, None
        if end is not None:
            os.close(end)
            os.waitpid(self.process, 0)

    def kill(self):
        os.kill(self.process, signal.SIGKILL)
        self.release()


@pytest.fixture
def other_process():
    """Have another process hold the lock of a folder, until it is told to end."""
    holders = []

    def start(folder):
        holders.append(Holder(folder))
        return holders[-1]

    yield start
    for holder in holders:
        holder.release()


def test_a_lock_is_waited_for_or_refused(tmp_path, other_process):
    other = other_process(tmp_path)
    with pytest.raises(BlockingIOError), lock_folder(tmp_path):
        pass
    threading.Timer(0.1, other.release).start()
    with lock_folder(tmp_path, wait=30) as held:
        assert held


def test_a_lock_of_a_killed_process_is_free(tmp_path, other_process):
    other_process(tmp_path).kill()
    with lock_folder(tmp_path) as held:
        assert held


def test_a_temporary_folder_removes_what_kills_left_and_nothing_else(tmp_path, other_process):
    for name in (".tmp-abcd1234-cases-0", ".tmp-zzzz____-other", ".tmp-0000beef-busy", ".hidden", "cases-1"):
        (tmp_path / name / "inner").mkdir(parents=True)
    other_process(tmp_path / ".tmp-0000beef-busy")
    (tmp_path / ".tmp-abcd1234-file").write_text("no folder")
    with temporary_folder(tmp_path / "cases-2") as folder:
        folder.mkdir()
        folder.rename(tmp_path / "cases-2")
    names = {".tmp-0000beef-busy", ".tmp-abcd1234-file", ".hidden", "cases-1", "cases-2"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_writing_alone_removes_what_kills_left_of_the_same_file(tmp_path):
    digits = "0" * 32
    for name in (f".tmp-{digits}-a.csv", f".tmp-{digits}-b.csv", ".tmp-a.csv"):
        (tmp_path / name).touch()
    write_alone(tmp_path / "a.csv", lambda path: path.write_text("a"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", f".tmp-{digits}-b.csv", ".tmp-a.csv"}


def test_a_full_disk_is_said_of_the_file_and_leaves_nothing(tmp_path):
    def save(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.csv").write_text("before")
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.csv'"):
        write_whole(tmp_path / "a.csv", save)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_checkpoint_on_a_full_disk_is_said_to_be_that(tmp_path, monkeypatch):
    monkeypatch.setattr("diffmedseg.checkpoints.write_alone", lambda path, save: save(type(path)("/dev/full")))
    with pytest.raises(OSError, match="No space left on device"):
        write_checkpoint(tmp_path / "a.ckpt", {"weights": torch.zeros(1_000_000)})


def test_two_processes_do_not_train_in_one_folder(tmp_path, other_process, monkeypatch):
    monkeypatch.setattr(runs, "_PATIENCE", 0.2)
    other = other_process(tmp_path)
    with pytest.raises(NoRunError, match=r"Another process is training in .*Wait for its end, or train in a new"):
        runs.hold_run(tmp_path)
    monkeypatch.setattr(runs, "_PATIENCE", 30)
    other.release()  # the workers of a killed process keep its lock for a moment
    runs.hold_run(tmp_path)
    runs.hold_run(tmp_path)  # the same process may go on
    with pytest.raises(BlockingIOError), lock_folder(tmp_path):
        pass
    runs.release_runs()
    with lock_folder(tmp_path) as held:
        assert held


def test_a_folder_is_made_once_by_processes_that_start_together(tmp_path):
    from diffmedseg.data.cache import build_once

    built = []

    def write(folder):
        folder.mkdir()
        time.sleep(0.1)
        (folder / "a").write_text("whole")
        built.append(folder)

    threads = [threading.Thread(target=build_once, args=(tmp_path / "cases-0", 1, write)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built
    assert [path.name for path in tmp_path.iterdir()] == ["cases-0"]
    assert (tmp_path / "cases-0" / "a").read_text() == "whole"
