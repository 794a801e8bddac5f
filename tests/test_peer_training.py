"""The comparison of trainings with the other package: what it is given, and the table. The package is not installed."""

import sys
from types import ModuleType

import peer_training
import pytest
import torch
import training
import yaml
from helpers.tiny_run import EXPERIMENTS

from diffmedseg.configurable import to_config
from diffmedseg.data import SyntheticDataModule
from diffmedseg.metrics.table import read_cases


class Diffusion(torch.nn.Module):
    """Stand for the package's diffusion: keep what it is given, and draw half of the samples empty."""

    given: list[torch.Tensor] = []  # noqa: RUF012

    def __init__(self, network, timesteps):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, mask, image):
        self.given.extend([mask, image])
        return self.weight * mask.mean()

    def sample(self, image):
        self.given.append(image)
        full = torch.arange(len(image)) % 2 == 0
        return full.float().reshape(-1, 1, 1, 1).expand(-1, 1, *image.shape[-2:]) * 1.5


@pytest.fixture
def package(monkeypatch):
    package, inner = ModuleType("med_seg_diff_pytorch"), ModuleType("med_seg_diff_pytorch.med_seg_diff_pytorch")
    package.MedSegDiff, package.Unet, package.med_seg_diff_pytorch, inner.tqdm = Diffusion, dict, inner, None
    monkeypatch.setitem(sys.modules, "med_seg_diff_pytorch", package)
    monkeypatch.setitem(sys.modules, "med_seg_diff_pytorch.med_seg_diff_pytorch", inner)
    monkeypatch.setattr(Diffusion, "given", [])


@pytest.mark.parametrize("name", peer_training.OPTIMISERS)
def test_the_package_gets_images_and_masks_from_0_to_1_and_is_scored_by_our_scores(name, package, tmp_path):
    data = SyntheticDataModule(num_train=4, num_val=2, num_test=3, image_size=16, batch_size=2, steps_per_epoch=2)
    trainer = {"max_steps": 2, "precision": "32-true", "limit_test_batches": None, "gradient_clip_val": 1.0}
    path = tmp_path / "run" / "cases.csv"
    peer_training._train_package(name, {"data": to_config(data), "trainer": trainer}, {10: path}, 0)
    masks, *images = Diffusion.given[0], *Diffusion.given[1::2][:2], Diffusion.given[-1]
    assert set(masks.unique().tolist()) == {0, 1}
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)
    assert len(images[-1]) == 3 * peer_training._SAMPLES
    rows = read_cases(path)
    assert len(rows) == 3
    for row in rows:  # four of eight samples are full: their mean is not above 0.5
        assert row.num_samples == 8
        assert row.dice == 0
        assert row.diversity == pytest.approx(16 / 28)  # of 28 pairs, 16 differ


def test_our_optimiser_has_our_settings():
    model = yaml.safe_load((EXPERIMENTS / "model" / "medsegdiff.yaml").read_text())["model"]
    ours = peer_training.OPTIMISERS[f"{peer_training.PACKAGE}, our optimiser"]
    assert model["init_args"]["optimizer"] == {"class_path": "torch.optim.AdamW", "init_args": ours}


def test_the_table_pairs_cases(tmp_path, capsys):
    for name, dice in {"V1.0": (0.8, 0.6), f"{peer_training.PACKAGE}, 10 sampling steps.0": (0.5, 0.5)}.items():
        path = tmp_path / "isic2017" / "64px" / "500" / name / "version_0" / "cases.csv"
        path.parent.mkdir(parents=True)
        lines = ["case,region,dice,iou,diversity,nll,both_empty,num_slices,num_samples,num_raters"]
        lines += [f"{case},lesion,{value},0.1,0.2,0.3,False,1,8,1" for case, value in zip("ab", dice, strict=True)]
        path.write_text("\n".join(lines))
    peer_training.table(tmp_path)
    printed = capsys.readouterr().out
    assert "isic2017/64px/500 steps, seed 0" in printed
    first, second = printed.splitlines()[-2:]
    assert first == "| V1 | 2 | 0.7000 | 0.2000 | 0.3000 |"
    assert second.startswith(f"| {peer_training.PACKAGE}, 10 sampling steps |")
    assert "| 2 | 0.5000, -0.2000 (-0.3000 to -0.1000) |" in second


def test_a_run_is_not_taken_for_a_run_with_other_settings(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(training.subprocess, "run", lambda command, **_: commands.append(command))
    for _ in range(2):
        training.train_run(tmp_path, "V1.0", "medsegdiff", "isic2017", ["--data.reported=tenth"])
    assert commands[0] == commands[1]
    (tmp_path / "V1.0" / "version_0").mkdir(parents=True)
    (tmp_path / "V1.0" / "version_0" / "cases.csv").touch()
    with pytest.raises(ValueError, match=r"V1\.0\.settings has the settings .*reported=tenth.*delete .*V1\.0 and"):
        training.train_run(tmp_path, "V1.0", "medsegdiff", "isic2017", ["--data.reported=validation"])
