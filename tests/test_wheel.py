"""The built wheel, unpacked and used as a user's script and commands use it: outside of the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.picture_files import SIZE, photo, save, save_mask

ROOT = Path(__file__).parents[1]
TINY = [
    "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.image_size=16",
    "--data.batch_size=2", "--data.steps_per_epoch=1", "--model.num_samples=2", "--model.num_steps=2",
]  # fmt: skip

SCRIPT = """
import diffmedseg, torch
from lightning import LightningDataModule, Trainer
from diffmedseg import list_datasets, load_checkpoint, recipe
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter

assert "chase" in list_datasets()

# By name, in four statements.
run = recipe("medsegdiff-lite", "folder", root="mine", settings=%(tiny)r)
model, data, trainer = run.build()
trainer.fit(model, data)
[scores] = trainer.test(model, data, verbose=False)
assert 0 <= scores["test/dice"] <= 1

# With data and a Trainer of one's own.
class Mine(LightningDataModule):
    def train_dataloader(self):
        item = {"image": torch.rand(3, 64, 64) * 2 - 1, "mask": (torch.rand(1, 64, 64) > 0.5).float()}
        return torch.utils.data.DataLoader([item] * 4, batch_size=2)
    test_dataloader = predict_dataloader = train_dataloader

model = MedSegDiffSegmenter(MedSegDiffLite(3, 1))
trainer = Trainer(max_steps=2, logger=False, accelerator="cpu", enable_progress_bar=False)
trainer.fit(model, Mine())
[scores] = trainer.test(model, Mine(), verbose=False)
assert 0 <= scores["test/dice"] <= 1
assert trainer.predict(model, Mine())[0].mask.shape == (2, 1, 64, 64)
image = torch.rand(1, 3, 40, 50) * 2 - 1
assert model(image).mask.shape == (1, 1, 40, 50)
trainer.save_checkpoint("own.ckpt")
for loaded in (load_checkpoint("own.ckpt"), MedSegDiffSegmenter.load_from_checkpoint("own.ckpt").eval()):
    assert torch.equal(loaded.segment(image, 2).probability, model.eval().segment(image, 2).probability)
print(diffmedseg.__file__)
"""


COMMANDS = """
import json, os, sys
from diffmedseg.cli.main import main

for arguments in json.loads(sys.argv[1]):
    os.environ.pop("DIFFMEDSEG_RUN_FOLDER", None)  # of the run before
    main(arguments)
"""


def commands(run, *lines):
    """Run commands one after another in one process, which imports torch once."""
    return run("-c", COMMANDS, json.dumps(lines))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder outside of the checkout with pictures, and how commands run there."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder / "site")
    for number in range(6):
        save(folder / "work" / "mine" / "images" / f"{number}.png", photo(number))
        save_mask(folder / "work" / "mine" / "masks" / f"{number}.png", np.indices(SIZE).sum(0) > 20 + number)
    clean = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    environment = clean | {"PYTHONPATH": str(folder / "site"), "HOME": str(folder), "WANDB_MODE": "disabled"}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder / "work", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run.site = folder / "site"
    run.work = folder / "work"
    return run


def test_it_lists_what_there_is(installed):
    assert "| `isic2017` |" in installed("-m", "diffmedseg", "data", "list")
    printed = commands(installed, ["zoo", "list"], ["info", "--json"])
    assert "medsegdiff-lite_isic2017.cpu64" in printed
    assert '"medsegdiff-lite"' in printed


def test_commands_train_predict_and_fine_tune(installed):
    made = ["--data.num_train=4", "--data.num_val=2", "--data.num_test=2"]
    run, entry = "runs/medsegdiff-lite-synthetic/version_0", "medsegdiff-lite_isic2017.cpu64"
    commands(
        installed,
        ["train", "medsegdiff-lite", "synthetic", *TINY, *made],
        ["predict", run, "mine/images", "--out", "masks"],
        ["evaluate", run, "--callbacks", "staple"],
        ["train", "medsegdiff-lite", "folder", "--data.root=mine", f"--pretrained={entry}", "--name=tuned", *TINY],
    )
    assert len(list((installed.work / "masks").glob("*_mask.png"))) == 6
    assert (installed.work / "runs" / "medsegdiff-lite-synthetic" / "test_0" / "cases.csv").is_file()
    assert (installed.work / "runs" / "tuned" / "version_0" / "initialisation.json").is_file()


def test_a_users_script(installed):
    printed = installed("-c", SCRIPT % {"tiny": TINY})
    assert str(installed.site) in printed
