import os

import hypothesis
import pytest

# A busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# One thread: the suite's tensors are small, and processes of a test must not fight over cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Whoever runs the tests may be logged in to W&B: they log nothing there, and tests of W&B are offline.
os.environ |= {"WANDB_MODE": "disabled", "WANDB_ERROR_REPORTING": "false"}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache, zoo or running job."""
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    slurm = [name for name in os.environ if name.startswith("SLURM_")]
    for name in ("DIFFMEDSEG_ZOO", "DIFFMEDSEG_RUN_FOLDER", "LOCAL_RANK", *slurm):
        monkeypatch.delenv(name, raising=False)


def pytest_collection_modifyitems(config, items):
    """Tests on real data run with ``-m real`` alone."""
    if "real" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(pytest.mark.skip(reason="needs the real data: make test-real"))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run of the command line."""
    from tiny_run import tiny_fit

    from diffmedseg.cli import main

    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DIFFMEDSEG_RUN_FOLDER", raising=False)
        main(tiny_fit(runs))
    return runs / "medsegdiff-synthetic" / "version_0"
