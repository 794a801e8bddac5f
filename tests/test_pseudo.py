"""From labels to masks: pseudo masks, a student that learns from them, and the chain of both."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers import isic_files
from helpers.mri_files import data_module, write_layout
from helpers.tiny_run import TINY, plain_model, tiny_data, tiny_trainer
from PIL import Image

from diffmedseg.callbacks import CaseMetrics
from diffmedseg.cli import chain, main
from diffmedseg.configurable import to_config
from diffmedseg.data import ISIC2017DataModule, PseudoMaskDataModule, SyntheticDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.labels import (
    CentralComponent,
    FieldOfView,
    LargestComponent,
    LastingComponent,
    MaskRule,
    Plausible,
)
from diffmedseg.data.pseudo import read_table
from diffmedseg.data.store import to_signed
from diffmedseg.data.views import EvaluationView, TrainingView
from diffmedseg.errors import DataError
from diffmedseg.evaluation.report import render_report
from diffmedseg.experiments import data_config, list_datasets
from diffmedseg.pseudo import checkpoints, writing
from diffmedseg.pseudo.checkpoints import proposing_checkpoint
from diffmedseg.pseudo.proposers import Council, Luminance, OfModel
from diffmedseg.pseudo.writing import Order, write_pseudo_masks
from diffmedseg.recipes import recipe
from diffmedseg.segmentation import majority
from diffmedseg.zoo import load_model

DATA = [option for option in TINY if option.startswith("--data.")]
NOTHING = "masks chose nothing"


def rule(**options):
    settings = {"polarity": "darker", "component": LargestComponent(), "plausible": Plausible((0.01, 0.6), 0.3, None)}
    return MaskRule(**settings | options)


def order(data, **options):
    council = Council([Luminance(data.mask_rule, data.info)], data.mask_rule, None)
    settings = {"council": council, "data": data, "facts": {}, "true_masks": 0, "seed": 0, "settings": {}}
    return Order(**settings | options)


def written(folder, **options):
    data = tiny_data(image_size=32, mask_rule=rule(), **options)
    return data, write_pseudo_masks(order(data), folder)


def picture(path):
    return np.asarray(Image.open(path)) > 0


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".json"}


def module(folder):
    return build_data(yaml.safe_load((folder / "data.yaml").read_text())["data"])


def folder_of_pictures(root):
    """Return the data module of `diffmedseg train MODEL folder --data.root ROOT`."""
    config = data_config("folder")
    return build_data({**config, "init_args": config["init_args"] | {"root": str(root), "image_size": 32}})


def test_masks_are_those_of_the_rule_and_healthy_images_have_empty_ones(tmp_path):
    data, rows = written(tmp_path / "out")
    stores = {split: data.load(split) for split in ("train", "val")}
    assert len(rows) == sum(map(len, stores.values()))
    assert {row.source for row in rows} == {"pseudo", "label"}
    for row in rows:
        store = stores[row.split]
        index = list(store.ids).index(row.id)
        image = store.image(index).float() / 255
        soft = rule().soften(1 - image.mean(0).numpy(), rule().seen(image.numpy()))
        found, path = rule().decide(soft), tmp_path / "out" / "masks" / f"{row.file}.png"
        if store.label(index) == 0:
            assert row.kept == "yes"
            assert not picture(path).any()
        elif row.kept == "yes":
            assert (picture(path) != found.mask).mean() < 0.01  # levels of 8 bits
            assert (picture(tmp_path / "out" / "unsure" / path.name) != found.unsure).mean() < 0.02
            assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "images" / path.name)).transpose(2, 0, 1),
                                  store.image(index))  # fmt: skip
        else:
            assert row.reason
            assert not path.exists()


def test_no_mask_of_the_data_is_looked_at(tmp_path, monkeypatch):
    _, rows = written(tmp_path / "one")
    store = type(tiny_data().load("train"))
    for name in ("masks", "reference"):
        monkeypatch.setattr(store, name, lambda *_: pytest.fail("a mask was read"))
    data = tiny_data(image_size=32, mask_rule=rule())
    assert write_pseudo_masks(order(data), tmp_path / "two") == rows
    student = module(tmp_path / "two")
    for split in ("train", "val"):
        items = student.load(split)
        assert TrainingView(items, 0)[0, 0]["unsure"].shape == (1, 32, 32)
        assert EvaluationView(items)[0]["mask"].shape == (1, 32, 32)


def test_a_cut_off_call_goes_on_to_the_same_files(tmp_path, monkeypatch):
    data, rows = written(tmp_path / "whole")
    calls = iter(range(100))
    write = writing._write_batch

    def cut_off(*arguments):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(writing, "_write_batch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_pseudo_masks(order(data, batch_size=4), tmp_path / "again")
    part = tmp_path / "again" / "pseudo.part.csv"
    assert len(read_table(part)) == 12
    part.write_text(part.read_text() + "train-0012,tr")  # killed within a line
    assert not (tmp_path / "again" / "data.yaml").exists()
    assert write_pseudo_masks(order(data, batch_size=4), tmp_path / "again") == rows
    one, other = content(tmp_path / "whole"), content(tmp_path / "again")
    assert {path for path in one if one[path] != other.get(path)} <= {Path("data.yaml")}  # it names its folder
    assert one.keys() == other.keys()
    again = iter([])
    monkeypatch.setattr(writing, "_write_batch", lambda *_: next(again))
    assert write_pseudo_masks(order(data), tmp_path / "again") == rows  # all is there


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    data, _ = written(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(DataError, match="other settings"):
        write_pseudo_masks(order(data, settings={"crf": True}), tmp_path / "out")
    assert content(tmp_path / "out") == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="other files than pseudo masks"):
        write_pseudo_masks(order(data), tmp_path / "own")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["notes.txt"]


def test_true_masks_are_added_as_many_as_asked_for_by_seed(tmp_path):
    data = tiny_data(image_size=32, mask_rule=rule())
    chosen = []
    for seed in (0, 1):
        rows = write_pseudo_masks(order(data, true_masks=5, seed=seed), tmp_path / str(seed))
        true = [row for row in rows if row.source == "true"]
        assert len(true) == 5
        assert all(row.kept == "yes" and row.split == "train" and float(row.unsure) == 0 for row in true)
        chosen.append({row.id for row in true})
        store = data.load("train")
        for row in true:
            masks = store.masks(list(store.ids).index(row.id))
            mask = masks.sum(0)[0] * 2 >= len(masks)
            assert np.array_equal(picture(tmp_path / str(seed) / "masks" / f"{row.file}.png"), mask)
        assert (tmp_path / str(seed) / "supervision.txt").read_text().startswith("labels and 5 true masks: ")
    assert chosen[0] != chosen[1]
    with pytest.raises(DataError, match="1000 true masks"):
        write_pseudo_masks(order(data, true_masks=1000), tmp_path / "more")


def test_a_rule_that_keeps_nothing_says_so(tmp_path):
    data = tiny_data(num_val=2, mask_rule=MaskRule("darker", plausible=Plausible((0.98, 1.0))))
    data.load("val")
    if any(data.load("val").label(i) == 0 for i in range(2)):
        pytest.skip("a healthy image is always kept")
    with pytest.raises(DataError, match=r"No mask of the \w+ split is kept \(the first: area"):
        write_pseudo_masks(order(tiny_data(num_val=2, num_train=2, mask_rule=data.mask_rule)), tmp_path / "out")


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


def test_isic_has_its_rule_in_its_yaml_and_a_student_reads_it_as_pictures_too(tmp_path, capsys):
    isic_files.write(tmp_path / "isic", ISIC2017DataModule, training=20, test=2)
    out = tmp_path / "pseudo"
    options = ["--out", str(out), f"--data.root={tmp_path / 'isic'}", "--data.image_size=32"]
    main(["pseudo", "isic2017", "--proposer", "luminance", *options])
    assert "18 train images" in capsys.readouterr().out
    data = module(out).truth
    assert isinstance(data.mask_rule.field_of_view, FieldOfView)
    assert isinstance(data.mask_rule.component, CentralComponent)
    assert data.mask_rule.component.sigma == 0.2
    supervision = (out / "supervision.txt").read_text()
    assert f"{NOTHING} but {data.mask_rule.masks_chose}" in supervision
    with (out / "pseudo.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    store, kept = data.load("train"), [row for row in rows if row["kept"] == "yes" and row["split"] == "train"]
    for row in kept:
        truth = store.masks(list(store.ids).index(row["id"]))[0, 0].numpy() > 0
        sure = ~picture(out / "unsure" / f"{row['file']}.png")
        assert (picture(out / "masks" / f"{row['file']}.png") != truth)[sure].mean() < 0.05
    assert kept
    assert Image.open(out / "sheet.png").size[0] > 100
    pictures = folder_of_pictures(out)
    pictures.setup("fit")
    assert pictures.configure_targets(("mask",), ("foreground",)) == supervision.strip()
    assert pictures.load("train").unsure(0) is not None


@pytest.mark.parametrize("name", ["lgg", "brats2015"])
def test_slices_of_volumes_have_masks_by_their_labels(name, tmp_path):
    write_layout(name, tmp_path / "data")
    own = {"class_path": "diffmedseg.data.labels.MaskRule", "init_args": {"polarity": "brighter", "channel": "flair"}}
    data = data_module(name, tmp_path / "data", train_slices="brain", mask_rule=own)
    rows = write_pseudo_masks(order(data), tmp_path / "out")
    student = module(tmp_path / "out")
    assert student.info.regions == data.info.regions[:1]
    store, truth = student.load("val"), data.load("val")
    labels = [truth.label(index) for index in range(len(truth))]
    assert 1 in labels
    kept = {row.id: row for row in rows if row.split == "val" and row.kept == "yes"}
    assert list(store.ids) == [name for name in truth.ids if name in kept]
    for index, one in enumerate(store.ids):
        assert bool(store.masks(index).any()) == (labels[list(truth.ids).index(one)] == 1)
        assert torch.equal(store.image(index), truth.image(list(truth.ids).index(one)))
    assert any((tmp_path / "out" / "images").iterdir()) == (len(data.info.channels) == 3)


def volume_order(folder, rule_options):
    """Return an order on brains, whose rule decides over slices if ``rule_options`` say so."""
    own = MaskRule(polarity="brighter", channel="flair", **rule_options)
    data = data_module("brats2015", folder, train_slices="brain", mask_rule=None)
    data.mask_rule = own
    return data, order(data, batch_size=3)


def test_slices_of_a_case_are_decided_together_also_after_a_cut_off(tmp_path, monkeypatch):
    write_layout("brats2015", tmp_path / "data")
    data, ordered = volume_order(tmp_path / "data", {"over_slices": LastingComponent(2)})
    rows = write_pseudo_masks(ordered, tmp_path / "whole")
    for split in ("train", "val"):
        store = data.load(split)
        for case in dict.fromkeys(store.cases):
            slices = [index for index, name in enumerate(store.cases) if name == case and store.label(index)]
            images = torch.stack([to_signed(store.image(index)) for index in slices])
            soft = ordered.council.soft_maps(images, [store.ids[index] for index in slices]).numpy()
            positions = [store.position(index) for index in slices]
            for index, decided in zip(slices, data.mask_rule.decide_slices(soft, positions), strict=True):
                row = next(row for row in rows if row.id == store.ids[index])
                assert (row.kept == "yes") == (decided.objection is None)
                if row.kept == "yes":
                    assert np.array_equal(picture(tmp_path / "whole" / "masks" / f"{row.file}.png"), decided.mask)
    calls = iter(range(100))
    write = writing._write_batch

    def cut_off(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(writing, "_write_batch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_pseudo_masks(ordered, tmp_path / "again")
    part = tmp_path / "again" / "pseudo.part.csv"
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:-2]))  # killed between the rows of a case
    monkeypatch.setattr(writing, "_write_batch", write)
    assert write_pseudo_masks(ordered, tmp_path / "again") == rows
    one, other = content(tmp_path / "whole"), content(tmp_path / "again")
    assert one.keys() == other.keys()
    assert {path for path in one if one[path] != other[path]} <= {Path("data.yaml")}


def test_the_rules_of_volumes_name_a_channel_that_they_have():
    for name in ("lgg", "brats2015"):
        config = data_config(name)
        data = build_data({**config, "init_args": config["init_args"] | {"root": "nowhere"}})
        assert Luminance(data.mask_rule, data.info)._channel == data.info.channels.index("flair")
    with pytest.raises(DataError, match=r"mask_rule\.channel is 'flair'"):
        Luminance(MaskRule("brighter", channel="flair"), tiny_data().info)


@pytest.mark.parametrize(
    "name", [name for name in list_datasets() if "mask_rule" not in data_config(name)["init_args"]]
)
def test_data_of_unknown_polarity_has_no_masks_by_luminance(name):
    """Else nodules and tumours, which are bright, would be sought in the dark without a word."""
    config = data_config(name)
    data = build_data({**config, "init_args": config["init_args"] | {"root": "nowhere"}})
    with pytest.raises(DataError, match=r"mask_rule\.polarity is not set"):
        Luminance(data.mask_rule, data.info)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["synthetic", "--out", "x"], "name RUN and DATA"), (["a", "b", "c", "--out", "x"], "name RUN and DATA"),
        (["run", "synthetic", "--out", "x", "--trainer.max_steps", "2"], "is not an option"),
        (["synthetic", "--proposer", "luminance", "--out", "x", "--true_masks", "-1"], "at least 0"),
    ],
)  # fmt: skip
def test_commands_that_cannot_be_are_refused(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["pseudo", *arguments])
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_chain_refuses_an_impossible_number_of_true_masks_before_it_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "diffseg-student", "synthetic", "--true_masks", "-1"])
    assert "at least 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def stages(tmp_path, *options, monkeypatch):
    """Run a chain in this process, and return the commands of its stages."""
    done = []

    def run(arguments):
        done.append(arguments)
        main(arguments)

    monkeypatch.setattr(chain, "_run", run)
    tiny = [option.replace("--trainer.max_steps=2", "--student.trainer.max_steps=2") for option in TINY]
    tiny = [option for option in tiny if not option.startswith("--model.")]
    tiny = [option.replace("image_size=16", "image_size=32").replace("num_val=2", "num_val=8") for option in tiny]
    few = [f"--{who}.model.{name}=1" for who in ("teacher", "student") for name in
           ("num_samples", "num_steps", "val_num_steps")]  # fmt: skip
    main(["train", "diffseg-student", "synthetic", *tiny, *few, "--teacher.trainer.max_steps=2", "--crf=off",
          f"--runs={tmp_path}", *options])  # fmt: skip
    return done


def policy(run):
    return json.loads((run / "metrics.json").read_text())["policy"]


def test_the_chain_trains_proposes_and_trains_on_its_own_masks(tmp_path, monkeypatch, capsys):
    done = stages(tmp_path, monkeypatch=monkeypatch)
    assert [arguments[:2] for arguments in done[:1]] == [["train", "diffseg"]]
    assert [arguments[0] for arguments in done] == ["train", "pseudo", "train"]
    folder = tmp_path / "diffseg-student-synthetic"
    teacher, student = folder / "teacher" / "version_0", folder / "student_1" / "version_0"
    assert proposing_checkpoint(str(teacher)) == (teacher / "checkpoints" / "last.ckpt", None)
    assert proposing_checkpoint(str(student)) == (student / "checkpoints" / "best.ckpt", None)
    learned = policy(student)["learned_from"]
    assert learned.startswith("labels: pseudo masks of ")
    assert learned.endswith(NOTHING)
    assert "image-level labels" in learned
    assert policy(teacher)["learned_from"] == "image-level labels"
    model = load_model(str(student))
    assert OfModel(model, module(folder / "pseudo_1").info, None).chosen_by is None
    assert not model.cuts_maps
    # All is finished: nothing is run again, and another cycle follows.
    assert stages(tmp_path, monkeypatch=monkeypatch) == []
    again = stages(tmp_path, "--cycles=2", monkeypatch=monkeypatch)
    assert [arguments[0] for arguments in again] == ["pseudo", "train"]
    assert str(student) in again[0]
    assert policy(folder / "student_2" / "version_0")["learned_from"].endswith(NOTHING)
    main(["zoo", "export", str(student), "--name", "student_synthetic.tiny", "--folder", str(tmp_path / "zoo")])
    for path in (tmp_path / "zoo" / "student_synthetic.tiny").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()  # nothing tells whose machine it was
    with pytest.raises(SystemExit) as stopped:
        stages(tmp_path, "--true_masks=3", monkeypatch=monkeypatch)
    assert "was started with other options" in str(stopped.value)


def test_a_chain_of_luminance_trains_no_teacher_and_names_true_masks(tmp_path, monkeypatch):
    steps = ["--fine_tuning.trainer.max_steps=2", "--fine_tuning.data.steps_per_epoch=2"]
    done = stages(tmp_path, "--proposer=luminance", "--true_masks=4", "--name=own", *steps, monkeypatch=monkeypatch)
    assert [arguments[0] for arguments in done] == ["pseudo", "train", "train"]
    tuned, student = (tmp_path / "own" / name / "version_0" for name in ("fine_tuned_1", "student_1"))
    learned = policy(student)["learned_from"]
    assert learned == policy(tuned)["learned_from"]
    assert yaml.safe_load((tuned / "config.yaml").read_text())["data"]["init_args"]["image_size"] == 32  # the student's
    assert str(student) in (tuned / "initialisation.json").read_text()
    assert learned == f"labels and 4 true masks: pseudo masks of luminance (learned from nothing); {NOTHING}"


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


@pytest.mark.parametrize(
    ("own", "proposing"),
    [
        ([], ["mean", "--crf", "off", "--agreement", "0.5"]),
        (["--proposer", "model"], ["model", "--crf", "auto"]),  # who asks for anything else gets it alone
    ],
)
def test_dermoscopy_has_the_teacher_that_measured_best(tmp_path, monkeypatch, own, proposing):
    done = []

    def finish(experiment, arguments):
        done.append(arguments)
        run = experiment / "version_0"
        run.mkdir(parents=True)
        (run / "metrics.json").write_text(json.dumps({"policy": {"learned_from": "labels"}}))
        return run

    monkeypatch.setattr(chain, "_finish", finish)
    monkeypatch.setattr(chain, "_run", done.append)
    main(["train", "diffseg-student", "isic2017", "--data.root=images", "--preset=cpu", f"--runs={tmp_path}", *own])
    teacher, pseudo, student = done
    assert teacher[teacher.index("--preset") + 1] == "border"
    assert not any("max_steps" in argument for argument in teacher)  # the preset says
    assert student[student.index("--preset") + 1] == "cpu"
    start = pseudo.index("--proposer") + 1
    assert pseudo[start : start + len(proposing)] == proposing
    recipe("diffseg", "isic2017", preset="border")  # it composes


def test_a_stage_that_fails_ends_the_chain_with_its_code(monkeypatch):
    started = []

    def start(command):
        started.append(command)
        return subprocess_of([sys.executable, "-c", "import sys; sys.exit(3)"])

    subprocess_of = subprocess.Popen
    monkeypatch.setattr(chain.subprocess, "Popen", start)
    with pytest.raises(SystemExit) as stopped:
        chain._run(["train", "diffseg", "synthetic"])
    assert stopped.value.code == 3
    assert started[0][-4:] == ["diffmedseg", "train", "diffseg", "synthetic"]


def test_a_run_that_masks_chose_says_so(finished_run):
    checkpoint, chosen = proposing_checkpoint(str(finished_run / "checkpoints" / "best.ckpt"))
    assert checkpoint.name == "best.ckpt"
    assert "masks may have chosen" in chosen
    data = tiny_data(mask_rule=rule())
    council = Council([OfModel(load_model(str(checkpoint)), data.info, chosen)], data.mask_rule, None)
    assert council.supervision(0).startswith("masks: ")  # it learned from masks
    assert NOTHING not in council.supervision(0)
    assert proposing_checkpoint(str(finished_run))[0].name == "last.ckpt"
