"""The commands ``app`` and ``serve``, as far as nothing is served."""

import base64
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from diffmedseg.cli import app, main
from diffmedseg.errors import ZooError
from diffmedseg.zoo.shelf import Shelf
from diffmedseg.zoo.source import packaged_zoo

ENTRY = "medsegdiff-lite_synthetic.tiny"


@pytest.fixture(autouse=True)
def _own_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_files_go_when_the_app_is_ended(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    roots = []

    def serve(models, host, port, megabytes, device, trust, root):
        roots.append(root)
        (root / "upload.png").write_bytes(b"picture")
        assert (models, host, port) == ([ENTRY], "127.0.0.1", 7000)
        assert os.environ["GRADIO_TEMP_DIR"] == str(root)
        assert root.stat().st_mode & 0o077 == 0
        os.kill(os.getpid(), number)

    monkeypatch.setattr(app, "_serve", serve)
    main(["app", ENTRY, "--port", "7000"])
    assert "Stopped." in capsys.readouterr().err
    assert len(roots) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "package", "extra"), [(["app"], "gradio", "app"), (["serve", ENTRY], "uvicorn", "serve")]
)
def test_a_missing_package_is_one_sentence(command, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == f"error: {package} is missing: pip install 'diffmedseg[{extra}]'"


@pytest.mark.parametrize("command", ["app", "serve"])
def test_a_model_that_is_not_there_is_one_sentence(command):
    pytest.importorskip("gradio")
    with pytest.raises(SystemExit, match="is no file, no run's folder and no entry of the zoo"):
        main([command, "nothing"])


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                                ("0.0.0.0", False), ("example.org", False)])  # fmt: skip
def test_only_loopback_goes_without_a_warning(host, loopback):
    assert app._is_loopback(host) is loopback


def test_the_shelf_loads_a_model_once_and_gives_its_card():
    shelf = Shelf([ENTRY], (), "cpu")
    assert shelf.names[0] == ENTRY
    assert shelf.names.count(ENTRY) == 1
    assert "supervised_isic2017.cpu64" in shelf.names
    assert "medsegdiff-lite_brats.gpu128" not in shelf.names  # a recipe
    assert shelf.get(ENTRY) is shelf.get(ENTRY)
    assert not shelf.get(ENTRY).training
    card = shelf.card(ENTRY)
    assert card.lstrip().startswith(f"# {ENTRY}")
    assert "![" not in card
    assert "(The picture cases.png lies beside this card in the zoo.)" in card
    [data] = re.findall(r"!\[[^]]*\]\(data:image/png;base64,([^)]*)\)", shelf.card(ENTRY, pictures=True))
    assert base64.b64decode(data) == (packaged_zoo() / ENTRY / "cases.png").read_bytes()
    assert "not for diagnosis" in shelf.intended_use(ENTRY).lower()
    with pytest.raises(ZooError, match="There is no model"):
        shelf.get(str(Path(__file__).parent))


def test_a_run_has_a_card_of_what_its_checkpoint_says(run):
    shelf = Shelf([str(run)], (), "cpu", whole_zoo=False)
    card = shelf.card(str(run))
    assert "Not for diagnosis" in card
    assert "red, green, blue, 16 x 16 px" in card
    assert shelf.names == [str(run)]
