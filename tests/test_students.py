"""Students of pseudo masks: their data, and what their results say about true masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.pseudo_files import NOTHING, folder_of_pictures, module, order, picture, rule, written
from helpers.tiny_run import plain_model, tiny_data, tiny_trainer

from diffmedseg.callbacks import CaseMetrics
from diffmedseg.configurable import to_config
from diffmedseg.data import PseudoMaskDataModule, SyntheticDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.views import TrainingView
from diffmedseg.errors import DataError
from diffmedseg.evaluation.report import render_report
from diffmedseg.pseudo import checkpoints
from diffmedseg.pseudo.checkpoints import proposing_checkpoint
from diffmedseg.pseudo.proposers import Council, OfModel
from diffmedseg.pseudo.writing import write_pseudo_masks
from diffmedseg.segmentation import majority
from diffmedseg.zoo import load_model


def test_the_students_data_is_that_of_the_folder_and_its_test_the_true_one(tmp_path):
    data, rows = written(tmp_path / "out")
    student = module(tmp_path / "out")
    kept = {split: [row for row in rows if row.split == split and row.kept == "yes"] for split in ("train", "val")}
    for split, own in kept.items():
        store = student.load(split)
        assert list(store.ids) == [row.id for row in own]
        for index, row in enumerate(own):
            assert np.array_equal(store.masks(index)[0, 0], picture(tmp_path / "out" / "masks" / f"{row.file}.png"))
            assert torch.equal(store.reference(index), store.masks(index))
    test, true = student.load("test"), data.load("test")
    assert all(torch.equal(test.reference(index), true.reference(index)) for index in range(len(true)))
    student.setup("fit")
    supervision = student.configure_targets(("mask",), student.info.regions)
    assert supervision == (tmp_path / "out" / "supervision.txt").read_text().strip()
    assert build_data(to_config(student)).truth.sizes == data.sizes
    finer = build_data({**to_config(student), "init_args": to_config(student)["init_args"] | {"image_size": 48}})
    item = TrainingView(finer.load("train"), 0)[0, 0]
    assert item["image"].shape[1:] == item["mask"].shape[1:] == item["unsure"].shape[1:] == (48, 48)


def test_a_folder_that_does_not_fit_its_data_is_refused(tmp_path):
    written(tmp_path / "out")
    fewer = PseudoMaskDataModule(tmp_path / "out", SyntheticDataModule(num_train=3, num_val=4), image_size=32)
    with pytest.raises(DataError, match=r"the train split of Synthetic lesions does not have"):
        fewer.load("train")
    (tmp_path / "out" / "supervision.txt").unlink()
    student = module(tmp_path / "out")
    student.setup("fit")
    with pytest.raises(DataError, match=r"supervision\.txt is missing"):
        student.configure_targets(("mask",), student.info.regions)


def test_fine_tuning_sees_the_true_masks_alone(tmp_path):
    rows = write_pseudo_masks(order(tiny_data(image_size=32, mask_rule=rule()), true_masks=2), tmp_path / "pseudo")
    student, everything = module(tmp_path / "pseudo"), module(tmp_path / "pseudo")
    student.true_only = True
    true = [row.id for row in rows if row.source == "true"]
    assert sorted(student.load("train").ids) == sorted(true)
    assert len(true) == 2 < len(everything.load("train").ids)
    assert list(student.load("val").ids) == list(everything.load("val").ids)


def test_true_masks_have_all_pixels_of_a_student_with_larger_images(tmp_path):
    rows = write_pseudo_masks(order(tiny_data(image_size=16, mask_rule=rule()), true_masks=3), tmp_path / "pseudo")
    config = to_config(module(tmp_path / "pseudo"))
    student = build_data({**config, "init_args": config["init_args"] | {"image_size": 48}})
    store, truth = student.load("train"), student.truth.load("train")
    for row in rows:
        if row.source == "true":
            masks, raters = store.masks(list(store.ids).index(row.id)), truth.masks(list(truth.ids).index(row.id))
            assert masks.shape == (1, 1, 48, 48)
            assert torch.equal(masks[0], majority(raters)[:1])


def test_initial_weights_of_true_masks_are_named_by_a_student(tmp_path, finished_run):
    """Else a network that learned from true masks would be reported as learned from labels."""
    from diffmedseg.zoo import initialise_from

    write_pseudo_masks(order(tiny_data(mask_rule=rule())), tmp_path / "pseudo")
    data, model = module(tmp_path / "pseudo"), load_model(str(finished_run))
    initialise_from(model, finished_run)
    assert model.initialisation["learned_from"] == "masks"
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.fit(model, data)
    assert model.learned_from.startswith("masks (")
    assert "pseudo masks of luminance" in model.learned_from
    assert NOTHING not in model.learned_from


def test_scores_on_pseudo_masks_are_never_taken_for_scores_on_true_masks(tmp_path, capsys):
    written(tmp_path / "pseudo")
    stated = (tmp_path / "pseudo" / "supervision.txt").read_text().strip()
    student, pictures = module(tmp_path / "pseudo"), folder_of_pictures(tmp_path / "pseudo")
    assert {split: student.pseudo_masks(split) for split in ("train", "val", "test")} == {
        "train": stated, "val": stated, "test": None,
    }  # fmt: skip
    assert pictures.pseudo_masks("test") == stated
    for data, warned in ((pictures, True), (student, False)):
        scores = CaseMetrics()
        tiny_trainer(tmp_path, callbacks=[scores]).test(plain_model(image_size=(32, 32)), data, verbose=False)
        assert ("pseudo masks, not with true masks" in capsys.readouterr().out) == warned
        assert scores.summary["policy"].get("pseudo_masks") == (stated if warned else None)
        report = render_report("title", scores.summary, scores.rows, {}, ["foreground"][:0])
        assert ("not with true masks" in report) == warned


@pytest.mark.parametrize(
    ("learned_from", "chosen"),
    [("labels: pseudo masks of x; masks chose nothing", False), ("masks", True), ("image-level labels", True)],
)
def test_only_an_entry_of_pseudo_masks_was_not_chosen_by_masks(monkeypatch, learned_from, chosen):
    entry = SimpleNamespace(learned_from=learned_from)
    monkeypatch.setattr(checkpoints, "current_source", lambda: SimpleNamespace(find=lambda name: (name, entry)))
    assert (proposing_checkpoint("an-entry")[1] is not None) == chosen


def test_fine_tuning_without_a_true_mask_says_how_to_get_some(tmp_path):
    write_pseudo_masks(order(tiny_data(image_size=32, mask_rule=rule())), tmp_path / "pseudo")
    student = module(tmp_path / "pseudo")
    student.true_only = True
    with pytest.raises(DataError, match=r"no training image with a true mask.*--true_masks N"):
        student.load("train")


def test_a_run_that_masks_chose_says_so(finished_run):
    checkpoint, chosen = proposing_checkpoint(str(finished_run / "checkpoints" / "best.ckpt"))
    assert checkpoint.name == "best.ckpt"
    assert "masks may have chosen" in chosen
    data = tiny_data(mask_rule=rule())
    council = Council([OfModel(load_model(str(checkpoint)), data.info, chosen)], data.mask_rule, None)
    assert council.supervision(0).startswith("masks: ")  # it learned from masks
    assert NOTHING not in council.supervision(0)
    assert proposing_checkpoint(str(finished_run))[0].name == "last.ckpt"
