"""Pseudo masks: proposals, rules, files, and calls that were cut off."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import isic_files
from helpers.mri_files import data_module, write_layout
from helpers.pseudo_files import NOTHING, content, folder_of_pictures, module, order, picture, rule, written
from helpers.tiny_run import tiny_data
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import ISIC2017DataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.labels import (
    CentralComponent,
    FieldOfView,
    LastingComponent,
    MaskRule,
    Plausible,
)
from diffmedseg.data.pseudo import read_table
from diffmedseg.data.store import to_signed
from diffmedseg.data.views import EvaluationView, TrainingView
from diffmedseg.errors import DataError
from diffmedseg.experiments import data_config, list_datasets
from diffmedseg.pseudo import writing
from diffmedseg.pseudo.proposers import Luminance
from diffmedseg.pseudo.writing import write_pseudo_masks


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
