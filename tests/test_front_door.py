"""What people do with a model, a batch or a command that once went wrong without a word."""

import pytest
import torch
from helpers.small_networks import small
from helpers.tiny_run import tiny_fit, tiny_model, tiny_trainer
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from diffmedseg import load_checkpoint, recipe
from diffmedseg.cli import main
from diffmedseg.errors import RecipeError
from diffmedseg.models import ClassConditionalUNet, DiffSegSegmenter, MedSegDiffSegmenter, MedSegDiffV1
from diffmedseg.postprocessing.fusion import MajorityFusion


class Mine(LightningDataModule):
    """Images and masks of one's own; masks are scaled after the first batches."""

    def __init__(self, scale=1.0, blank=0, **more):
        super().__init__()
        self.scale, self.blank, self.more = scale, blank, more

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        items = []
        for number in range(6):
            mask = (torch.rand(1, 16, 16, generator=generator) > 0.5).float() * self.scale
            image = torch.rand(3, 16, 16, generator=generator) * 2 - 1
            items.append({"image": image, "mask": mask * (number >= self.blank), **self.more})
        return DataLoader(items, batch_size=2)

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.parametrize("scale", [254 / 255, 0.3])
def test_masks_that_are_not_0_and_1_are_not_scored(scale, tmp_path):
    """Rounded down 254 / 255 is nothing, and a mask of nothing agrees with an empty answer."""
    trainer = tiny_trainer(tmp_path, callbacks=[])
    with pytest.raises(ValueError, match="reference masks have only 0 and 1"):
        trainer.test(tiny_model(), Mine(scale), verbose=False)


def test_masks_of_0_and_255_are_refused_after_a_first_batch_without_any(tmp_path):
    with pytest.raises(ValueError, match="spans 0 to 255"):
        tiny_trainer(tmp_path, callbacks=[], max_steps=3).fit(tiny_model(), Mine(255.0, blank=2))


def test_what_is_changed_on_a_model_is_stored(tmp_path):
    model = tiny_model()
    trainer = tiny_trainer(tmp_path, callbacks=[], max_steps=1)
    model.threshold, model.num_samples, model.fusion = 0.3, 5, MajorityFusion()
    trainer.fit(model, Mine())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = load_checkpoint(tmp_path / "own.ckpt")
    assert (loaded.threshold, loaded.num_samples, type(loaded.fusion)) == (0.3, 5, MajorityFusion)


def test_labels_of_ones_own_are_named_as_what_was_learned_from(tmp_path):
    model = DiffSegSegmenter(small(ClassConditionalUNet).train(), image_size=(16, 16))
    trainer = tiny_trainer(tmp_path, callbacks=[], max_steps=1, limit_val_batches=0)
    trainer.fit(model, Mine(label=1))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert load_checkpoint(tmp_path / "own.ckpt").learned_from == "image-level labels"


class Positional(MedSegDiffSegmenter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Fixed(MedSegDiffSegmenter):
    def __init__(self):
        super().__init__(small(MedSegDiffV1).train(), image_size=(16, 16))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Positional(small(MedSegDiffV1).train(), image_size=(16, 16)), "given without names"),
        (Fixed, "takes other arguments than its base class"),
    ],
)
def test_models_that_will_not_load_again_say_so_when_training_starts(make, said, tmp_path, caplog):
    tiny_trainer(tmp_path, callbacks=[], max_steps=1, limit_val_batches=0).fit(make(), Mine())
    assert "will not load again" in caplog.text
    assert said in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trainer.max_steps", "1", "medsegdiff-lite"], "'medsegdiff-lite' is not a setting. The names come first"),
        (["supervised", "synthetic", "more"], "'more' is not a setting"),
        (["supervised", "--preset=cpu", "synthetic"], "'synthetic' is not a setting"),
    ],
)
def test_names_come_first(arguments, said):
    with pytest.raises(SystemExit, match=said):
        main(["train", *arguments])


def test_evaluate_takes_the_checkpoint_in_place_of_the_run(run):
    with pytest.raises(SystemExit, match=r"instead of the run: diffmedseg evaluate other\.ckpt"):
        main(["evaluate", str(run), "--ckpt_path", "other.ckpt"])


def test_evaluate_names_the_way_to_score_a_model_on_other_pictures(run):
    for names in ([str(run), "folder"], ["folder"]):
        with pytest.raises(SystemExit, match=r"folder is a data set; evaluate takes runs.*predict.*score"):
            main(["evaluate", *names])


@pytest.mark.parametrize("option", ["--trainer.logger=false", "--trainer.enable_checkpointing=false"])
def test_parts_of_a_run_can_be_left_out(option, tmp_path):
    main(tiny_fit(tmp_path, option, model="supervised"))
    assert list(tmp_path.rglob("cases.csv"))


def test_a_class_that_refuses_its_arguments_is_quoted(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(tiny_fit(tmp_path, "--data.image_size=4"))
    assert "error: image_size is 4; it has to be at least 8" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="image_size is 4; it has to be at least 8"):
        recipe("supervised", "synthetic", settings="--data.image_size=4").build()


def test_an_entry_is_found_by_the_name_that_it_had(tmp_path):
    with pytest.warns(FutureWarning, match="is called medsegdiff_isic2017.cpu64 now"):
        run = recipe("medsegdiff", "synthetic", pretrained="medsegdiff-v1_isic2017.cpu64")
    assert run.network["class_path"] == "diffmedseg.models.MedSegDiffV1"
