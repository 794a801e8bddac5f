import os
import re
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


def test_train_defaults_to_medsegdiff_on_synthetic():
    printed = make("train").stdout
    assert (
        ".venv/bin/python -m diffmedseg fit -c experiments/base.yaml -c experiments/medsegdiff/synthetic.yaml"
        in printed
    )


def test_everything_can_be_set():
    options = [
        "MODEL=supervised",
        "DATA=isic2017",
        "DATA_DIR=/d",
        "PRESET=cpu",
        "ARGS=--trainer.max_steps 100",
        "LOGGER=wandb",
        "CKPT=last",
    ]
    printed = make("train", *options).stdout
    assert printed.strip().endswith(
        "-c experiments/supervised/isic2017.yaml -c experiments/supervised/cpu.yaml -c experiments/logger/wandb.yaml "
        '--data.root "/d" --ckpt_path last --trainer.max_steps 100'
    )


def test_the_demo_shows_what_is_shipped():
    printed = make("demo").stdout
    entry, sample = re.search(r'predict (\S+) "(\S+)"', printed).groups()
    assert (ROOT / "zoo" / entry).is_dir()
    assert (ROOT / sample).is_file()
    of_mine = make("demo", "IN=mine.jpg", "OUT=there").stdout
    assert '_isic2017.cpu64 "mine.jpg" --out "there"' in of_mine
    assert (ROOT / "zoo" / re.search(r"predict (\S+)", of_mine)[1]).is_dir()


def test_a_member_of_a_family_changes_the_pair_of_the_family():
    printed = make("train", "MODEL=medsegdiff-lite", "DATA=isic2017", "PRESET=cpu").stdout
    assert printed.strip().endswith(
        "-c experiments/medsegdiff/isic2017.yaml -c experiments/medsegdiff/member/lite.yaml "
        "-c experiments/medsegdiff/cpu.yaml --experiment medsegdiff-lite-isic2017"
    )


def test_data_dir_defaults_to_the_environments():
    assert '--data.root "/all/isic2017"' in make("train", "DATA=isic2017", DIFFMEDSEG_DATA="/all").stdout
    assert "--data.root" not in make("train", DIFFMEDSEG_DATA="/all").stdout
    assert "--data.root" not in make("train", "DATA=isic2017").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "MODEL=unet"], "medsegdiff/synthetic"),
        (["train", "DATA=mnist"], "supervised/isic2017"),
        (["train", "MODEL=medsegdiff-v9"], "There are: medsegdiff medsegdiff-lite medsegdiff-v1 medsegdiff-v2"),
        (["train", "PRESET=huge"], "cpu"),
        (["train", "MODEL=medsegdiff-v2", "PRESET=paper"], "paper.yaml is MedSegDiff-V1"),
        (["train", "LOGGER=paper"], "There are: csv tensorboard wandb"),
        (["train", "CKPT=/no/last.ckpt"], "There is no file /no/last.ckpt"),
        (["evaluate"], "Say which checkpoint"),
        (["evaluate", "CKPT=/no/best.ckpt"], "There is no file /no/best.ckpt"),
        (["test-real"], "Set DIFFMEDSEG_DATA"),
    ],
)
def test_what_does_not_exist_lists_what_does(arguments, message):
    result = make(*arguments)
    assert result.returncode != 0
    assert message in result.stderr


def test_evaluate_takes_the_config_of_the_run(tmp_path):
    checkpoint = tmp_path / "version_0" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    printed = make("evaluate", f"CKPT={checkpoint}").stdout
    assert f"diffmedseg test -c {tmp_path}/version_0/config.yaml --ckpt_path {checkpoint}" in " ".join(printed.split())


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
    printed = make("augment-preview", "DATA=isic2017", "DATA_DIR=/d").stdout
    assert "data augment-preview --data experiments/data/isic2017.yaml --data.root" in printed
    assert "isic2016 isic2017" in make("augment-preview", "DATA=isic").stderr
