import gc
import os
import random
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest
from helpers.process_state import forget_the_user, kept_process_state

forget_the_user()

# The same examples in every run, and a busy machine is no failure.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory):
    """Fixtures of more than one test do not read or write the user's cache either."""
    os.environ["DIFFMEDSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _no_pictures():
    """Runs draw pictures in tests marked ``pictures`` alone, which look at them."""
    from helpers.drawing import drawing

    with drawing(False):
        yield


@pytest.fixture(autouse=True)
def _alone(request, tmp_path_factory):
    """Every test starts alike, whatever ran before it."""
    from helpers.drawing import drawing

    with kept_process_state(), drawing(request.node.get_closest_marker("pictures") is not None):
        os.environ["DIFFMEDSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
        yield


def pytest_collection_finish():
    """Have the garbage collector leave alone what is there before the first test: modules, and the tests themselves."""
    gc.collect()
    gc.freeze()


def pytest_report_header():
    """Say how the order came about, so that it can be had again."""
    seed = os.environ.get("DIFFMEDSEG_TEST_ORDER")
    return f"random order: DIFFMEDSEG_TEST_ORDER={seed}" if seed else None


def pytest_collection_modifyitems(config, items):
    """Tests on real data run with ``-m real`` alone. DIFFMEDSEG_TEST_ORDER is the seed of a random order."""
    if "real" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(pytest.mark.skip(reason="needs the real data: make test-real"))
    if seed := os.environ.get("DIFFMEDSEG_TEST_ORDER"):
        _shuffle(items, seed)


def _shuffle(items, seed):
    """Shuffle the files, and the tests within each: fixtures of a file are made once."""
    chooser, files = random.Random(seed), defaultdict(list)
    for item in items:
        files[item.path].append(item)
    order = list(files)
    chooser.shuffle(order)
    for path in order:
        chooser.shuffle(files[path])
    items[:] = [item for path in order for item in files[path]]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a finished run of the command line, which no test may change."""
    from helpers.tiny_run import tiny_fit

    from diffmedseg.cli import main

    runs = tmp_path_factory.mktemp("runs")
    with kept_process_state():
        main(tiny_fit(runs))
    return runs / "medsegdiff-lite-synthetic" / "version_0"


@pytest.fixture
def run(finished_run, tmp_path_factory) -> Path:
    """The folder of a finished run, and the only one of its experiment."""
    from helpers.tiny_run import copy_run

    return copy_run(finished_run, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of its own for the test; nothing that was downloaded before is found."""
    import huggingface_hub.constants as constants
    from helpers.fake_hub import TOKEN, serving

    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
