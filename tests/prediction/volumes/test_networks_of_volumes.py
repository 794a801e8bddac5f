"""Runs of a network of volumes: trained on stacks of slices, tested, resumed, predicted, stored."""

import csv
from dataclasses import replace

import pytest
import SimpleITK as sitk
import torch
from helpers.mri_files import data_module, write_layout
from helpers.process_state import kept_process_state
from helpers.small_networks import small
from helpers.tiny_run import checkpoints, tiny_trainer
from lightning import Callback

from diffmedseg.callbacks import WarmupEMA
from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.prediction import Naming, find_cases
from diffmedseg.prediction.run import Settings
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.prediction.volumes.segmenting import segment_volume
from diffmedseg.prediction.volumes.slices import SliceRun
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.zoo import export, load_checkpoint, load_pretrained

REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    write_layout("brats2015", folder)
    return folder


@pytest.fixture(scope="module")
def volume_run(data, tmp_path_factory):
    options = [
        "--data.image_size=16", "--data.depth=8", "--data.batch_size=1", "--data.steps_per_epoch=1", "--data.folds=2",
        "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--model.num_samples=2", "--model.num_steps=2",
    ]  # fmt: skip
    runs = tmp_path_factory.mktemp("runs")
    with kept_process_state():
        main(["train", "medsegdiff-lite-3d", "brats2015", f"--data.root={data}", f"--runs={runs}", *options])
    return runs / "medsegdiff-lite-3d-brats2015" / "version_0"


def build(**options):
    network = small(lambda *channels, **size: MedSegDiffLite(*channels, patches="interpolated", spatial_dims=3), 2, 3)
    settings = {"image_size": (16, 16), "channels": ("flair", "t1ce"), "regions": REGIONS, "num_samples": 2,
                "num_steps": 2, "slice_input": SliceInput(depth=8)}  # fmt: skip
    return MedSegDiffSegmenter(network.train(), **settings | options)


def test_a_run_is_tested_by_volume_and_loads(volume_run, tmp_path):
    with (volume_run / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["region"] for row in rows} == set(REGIONS)
    assert all(row["num_slices"] == "4" for row in rows)
    model = load_checkpoint(volume_run)
    assert (model.depth, model.denoiser.spatial_dims, model.slice_input) == (8, 3, SliceInput(depth=8))
    main(["evaluate", str(volume_run), f"--runs={tmp_path}"])
    with (tmp_path / volume_run.parent.name / "test_0" / "cases.csv").open(newline="") as file:
        assert [row["dice"] for row in csv.DictReader(file)] == [row["dice"] for row in rows]


def test_predictions_lie_over_their_volumes(volume_run, data, tmp_path):
    main(["predict", str(volume_run), str(data), "--out", str(tmp_path), "--samples", "nifti", "--panel"])
    cases = [path.name for path in data.iterdir()]
    assert len(cases) == 3
    for case in cases:
        given = sitk.ReadImage(str(data / case / "Flair_subtrMeanDivStd.nii.gz"))
        for region in REGIONS:
            mask = sitk.ReadImage(str(tmp_path / f"{case}_{region}_mask.nii.gz"))
            for fact in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(mask, fact)() == getattr(given, fact)()


def test_a_prediction_is_the_one_that_is_scored(data):
    """However many slices are fused together: the network sees all of them."""
    module = data_module("brats2015", data, depth=8)
    module.prepare_data()
    module.setup("test")
    module.configure_targets((), REGIONS)
    model = build().eval()
    for batch in module.test_dataloader():
        [case] = set(batch["case"])
        scored = model.test_step(module.on_after_batch_transfer(batch, 0), 0)["segmentation"]
        volume = read_case(find_cases([data / case], Naming(model.channels, {}))[0])
        settings = Settings(num_samples=2, num_steps=2, seed=0, bf16=False, tta="none").filled_from(model)
        together, apart = (segment_volume(SliceRun(model, volume, case, settings, size)) for size in (100, 2))
        assert torch.equal(together.samples, apart.samples)
        with pytest.raises(DataError, match="network of volumes, and draws noise for a whole volume"):
            SliceRun(model, volume, case, replace(settings, slice_correlation=5.0), 2)
        found = together.samples[:, :, batch["index"]].permute(2, 0, 1, 3, 4)
        assert (found != (scored.samples > 0.5)).float().mean() < 1e-2  # the cache keeps 16 bits


class StopAfterEpoch(Callback):
    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop = True


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(data, tmp_path):
    def fit(folder, *also, ckpt_path=None):
        model = build()
        trainer = tiny_trainer(folder, callbacks=[WarmupEMA(), *checkpoints(folder), *also], max_steps=4)
        module = data_module("brats2015", data, depth=8, batch_size=1, steps_per_epoch=2)
        trainer.fit(model, module, ckpt_path=ckpt_path, weights_only=True)
        return model.state_dict()

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", StopAfterEpoch())
    resumed = fit(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert int(whole["tiling.crop"]) == 0


def test_a_run_becomes_an_entry_of_a_zoo(volume_run, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path))
    export(volume_run, "medsegdiff-lite-3d_brats2015.test")
    model, image = load_pretrained("medsegdiff-lite-3d_brats2015.test"), torch.rand(9, 2, 16, 16) * 2 - 1
    expected = load_checkpoint(volume_run).segment(image).probability
    torch.testing.assert_close(model.segment(image).probability, expected, atol=1e-2, rtol=0)
    main(["zoo", "verify"])
