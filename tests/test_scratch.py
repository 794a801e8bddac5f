"""Temporary folders are private, and go at the end or with the next process."""

import os
import tempfile

import pytest

from diffmedseg.scratch import scratch_folder

PREFIX = "diffmedseg-test-"


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_is_private_and_removed_even_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), scratch_folder(PREFIX) as folder:  # noqa: PT012  the end is what is tested
        assert folder.parent == tmp_path.resolve()
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "upload.png").write_bytes(b"picture")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_processes_are_removed_and_folders_in_use_are_not(tmp_path):
    killed, young, foreign = (tmp_path / name for name in (f"{PREFIX}a", f"{PREFIX}b", "other"))
    for folder in (killed, young, foreign):
        folder.mkdir()
        (folder / "upload.png").write_bytes(b"picture")
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(foreign)
    for folder in (killed, foreign):
        os.utime(folder, (0, 0))
    with scratch_folder(PREFIX) as used:
        os.utime(used, (0, 0))
        with scratch_folder(PREFIX):
            assert used.exists()
    assert not killed.exists()
    assert (foreign / "upload.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, link.name, foreign.name]
