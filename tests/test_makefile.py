import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments, **environment):
    """Print what make would run."""
    return subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", ".venv/installed", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | environment,  # MODEL, ARGS and the like may be set by whoever runs the tests
        capture_output=True,
        text=True,
    )


def words(*arguments, **environment):
    """The words of the last command that make would run, as a shell splits them."""
    return shlex.split(make(*arguments, **environment).stdout.strip().splitlines()[-1])


def test_train_defaults_to_lite_on_synthetic_lesions():
    assert words("train") == [".venv/bin/diffmedseg", "train", "medsegdiff-lite", "synthetic"]


def test_everything_can_be_set():
    options = [
        "MODEL=supervised",
        "DATA=isic2017",
        "DATA_DIR=/my data",
        "PRESET=cpu",
        "ARGS=--trainer.max_steps 100",
        "LOGGER=wandb",
        "CKPT=last",
    ]
    assert words("train", *options) == [
        ".venv/bin/diffmedseg", "train", "supervised", "isic2017", "--preset", "cpu", "--logger", "wandb",
        "--data.root", "/my data", "--ckpt_path", "last", "--trainer.max_steps", "100",
    ]  # fmt: skip


def test_the_demo_shows_what_is_shipped():
    printed = make("demo").stdout
    entry, sample = re.search(r'predict "(\S+)" "(\S+)"', printed).groups()
    assert (ROOT / "zoo" / entry).is_dir()
    assert (ROOT / sample).is_file()
    of_mine = make("demo", "IN=mine.jpg", "OUT=there").stdout
    assert '_isic2017.cpu64" "mine.jpg" --out "there"' in of_mine
    assert (ROOT / "zoo" / re.search(r'predict "([^"]+)"', of_mine)[1]).is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "Say which run or checkpoint"),
        (["test-real"], "Set DIFFMEDSEG_DATA"),
    ],
)
def test_what_is_missing_is_asked_for(arguments, message):
    result = make(*arguments, DIFFMEDSEG_DATA="")
    assert result.returncode != 0
    assert message in result.stderr


def test_evaluate_names_the_run():
    assert words("evaluate", "CKPT=runs/my run/version_0", "ARGS=--model.num_steps 4") == [
        ".venv/bin/diffmedseg", "evaluate", "runs/my run/version_0", "--model.num_steps", "4",
    ]  # fmt: skip


def test_help_names_every_target():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in ("setup", "train", "evaluate", "test", "test-real", "lint", "help"):
        assert f"\n{target} " in f"\n{listed}"


def test_predict_hands_patterns_on_unexpanded():
    printed = make("predict", "CKPT=runs/a/version_0", "IN=photos/*.jpg", "OUT=out", "ARGS=--resume").stdout
    assert printed.strip().endswith('predict "runs/a/version_0" "photos/*.jpg" --out "out" --resume')


@pytest.mark.parametrize("missing", ["CKPT", "IN", "OUT"])
def test_predict_says_what_it_needs(missing):
    given = [f"{name}=x" for name in ("CKPT", "IN", "OUT") if name != missing]
    assert "Say CKPT=..., IN=... and OUT=..." in make("predict", *given).stderr


def test_augment_preview():
    command = words("augment-preview", "DATA=isic2017", "DATA_DIR=/my data")
    assert command[1:5] == ["data", "augment-preview", "isic2017", "/my data"]
