import csv
import multiprocessing
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.mri_files import brain, data_module, labels, modality, write_brats, write_layout, write_nifti

from diffmedseg import zoo
from diffmedseg.cli import main
from diffmedseg.data.mri import store as mri_store
from diffmedseg.data.mri.volumes import NormalVolume, find_brain
from diffmedseg.errors import DataError

CASES = ["BraTS2021_00000", "BraTS2021_00001"]


@pytest.fixture
def root(tmp_path):
    write_brats(tmp_path / "data", CASES)
    return tmp_path / "data"


def cached():
    return sorted(path.name for path in mri_cache().iterdir())


def mri_cache():
    from diffmedseg.data.base import cache_folder

    return cache_folder()


def test_values_are_scored_over_the_brain(root):
    """At native size nothing is resampled, so the numbers can be compared."""
    data = data_module("brats", root, image_size=(20, 16))
    store = data.load("train")
    for index in range(len(store)):
        number = int(store.ids[index][-3:])
        for channel in range(4):
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(data.cases[store.cases[index]].images[channel])))
            inside = values[brain()].astype(float)
            expected = ((values[number] - inside.mean()) / inside.std()).clip(-5, 5) / 5
            assert np.allclose(store.image(index)[channel][brain()[number]], expected[brain()[number]], atol=2e-5)
            assert (store.image(index)[channel][~brain()[number]] == -1).all()


def test_decoded_once(root, monkeypatch):
    data_module("brats", root).prepare_data()
    before = cached()
    assert len(before) == 2
    monkeypatch.setattr(mri_store, "to_slices", None)  # decoding would fail
    for split in ("train", "val", "test"):
        assert len(data_module("brats", root).load(split)) > 0
    assert cached() == before


def test_a_changed_file_is_decoded_again(root):
    data = data_module("brats", root)
    data.prepare_data()
    before = cached()
    write_nifti(data.cases[CASES[0]].images[0], modality(3) * 2)
    data_module("brats", root).prepare_data()
    assert len(set(cached()) - set(before)) == 1


def test_data_of_the_same_names_sizes_and_times_is_not_confused(tmp_path):
    """A copy whose t1 was scaled otherwise, with its times kept, as archives and rsync keep them."""
    values = {}
    for name, gain in (("a", 1), ("b", np.linspace(1, 3, 16))):
        write_brats(tmp_path / name, CASES, ext=".nii")
        for case in CASES:
            write_nifti(tmp_path / name / case / f"{case}_t1.nii", modality(0) * gain)
        for path in (tmp_path / name).rglob("*.nii"):
            os.utime(path, ns=(0, 0))
        values[name] = data_module("brats", tmp_path / name).load("test").image(1)
    assert not torch.equal(values["a"], values["b"])


def test_other_settings_are_other_entries(root):
    data_module("brats", root).prepare_data()
    data_module("brats", root, image_size=24).prepare_data()
    data_module("brats", root, modalities=["t1"]).prepare_data()
    assert len(cached()) == 6
    data_module("brats", root, regions=["whole_tumour"], fold=1, train_slices="tumour").prepare_data()
    assert len(cached()) == 6


def test_an_interruption_leaves_nothing(root, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mri_store, "to_slices", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data_module("brats", root).prepare_data()
    assert cached() == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="importing anew takes long")
def test_racing_processes_agree(root, monkeypatch):
    """Both decode a case before either has written it; one result is kept, and both read it."""
    context, to_slices = multiprocessing.get_context("fork"), mri_store.to_slices
    barrier, seen = context.Barrier(2, timeout=300), context.Queue()

    def slow(channels, brain, names, *others):
        if CASES[0] in names[0]:
            barrier.wait()
        return to_slices(channels, brain, names, *others)

    def run():
        data = data_module("brats", root)
        data.prepare_data()
        seen.put(float(data.load("train").image(2).sum()))

    monkeypatch.setattr(mri_store, "to_slices", slow)
    processes = [context.Process(target=run) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert seen.get(timeout=300) == seen.get(timeout=300)
    assert len(cached()) == 2


@pytest.mark.parametrize("kept", [0, 100])
def test_a_damaged_cache_says_so(kept, root):
    data_module("brats", root).prepare_data()
    mri_store.open_case.cache_clear()
    for name in cached():
        path = mri_cache() / name / "image.npy"
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"is damaged .*Delete this folder"):
        data_module("brats", root).load("train")


def test_files_stay_closed_beyond_a_few_cases(tmp_path):
    names = [f"BraTS2021_{number:05d}" for number in range(mri_store._OPEN_CASES + 6)]
    write_brats(tmp_path, names[:1])
    for name in names[1:]:
        (tmp_path / name).mkdir()
        for path in (tmp_path / names[0]).iterdir():
            os.link(path, tmp_path / name / path.name.replace(names[0], name))
    store = data_module("brats", tmp_path, modalities=["t1"]).load("train")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for index in range(len(store)):
        store.image(index)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * mri_store._OPEN_CASES


@pytest.mark.parametrize("slices", ["all", "brain", "tumour"])
def test_slices_that_are_trained_on(slices, root):
    store = data_module("brats", root, train_slices=slices).load("train")
    shown = {"all": np.ones(6, bool), "brain": brain().any((1, 2)), "tumour": labels().any((1, 2))}[slices]
    assert [int(name[-3:]) for name in store.ids] == np.flatnonzero(shown).tolist()
    assert {store.num_slices(index) for index in range(len(store))} == {6}


def test_empty_slices_are_drawn_less_often(root):
    data = data_module("brats", root, train_slices="all", empty_weight=0.25, batch_size=50, steps_per_epoch=40)
    data.setup("fit")
    drawn = Counter(int(label) for batch in data.train_dataloader() for label in batch["label"])
    tumour = int(labels().any((1, 2)).sum())
    expected = 0.25 * (6 - tumour) / (0.25 * (6 - tumour) + tumour)
    assert drawn[0] / sum(drawn.values()) == pytest.approx(expected, abs=0.04)


def test_a_slice_is_diseased_where_it_has_what_is_learned(root):
    whole, inner = (
        data_module("brats", root, regions=regions).load("train") for regions in (None, ["enhancing_tumour"])
    )
    labels_ = [[store.label(index) for index in range(len(store))] for store in (whole, inner)]
    assert labels_[1] == [int((inner.reference(index) > 0).any()) for index in range(len(inner))]
    assert 0 < sum(labels_[1]) < sum(labels_[0])


def test_background_is_found_by_its_value():
    channels = np.stack([modality(0, background=-3.2), modality(1, background=12)])
    assert np.array_equal(find_brain(channels), brain())
    noisy = channels + np.random.default_rng(0).normal(0, 1, channels.shape).astype(np.float32)
    assert np.array_equal(find_brain(noisy), brain())  # what is dark in every channel


def test_noise_around_a_head_is_air_though_the_rim_is_blank():
    channels = np.stack([modality(0), modality(1)])
    noise = np.random.default_rng(0).uniform(0, 9, channels.shape).astype(np.float32)
    noise[:, :, [0, -1]], noise[:, :, :, [0, -1]] = 0, 0
    assert np.array_equal(find_brain(np.where(brain(), channels, noise)), brain())


def test_dark_tissue_of_a_stripped_brain_is_brain():
    """Fluid in FLAIR is as dark as noise in air, but there is less of it."""
    channel = modality(0)
    channel[2, 6:12, 5:11] = 3
    assert np.array_equal(find_brain(channel[None]), brain())


def test_z_scored_data_that_fills_little_of_its_field_of_view_is_still_the_brain():
    """Its background of 0 lies within its range, and all percentiles of the volume in the background."""
    small = np.zeros((1, 40, 80, 80), np.float32)
    tissue = np.random.default_rng(0).normal(0, 1, brain().shape).astype(np.float32)
    small[0, 10:16, 20:40, 20:36] = np.where(brain(), tissue, 0)
    assert (small != 0).mean() < 0.01
    assert np.array_equal(find_brain(small), small[0] != 0)


def test_noise_around_a_commonest_value_is_air():
    """As in TCGA_CS_4942 of LGG: 1 fills most of the faces of a channel whose least value is 0."""
    generator = np.random.default_rng(0)
    channels = np.stack([modality(0), modality(1)])
    noise = generator.choice([0, 1, 2, 3], channels.shape, p=[0.1, 0.6, 0.2, 0.1]).astype(np.float32)
    assert np.array_equal(find_brain(np.where(brain(), channels, noise)), brain())


def test_a_channel_with_noise_in_air_leaves_the_background_to_the_others():
    clean, noisy = modality(0), modality(1) + np.random.default_rng(0).normal(0, 3, brain().shape).astype(np.float32)
    assert np.array_equal(find_brain(np.stack([clean, noisy])), brain())


def test_splits_are_written_when_all_is_decoded(root, tmp_path):
    path = next(iter(data_module("brats", root).cases.values())).images[0]
    content = path.read_bytes()
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read"):
        data_module("brats", root, splits=str(tmp_path / "s.yaml")).prepare_data()
    assert not (tmp_path / "s.yaml").exists()
    path.write_bytes(content)
    data_module("brats", root, splits=str(tmp_path / "s.yaml")).prepare_data()
    with pytest.raises(DataError, match="Name another file, or use the same settings"):
        data_module("brats", root, splits=str(tmp_path / "s.yaml"), fold=1).prepare_data()


def test_workers_read_what_the_main_process_reads(root):
    batches = []
    for workers in (0, 2):
        data = data_module("brats", root, num_workers=workers)
        data.setup("test")
        batches.append([batch["image"] for batch in data.test_dataloader()])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_normal_values():
    scored = np.stack(list(NormalVolume.of([modality(0)], brain(), ["t1"]).slices()), 1)
    assert abs(scored[0][brain()].mean()) < 1e-3
    assert scored[0][brain()].std() == pytest.approx(0.2, abs=0.01)
    assert (scored[0][~brain()] == -1).all()


def test_whole_numbers_are_normalised_as_floats_are():
    """A volume is held as int16 where it can be."""
    whole = modality(0).round()
    whole[2, 5:9, 5:9] = -32768  # which has no positive counterpart in 16 bits
    for ranges in (None, {0: (-100, 300)}):
        stored, floats = (
            list(NormalVolume.of([whole.astype(dtype)], brain(), ["t1"], ranges).slices())
            for dtype in (np.int16, np.float32)
        )
        assert all(np.array_equal(a, b) for a, b in zip(stored, floats, strict=True))
    assert np.array_equal(find_brain([whole.astype(np.int16)]), find_brain([whole]))


@pytest.mark.parametrize("name", ["brats2015", "lgg"])
def test_make_train_trains_tests_and_scores_volumes(name, tmp_path, capsys):
    write_layout(name, tmp_path / "data")
    options = [
        "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--data.image_size=16", "--data.batch_size=2",
        "--data.steps_per_epoch=1", "--data.folds=3", "--model.num_samples=2", "--model.num_steps=2",
    ]  # fmt: skip
    main(
        ["train", "medsegdiff-lite", name, *options, f"--data.root={tmp_path / 'data'}", f"--runs={tmp_path / 'runs'}"]
    )
    run = tmp_path / "runs" / f"medsegdiff-lite-{name}" / "version_0"
    lines = (run / "cases.csv").read_text().splitlines()
    assert len(lines) == 1 + (1 if name == "lgg" else 3)
    for row in csv.DictReader(lines):
        assert float(row["hd95"]) >= 0
        assert 0 <= float(row["nsd"]) <= 1
        assert int(row["num_slices"]) == brain().any((1, 2)).sum()
    assert "HD95, mm" in capsys.readouterr().out
    card = (zoo.export(run, "medsegdiff_mri.test", tmp_path / "zoo") / "README.md").read_text()
    assert "Menze" in card or "Buda" in card
    assert "CC BY-NC-SA" in card
    assert "There is no picture of these cases" in card
    assert "nan" not in card  # of one case there is no interval
    assert "| one case |" in card
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert list(checkpoint["hyper_parameters"]["channels"]) == (
        ["t1", "flair", "t1ce"] if name == "lgg" else ["flair", "t1ce"]
    )
