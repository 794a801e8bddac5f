"""A user's own data module and Trainer: of a batch only image and mask are required."""

import logging
import re
from pathlib import Path

import pytest
import torch
from helpers.small_networks import small
from helpers.tiny_run import tiny_data, tiny_trainer
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from diffmedseg import load_checkpoint
from diffmedseg.callbacks import (
    CaseMetrics,
    GeneralizedEnergyDistance,
    SamplePanels,
    StepStatistics,
    TestReport,
    WandbDashboard,
)
from diffmedseg.cli import main
from diffmedseg.configurable import to_config
from diffmedseg.data.batch import check_batch, complete_batch
from diffmedseg.evaluation.calibrating import calibrate_run
from diffmedseg.metrics.table import read_cases
from diffmedseg.models import (
    ClassConditionalUNet,
    DiffSegSegmenter,
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    MedSegDiffV2,
    ResidualUNet,
    SMPNetwork,
    StochasticUNet,
    SupervisedSegmenter,
)
from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo import ZooError, export

SAMPLE = Path(__file__).parents[1] / "zoo" / "sample.png"


class Images(Dataset):
    def __init__(self, size=16, change=lambda item, i: item):
        self.size, self.change = size, change

    def __len__(self):
        return 5

    def __getitem__(self, i):
        image = torch.rand(3, self.size, self.size, generator=torch.Generator().manual_seed(i)) * 2 - 1
        return self.change({"image": image, "mask": (image[:1] > 0).float()}, i)


class MyData(LightningDataModule):
    def __init__(self, size=16, change=lambda item, i: item, batch_size=2):
        super().__init__()
        self.images, self.batch_size = Images(size, change), batch_size

    def train_dataloader(self):
        return DataLoader(self.images, batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def lite(**options):
    settings = {"image_size": (16, 16), "num_samples": 2, "num_steps": 2, "val_num_steps": 1}
    return MedSegDiffSegmenter(small(MedSegDiffLite).train(), **settings | options)


def quiet(folder, *callbacks, **options):
    return tiny_trainer(folder, callbacks=list(callbacks), **{"max_steps": 2} | options)


def test_it_trains_tests_predicts_and_its_checkpoint_loads(tmp_path):
    model, data = lite(), MyData()
    trainer = Trainer(
        max_steps=2, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, data)
    [scores] = trainer.test(model, data, verbose=False)
    assert set(scores) == {"test/dice"}
    assert 0 < scores["test/dice"] <= 1
    found = trainer.predict(model, data)
    assert [type(one) for one in found] == [Segmentation] * 3
    assert [len(one.mask) for one in found] == [2, 2, 1]
    images = torch.stack([data.images[i]["image"] for i in range(2)])
    assert torch.equal(model(images).samples, found[0].samples)
    [checkpoint] = tmp_path.rglob("*.ckpt")
    for loaded in (load_checkpoint(checkpoint), MedSegDiffSegmenter.load_from_checkpoint(checkpoint).eval()):
        assert to_config(loaded) == to_config(model)
        assert torch.equal(loaded(images).samples, found[0].samples)
    with pytest.raises(TypeError, match="holds a MedSegDiffSegmenter, which is no SupervisedSegmenter"):
        SupervisedSegmenter.load_from_checkpoint(checkpoint)


class Keep(StepStatistics):
    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.found = outputs["segmentation"]


def test_a_test_segments_as_the_model_does_by_itself(tmp_path):
    model, data, keep = lite(), MyData(batch_size=5), Keep()
    quiet(tmp_path, keep).test(model, data, verbose=False)
    images = torch.stack([data.images[i]["image"] for i in range(5)])
    assert torch.equal(keep.found.samples, model(images).samples)


class SavesItsOwn(MedSegDiffSegmenter):
    """As Lightning's documentation has it; the network would be pickled."""

    def __init__(self, denoiser, factor=1.0, **kwargs):
        super().__init__(denoiser, **kwargs)
        self.save_hyperparameters()


def test_a_subclass_that_saves_its_own_hyper_parameters_loads(tmp_path):
    model = SavesItsOwn(small(MedSegDiffLite).train(), factor=2.0, image_size=(16, 16), val_num_steps=1)
    quiet(tmp_path, limit_val_batches=0, enable_checkpointing=True).fit(model, MyData())
    [path] = tmp_path.rglob("*.ckpt")
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert stored["factor"] == 2.0
    assert stored["denoiser"]["class_path"] == "diffmedseg.models.MedSegDiffLite"
    package = __name__.partition(".")[0]
    assert isinstance(load_checkpoint(path, trust=[package]), SavesItsOwn)


def test_images_alone_are_predicted(tmp_path):
    images = torch.stack([Images()[i]["image"] for i in range(3)])
    [found] = quiet(tmp_path).predict(lite(), DataLoader(images, batch_size=3))
    assert found.mask.shape == (3, 1, 16, 16)


@pytest.mark.parametrize("options", [{}, {"nested": True}])
def test_a_test_without_callbacks_has_the_dice_of_one_with_them(options, tmp_path):
    data = tiny_data(**options)
    network = small(MedSegDiffV1, 3, len(data.info.regions)).train()
    sampling = {"num_samples": 2, "num_steps": 1}
    model = MedSegDiffSegmenter(network, image_size=(16, 16), regions=data.info.regions, **sampling, **options)
    [alone] = quiet(tmp_path).test(model, data, verbose=False)
    [scored] = quiet(tmp_path, CaseMetrics()).test(model, data, verbose=False)
    assert set(alone) == {"test/lesion/dice", "test/nucleus/dice"} if options else {"test/dice"}
    for name, value in alone.items():
        assert value == pytest.approx(scored[name], abs=1e-6)
    assert quiet(tmp_path).test(model, data, verbose=False) == [alone]


@pytest.mark.pictures
def test_all_callbacks_take_batches_of_images_and_masks(tmp_path):
    looking = [GeneralizedEnergyDistance(), CaseMetrics(), TestReport(), SamplePanels(), WandbDashboard()]
    trainer = quiet(tmp_path, StepStatistics(), *looking, logger=True, log_every_n_steps=1)
    model, data = lite(), MyData()
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    [report] = tmp_path.rglob("report.html")
    assert "MedSegDiff-Lite (ours, after Wu et al. 2023)" in report.read_text()
    assert (report.parent / "panel.png").is_file()
    assert [row.case for row in read_cases(report.parent / "cases.csv")] == [f"image-{i:06d}" for i in range(5)]
    assert trainer.callback_metrics["test/dice"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item, i: {"image": item["image"]}, r"has no mask; it has image\..*\(B, K, H, W\), in \{0, 1\}"),
        (lambda item, i: {"mask": item["mask"]}, r"has no image; it has mask\."),
        (lambda item, i: (item["image"], item["mask"]), "is a list; expected a dict with image and mask"),
        (lambda item, i: item | {"mask": item["mask"][0]}, r"mask .* shape \(2, 16, 16\); expected \(B, 1, H, W\)"),
        (
            lambda item, i: item | {"image": item["image"][:1]},
            r"image .* shape \(2, 1, 16, 16\); expected \(B, 3, H, W",
        ),
        (lambda item, i: item | {"mask": item["mask"] * 255}, r"mask .* spans 0 to 255; expected .*\{0, 1\}"),
        (lambda item, i: item | {"image": item["image"] * 100}, r"image .* spans -.*; expected .*\[-1, 1\]"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said_in_a_sentence(change, message, tmp_path):
    for run in ("fit", "test"):
        with pytest.raises(ValueError, match=message):
            getattr(quiet(tmp_path), run)(lite(), MyData(change=change))


def test_diffseg_asks_for_labels(tmp_path):
    model = DiffSegSegmenter(small(ClassConditionalUNet), image_size=(16, 16), refinement=None)
    with pytest.raises(ValueError, match=r"has no label; it has image, mask\..*0 for healthy"):
        quiet(tmp_path, limit_val_batches=0).fit(model, MyData())
    labelled = MyData(change=lambda item, i: {"image": item["image"], "label": i % 2})
    quiet(tmp_path, limit_val_batches=0).fit(model, labelled)


class Record(StepStatistics):
    def __init__(self):
        self.draws = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.draws += batch["draw"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_image_of_every_step_has_a_draw_of_its_own(accumulate, tmp_path):
    draws = []
    for _ in range(2):
        record = Record()
        trainer = quiet(tmp_path, record, max_epochs=3, max_steps=-1, accumulate_grad_batches=accumulate)
        trainer.fit(lite(), MyData())
        draws.append(record.draws)
    assert len(set(draws[0])) == len(draws[0]) == 3 * 5
    assert draws[0] == draws[1]


def test_images_of_another_size_are_resized_as_segment_resizes_them(tmp_path, caplog):
    model, seen = lite(), []
    model.denoiser.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    with caplog.at_level(logging.WARNING, "diffmedseg"):
        quiet(tmp_path).fit(model, MyData(size=24))
    assert set(seen) == {(16, 16)}
    said = [record.getMessage() for record in caplog.records if "24 x 24" in record.getMessage()]
    assert len(said) == 1
    assert "resized to the model's grid, 16 x 16" in said[0]
    assert int(model.tiling.crop) == 0


def test_a_data_module_that_deals_patches_says_so(tmp_path):
    model, data = lite(), MyData(size=8)
    data.patch = 8
    quiet(tmp_path, limit_val_batches=0).fit(model, data)
    assert int(model.tiling.crop) == 8


def test_eight_bit_images_are_those_in_model_range(tmp_path):
    def eight_bit(item, i):
        return {"image": ((item["image"] + 1) * 127.5).round().to(torch.uint8), "mask": item["mask"].bool()}

    def as_float(item, i):
        return item | {"image": eight_bit(item, i)["image"].float() / 127.5 - 1}

    weights = []
    for change in (eight_bit, as_float):
        torch.manual_seed(0)
        model = lite()
        quiet(tmp_path).fit(model, MyData(change=change))
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[0], weights[1])


def test_what_collate_functions_make_of_names_and_numbers_is_read():
    batch = {"image": torch.zeros(2, 3, 4, 4), "mask": torch.zeros(2, 1, 4, 4)}
    batch |= {"case": torch.tensor([7, 8]), "index": torch.tensor([1, 2])}
    batch |= {"spacing": [torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.25])]}
    complete_batch(batch, [0, 1])
    assert (batch["id"], batch["case"], batch["index"]) == (["7", "8"], ["7", "8"], [1, 2])
    assert batch["spacing"] == [(1.0, 0.5), (1.0, 0.25)]
    assert batch["raters"].shape == (2, 1, 1, 4, 4)
    assert batch["rater_valid"].all()
    check_batch(batch, ["image", "mask"], 3, 1, True)


def test_a_run_of_a_script_calibrates_predicts_and_exports(tmp_path):
    model, data = lite(), tiny_data()
    trainer = quiet(tmp_path / "run", CaseMetrics(), logger=True, enable_checkpointing=True)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    [run] = [path.parent for path in (tmp_path / "run").rglob("checkpoints")]
    assert calibrate_run(run, "temperature")["cases"] == 4
    assert load_checkpoint(run).calibration is not None
    entry = export(run, "medsegdiff-lite_synthetic.script", tmp_path / "zoo")
    assert "A script of the author trained it." in (entry / "README.md").read_text()
    main(["predict", str(run), str(SAMPLE), "--out", str(tmp_path / "out"), "--num_steps=1"])
    assert (tmp_path / "out" / "sample_mask.png").is_file()


def test_data_that_nobody_can_build_again_is_said(tmp_path):
    trainer = quiet(tmp_path, logger=True, enable_checkpointing=True)
    trainer.fit(lite(), MyData())
    [run] = [path.parent for path in tmp_path.rglob("checkpoints")]
    with pytest.raises(ZooError, match="derive the data module from"):
        calibrate_run(run, "temperature")


def test_what_cannot_be_loaded_again_is_said_when_training_starts(tmp_path, caplog):
    class Local(MedSegDiffV1):
        pass

    cases = {
        r"loss is .*<lambda>, which does not record": lite(loss=lambda *_: torch.zeros((), requires_grad=True)),
        r"Local cannot be imported by its name": lite_with(small(Local)),
    }
    for message, model in cases.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "diffmedseg"):
            quiet(tmp_path, limit_val_batches=0, max_steps=1).fit(model, MyData())
        assert re.search(message, caplog.text)
    caplog.clear()
    own_optimizer = lite(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    quiet(tmp_path, limit_val_batches=0, max_steps=1).fit(own_optimizer, MyData())
    assert not [record for record in caplog.records if record.name.startswith("diffmedseg")]


def lite_with(network):
    return MedSegDiffSegmenter(network.train(), image_size=(16, 16), val_num_steps=1)


def settings(model):
    return {name: value for name, value in to_config(model)["init_args"].items() if name != "denoiser"}


@pytest.mark.parametrize("network", [MedSegDiffLite, MedSegDiffV1, MedSegDiffV2])
def test_medsegdiff_has_the_settings_that_measured_best_with_its_network(network):
    model = MedSegDiffSegmenter(small(network))
    lite_network = network is MedSegDiffLite
    assert (model.noise_levels, model.prior_share, model.num_steps) == ((4, 0.5, 4) if lite_network else (1, 0.0, 10))
    assert (model.num_samples, model.val_num_samples, model.val_num_steps) == (8, 2, 4)
    made = settings(model)
    assert made["process"]["init_args"] == {
        "num_train_steps": 1000, "schedule": "cosine", "input_scale": 0.1, "prediction": "x_0"
    }  # fmt: skip
    over = {"dice_over": None}
    assert made["loss"]["init_args"] == {"mse": 0.0, "bce": 1.0, "dice": 1.0, "weighting": "uniform"} | over
    assert made["reverse"]["init_args"]["scheduler"]["class_path"] == "diffusers.UniPCMultistepScheduler"
    assert made["reverse"]["init_args"]["spacing"] == 1.0
    anchor = (
        {"bce": 10.0, "dice": 1.0, "every": 5} if network is MedSegDiffV2 else {"bce": 1.0, "dice": 1.0, "every": 1}
    )
    assert made["prior_loss"]["init_args"] == anchor | over
    assert made["refinement"] is None


def test_models_share_no_part():
    first, second = (MedSegDiffSegmenter(small(MedSegDiffLite)) for _ in range(2))
    assert first.process is not second.process
    assert first.prior_loss is not second.prior_loss


def test_diffseg_and_the_baseline_have_theirs():
    diffseg, baseline = DiffSegSegmenter(small(ClassConditionalUNet)), SupervisedSegmenter(small(ResidualUNet))
    assert diffseg.num_steps == 4
    assert (diffseg.refinement.rounds, diffseg.refinement.subset) == (3, 4)
    assert diffseg.refinement.settings.reference_size == 512
    sampling = ("num_samples", "num_steps", "val_num_samples", "val_num_steps")
    assert [getattr(baseline, name) for name in sampling] == [1, 1, 1, 1]
    assert baseline.refinement is None
    assert DiffSegSegmenter(small(ClassConditionalUNet), refinement=None).refinement is None


def test_networks_say_what_they_are():
    titles = {
        cls: cls.title
        for cls in (MedSegDiffV1, MedSegDiffV2, MedSegDiffLite, ClassConditionalUNet, ResidualUNet, StochasticUNet)
    }
    assert len(set(titles.values())) == len(titles)
    assert "ours" in titles[MedSegDiffLite]
    assert all(title and title != "MedSegDiff" for title in titles.values())
    assert all(cls.papers for cls in titles if cls is not ResidualUNet)
    assert SMPNetwork.title
