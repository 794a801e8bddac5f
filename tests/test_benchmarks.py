"""The scripts under experiments/benchmarks, as far as that takes no training."""

import csv
import shutil
import sys
from functools import cache, partial
from types import ModuleType, SimpleNamespace

import budget
import choices
import diffusers
import distil
import error_sources
import finetuning
import folds
import ged_time
import isic2017_result
import kills
import lite_designs
import nodule_volumes
import numpy as np
import peer_time
import pytest
import rare_mode
import shared_noise
import timing
import torch
import volume_scores
from helpers.composing import instantiate
from helpers.isic_files import write
from helpers.mri_files import labels, write_nifti
from helpers.nnunet_files import REGIONS, write_json
from patch_borders import jumps, ratios
from rows import read_rows

from diffmedseg import load_checkpoint
from diffmedseg.configurable import to_config
from diffmedseg.data import ISIC2017DataModule, SyntheticDataModule
from diffmedseg.diffusion import ReverseProcess
from diffmedseg.keyed_random import keyed_generator, keyed_normal
from diffmedseg.metrics.functional import generalized_energy_distance
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.models.medsegdiff.denoiser_lite import LITE_SIZES
from diffmedseg.models.sizes import SIZES
from diffmedseg.recipes import recipe


@pytest.mark.parametrize(
    ("member", "data", "variant"),
    [(member, data, one) for member, own in choices.VARIANTS.items() for data, ones in own.items() for one in ones],
)
def test_every_variant_changes_something(member, data, variant):
    changed = configured_model(member, data, variant)
    assert (changed == configured_model(member, data, choices.START)) == (variant in {choices.START, choices.CONTROL})


@cache
def configured_model(member, data, variant):
    """Return the configuration of a variant's model; all of the variant is built."""
    options = [*choices.FIRST[member][data], *choices.VARIANTS[member][data][variant]]
    return str(instantiate(recipe(choices.MODELS[member], data).files, *options).config.model)


def test_table_of_choices(tmp_path, monkeypatch, capsys):
    columns = {"start": 0.8, "dice=1": 0.9, "no EMA": 0.8}
    with (tmp_path / "choices_isic2017.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = [f"{name}.{seed}" for name in columns for seed in (0, 1)]
        writer.writerow(["case", *(f"{name}.{score}" for name in names for score in ("dice", "diversity"))])
        for case in range(20):
            own = [columns[name.rsplit(".", 1)[0]] + case / 1000 for name in names]
            writer.writerow([case, *(value for dice in own for value in (dice, 0.25))])
    monkeypatch.setattr(choices, "__file__", str(tmp_path / "choices.py"))
    choices.table("isic2017")
    printed = capsys.readouterr().out
    assert "| start | 0.8095 |  |  |  | 0.250 |" in printed
    assert "| dice=1 | 0.9095 | +0.1000 | +0.1000 to +0.1000 | +0.1000, +0.1000 | 0.250 |" in printed


def test_table_of_the_result(tmp_path, capsys):
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "seed", "case", *isic2017_result.COLUMNS])
        for number, model in enumerate((*isic2017_result.MODELS, isic2017_result.BOTH)):
            for seed in (0, 1):
                for case in range(10):
                    dice = 0.8 + 0.05 * number + case / 100
                    writer.writerow([model, seed, case, dice, dice, 1 - dice, 1 - dice])
    isic2017_result.table(tmp_path / "scores.csv")
    printed = capsys.readouterr().out
    assert "| medsegdiff less supervised | -0.0500 | -0.0500 to -0.0500 | -0.050, -0.050 |" in printed
    assert "| medsegdiff | uncertainty | -1.00, -1.00 | 0.870 | 0.820 |" in printed


def test_scores_and_table_of_the_folds(tmp_path, capsys):
    for model, dice, done in (("medsegdiff-v1", 0.5, 2), ("medsegdiff-lite", 0.625, 1), ("supervised", 0.75, 2)):
        for fold in range(done):
            run = tmp_path / f"lgg.{model}.{fold}" / "version_0"
            run.mkdir(parents=True)
            values = {"dice": dice + fold / 10, "hd95": 3, "nsd": 0.5, "uncertainty": 0.1}
            values |= dict.fromkeys(("diversity", "cl_dice", "ged_unbiased"), "")
            names = ["case", "region", *values]
            (run / "cases.csv").write_text(f"{','.join(names)}\np{fold},tumour,{','.join(map(str, values.values()))}\n")
    folds.collect(tmp_path, tmp_path / "scores.csv")
    folds.table(tmp_path / "scores.csv")
    printed = capsys.readouterr().out
    assert "| tumour | p0 | 0.500 | 0.625 | 0.750 | 3.000 | 3.000 | 3.000 | 0.500 | 0.500 | 0.500 |" in printed
    assert "| tumour | p1 | 0.600 |  | 0.850 | 3.000 |  | 3.000 | 0.500 |  | 0.500 |" in printed
    assert "| tumour | mean of 2 | 0.550 |  | 0.800 | 3.000 |  | 3.000 | 0.500 |  | 0.500 |" in printed


def test_label_maps_of_nnunet_are_scored_as_a_fold(tmp_path, capsys):
    raw, predicted = tmp_path / "Dataset502_Fold2", tmp_path / "predicted"
    write_json(raw, ["FLAIR"], REGIONS, order=[1, 2, 3])
    true = labels((1, 2, 3))
    write_nifti(raw / "labelsTs" / "p1.nii.gz", true, np.uint8)
    write_nifti(predicted / "p1.nii.gz", np.where(true == 3, 2, true), np.uint8)
    volume_scores.nnunet("brats2015", raw, predicted, runs=tmp_path / "runs")
    folds.collect(tmp_path / "runs", tmp_path / "scores.csv")
    rows = {row["region"]: row for row in read_rows(tmp_path / "scores.csv")}
    assert [float(rows[region]["dice"]) for region in ("whole_tumour", "core", "enhancing")] == [1, 1, 0]
    assert {(row["model"], row["fold"], row["case"]) for row in rows.values()} == {("nnunet-2d", "2", "p1")}
    folds.table(tmp_path / "scores.csv")
    assert "| Dice, nnunet-2d |" in capsys.readouterr().out
    assert volume_scores.label_values(raw)[0] == {"whole_tumour": 1, "core": 2, "enhancing": 3}


def test_runs_that_are_not_here_keep_their_scores(tmp_path, monkeypatch):
    """Runs are not in the repository; a table takes them from several machines."""
    values = {name: "0.5" for name in ("dice", "ged_unbiased", "diversity", *folds.COLUMNS)}
    header, cells = ",".join(["case", "region", *values]), ",".join(values.values())
    monkeypatch.setattr(choices, "__file__", str(tmp_path / "choices.py"))
    for run in ("lgg.medsegdiff.0", "lgg.medsegdiff.1", "lgg.medsegdiff.1"):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        for folder in (tmp_path / "runs" / run, tmp_path / "runs" / "synthetic" / run):
            (folder / "version_0").mkdir(parents=True)
            (folder / "version_0" / "cases.csv").write_text(f"{header}\na,tumour,{cells}\n")
        folds.collect(tmp_path / "runs", tmp_path / "scores.csv")
        choices.collect("synthetic", tmp_path / "runs")
    assert [row["fold"] for row in read_rows(tmp_path / "scores.csv")] == ["0", "1"]
    (row,) = read_rows(tmp_path / "choices_synthetic.csv")
    assert {name.rsplit(".", 1)[0] for name in row} == {"case", "lgg.medsegdiff.0", "lgg.medsegdiff.1"}


def test_roughness_is_what_changes_between_slices():
    still = torch.zeros(5, 8, 8, dtype=torch.bool)
    still[:, 2:6, 2:6] = True
    flicker = still.clone()
    flicker[::2] = False
    assert shared_noise.roughness(still) == 0
    assert shared_noise.roughness(flicker) == 1
    assert shared_noise.roughness(still & False) == 0
    found = shared_noise.scores(torch.stack([still, flicker]), still, still)
    assert found == pytest.approx([1, 0.5, 0, 1 - 2 / 5, torch.tensor([80.0, 32.0]).std().item() / 56])


def test_training_ends_before_an_epoch_that_would_exceed_its_time(monkeypatch):
    """Epochs of 20 s in a minute: two, with the 5 s before the first; a resumed run remembers what was used."""
    clock = iter([0, 5, 25, 25, 45])
    monkeypatch.setattr(budget.time, "process_time", lambda: next(clock))
    first, trainer = budget.ProcessTime(1), SimpleNamespace(should_stop=False)
    stopped = []
    for _ in range(2):
        first.on_train_epoch_start(trainer, None)
        first.on_train_epoch_end(trainer, None)
        stopped.append(trainer.should_stop)
    assert stopped == [False, True]
    monkeypatch.setattr(budget.time, "process_time", lambda: 30)
    resumed = budget.ProcessTime(1)
    resumed.load_state_dict(first.state_dict())
    resumed.on_train_epoch_end(trainer, None)  # Lightning ends the epoch before which it was stopped
    assert resumed.state_dict()["used"] == 60


class Peer(torch.nn.Module):
    """Stands for the peer's; keeps what it is trained on."""

    seen: list[float] = []  # noqa: RUF012

    def __init__(self, network, **settings):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, mask, image):
        self.seen.extend(image.double().sum((1, 2, 3)).tolist())
        return self.weight.square()

    def sample(self, image):
        return image[:, :1]


def test_the_peer_is_trained_on_all_images_each_time_anew(tmp_path, monkeypatch):
    """Not on those of one epoch, augmented once: neither in its second epoch nor where it goes on."""
    write(tmp_path, ISIC2017DataModule, training=10, validation=2, test=1)
    peer = ModuleType("med_seg_diff_pytorch")
    peer.MedSegDiff, peer.Unet = Peer, lambda **settings: None
    monkeypatch.setitem(sys.modules, "med_seg_diff_pytorch", peer)
    monkeypatch.setattr(budget, "ISIC2017DataModule", partial(ISIC2017DataModule, batch_size=2, steps_per_epoch=2))
    clock = iter(range(1000))
    monkeypatch.setattr(budget.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(Peer, "seen", [])
    for minutes in (0.2, 0.4):
        (tmp_path / "cases.csv").unlink(missing_ok=True)
        budget._train_peer(tmp_path, tmp_path, minutes, samples=2, steps=2)
    assert len(Peer.seen) > 12
    assert len(set(Peer.seen)) == len(Peer.seen)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["step"] == len(Peer.seen) / 2
    assert state["used"] >= 0.4 * 60


def test_the_peer_is_timed_with_the_channels_last_too(monkeypatch, capsys):
    """In training as in sampling, its weights as well: ours have both."""
    formats = set()

    class Network(torch.nn.Conv2d):
        def forward(self, x, t, image):
            last = self.weight.is_contiguous(memory_format=torch.channels_last)
            formats.add((torch.is_grad_enabled(), last, image.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(torch.cat([x, image], 1))

    class Whole(torch.nn.Module):
        def __init__(self, network, timesteps):
            super().__init__()
            self.model = network

        def forward(self, mask, image):
            return self.model(mask, 0, image).square().mean()

    peer = ModuleType("med_seg_diff_pytorch")
    peer.MedSegDiff, peer.Unet = Whole, lambda **settings: Network(4, 1, 3, padding=1)
    monkeypatch.setitem(sys.modules, "med_seg_diff_pytorch", peer)
    monkeypatch.setattr(peer_time, "_EQUAL_V1", SIZES["tiny"])
    monkeypatch.setattr(peer_time, "_EQUAL_LITE", (SIZES["tiny"], LITE_SIZES["tiny"]))

    def once(work, rounds):
        for (name, _), piece in work.items():
            if name in peer_time._FORMATS:
                piece()
        return dict.fromkeys(work, 1.0)

    monkeypatch.setattr(peer_time, "median_seconds", once)
    peer_time.main(side=16, samples=2, batch=1)
    assert formats == {(training, last, last) for training in (False, True) for last in (False, True)}
    printed = capsys.readouterr().out
    training, sampling = printed.split("samples of one image")
    assert "| peer, channels_last | 0.0 M |" in training
    assert "| peer, channels_last, 1000 steps |" in sampling


def test_times_stand_beside_the_day_and_the_processor(tmp_path, capsys):
    ged_time.main(images=1, samples=2, raters=2, side=8)
    assert timing.hardware() in capsys.readouterr().out
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\ncache size\t: 1\n")
    assert timing.processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert timing.processor(tmp_path / "elsewhere")


def seen_by(segmenter, run):
    """Return the levels and the noisy masks that the network is given."""
    seen = []
    handle = segmenter.denoiser.register_forward_pre_hook(lambda _, given: seen.append((int(given[1][0]), given[0])))
    run()
    handle.remove()
    return seen


def test_a_student_learns_at_the_levels_where_it_will_be_asked():
    """Whatever the spacing of its sampler, which is UniPC where lite's is meant."""
    torch.manual_seed(0)
    reverse = ReverseProcess(diffusers.UniPCMultistepScheduler(), spacing=1.5)
    segmenter = MedSegDiffSegmenter(MedSegDiffLite(3, 1, "tiny"), image_size=(32, 32), reverse=reverse).eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    noise = keyed_normal((1, 32, 32), [keyed_generator(segmenter.seed, "a", 0)], image.device)
    condition = segmenter.denoiser.encode(image)
    learned = seen_by(segmenter, lambda: distil._loss(segmenter, noise, condition, torch.zeros(1, 1, 32, 32)))
    asked = seen_by(segmenter, lambda: segmenter.sample(image, 1, 2, keys=["a"]))
    assert [t for t, _ in learned] == [t for t, _ in asked]
    for (_, x_t), (_, other) in zip(learned, asked, strict=True):
        torch.testing.assert_close(x_t, other, atol=1e-4, rtol=0)


def test_a_student_is_written_as_a_checkpoint_of_one_step(run, tmp_path):
    student = load_checkpoint(run)
    with torch.no_grad():
        for weight in student.denoiser.parameters():
            weight.add_(0.1)
    distil._save(student, run, tmp_path / "student.ckpt")
    loaded = load_checkpoint(tmp_path / "student.ckpt")
    assert loaded.num_steps == 1
    image = torch.zeros(1, 3, *student.image_size)
    expected = student.segment(image, num_steps=1).probability
    torch.testing.assert_close(loaded.segment(image).probability, expected)


def test_table_of_the_budget(tmp_path, capsys):
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "steps", "minutes", "case", *budget.COLUMNS])
        for model, dice, prior in (("medsegdiff-lite", 0.9, 0.85), ("supervised", 0.8, "nan")):
            writer.writerows([model, 100, 60, case, dice, prior, 0.1] for case in range(10))
    budget.table(tmp_path / "scores.csv")
    printed = capsys.readouterr().out
    assert "| medsegdiff-lite | 100 | 60 | 0.9000 (0.9000 to 0.9000) | 0.1000 (0.1000 to 0.1000) | 0.8500" in printed
    assert "| supervised | 100 | 60 | 0.8000 (0.8000 to 0.8000) |  |  | 0.1000" in printed


def test_fine_tuning_is_compared_with_the_same_training_from_scratch(tmp_path, capsys):
    """By hand: two children, whose two eyes are averaged first, over two seeds."""
    rows = [
        {"transfer": name, "start": start, "steps": "100", "seed": seed, "case": f"Image_0{child}{eye}", "dice": dice}
        for name, start, dices in (
            ("CHASE to another child", "scratch", {"1L": 0.2, "1R": 0.4, "2L": 0.5, "2R": 0.5}),
            ("CHASE to another child", "pretrained", {"1L": 0.6, "1R": 0.6, "2L": 0.6, "2R": 0.8}),
        )
        for seed in (0, 1)
        for (child, eye), dice in dices.items()
    ]
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    finetuning.table(tmp_path / "scores.csv")
    printed = next(line for line in capsys.readouterr().out.splitlines() if "| pretrained |" in line)
    assert printed == (
        "| CHASE to another child | 100 | pretrained | 2 (4) | 2 | 0.650 (0.600 to 0.700) | +0.250 (+0.200 to +0.300) "
        "| +0.250, +0.250 |"
    )


def test_no_two_runs_of_fine_tuning_share_a_folder():
    runs = list(finetuning._plan([0, 1], [], [*finetuning.RATES], [0, 100, 300]))
    assert len({run.folder for run in runs}) == len(runs) > 40
    assert not any(run.steps == 0 and run.start == "scratch" for run in runs)


def test_kills_counts_rows_that_are_missing_and_rows_that_are_there_twice(tmp_path):
    for name, rows in {"alone": "0.5,0\n0.4,1\n0.3,2\n", "killed": "0.5,0\n0.5,0\n0.3,2\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(f"train/loss,step\n{rows}")
    assert kills.compare_rows(tmp_path / "alone", tmp_path / "killed") == (1, 1)
    assert kills.compare_rows(tmp_path / "alone", tmp_path / "alone") == (0, 0)


def test_kills_tells_checkpoints_apart_by_a_bit(tmp_path):
    saved = {"optimizer_states": [{"step": torch.tensor(1.0), "lr": 0.1}]}
    other = {"optimizer_states": [{"step": torch.tensor(1.0).nextafter(torch.tensor(2.0)), "lr": 0.1}]}
    assert kills.is_same(saved, saved)
    assert not kills.is_same(saved, other)


@pytest.mark.parametrize("side", [16, 18])
def test_blocks_are_jumps_at_the_borders_of_patches(side):
    """A ramp has none, whatever its slope; patches of one value each are nothing else; noise has them as often."""
    torch.manual_seed(0)
    ramp = (torch.arange(side) / side + 0.1 * torch.arange(side)[:, None])[None]
    assert jumps(ramp) == pytest.approx([(0.1 + 1 / side) / 2] * 2)
    flat = torch.rand(20, 5, 5).repeat_interleave(4, -1).repeat_interleave(4, -2)[..., :side, :side]
    border, inside = jumps(flat)
    assert inside == 0
    assert border > 0.2
    border, inside = jumps(torch.rand(200, side, side))
    assert border / inside == pytest.approx(1, abs=0.02)
    pair = torch.zeros(1, side, side)
    pair[0, :, 4:] = 1  # by hand: one border of all that are between columns or rows
    borders = 2 * ((side - 1) // 4) * side
    assert jumps(pair) == pytest.approx((side / borders, 0))


def test_the_mean_influence_is_the_ratio_of_sums():
    pairs = {"a": [2.0, 1.0], "b": [0.0, 3.0], "c": [5.0, 2.0]}
    found = ratios({name: torch.tensor(pair).numpy() for name, pair in pairs.items()})
    assert sum(found.values()) / 3 == pytest.approx(7 / 6)
    alike = ratios({name: torch.tensor([1.5 * b, b]).numpy() for name, (_, b) in pairs.items()})
    assert list(alike.values()) == pytest.approx([1.5] * 3)  # none has an influence of its own


def test_the_images_of_a_patient_are_averaged():
    rows = [
        {"case": "a", "patient": "p", "dice": "0.5", "ged_unbiased": ""},
        {"case": "b", "patient": "p", "dice": "0.7", "ged_unbiased": "0.25"},
        {"case": "c", "patient": "q", "dice": "1", "ged_unbiased": ""},
    ]
    assert lite_designs.by_patient(rows) == [
        {"patient": "p", "images": 2, "dice": "0.6", "ged_unbiased": "0.25"},
        {"patient": "q", "images": 1, "dice": "1", "ged_unbiased": ""},
    ]


def test_designs_are_scored_on_images_from_everywhere(tmp_path):
    torch.manual_seed(0)
    model = MedSegDiffSegmenter(MedSegDiffLite(3, 1, "tiny"), image_size=(32, 32), num_steps=2).eval()
    data = SyntheticDataModule(num_train=1, num_val=1, num_test=9, image_size=32, eval_batch_size=2)
    data.setup("test")
    lite_designs.score(model, data, tmp_path / "designs.csv", cases=3)
    rows = read_rows(tmp_path / "designs.csv")
    assert [row["case"] for row in rows] == ["test-0000", "test-0004", "test-0008"]
    assert all(row[column] for row in rows for column in ("ged_unbiased", "distance_to_raters", "map_inside"))
    loader = data.test_dataloader()
    batch = data.on_after_batch_transfer(loader.collate_fn([loader.dataset[4]]), 0)
    expected = model.segment(batch["image"], num_samples=8, keys=["test-0004"])
    border, inside = jumps(expected.samples)
    assert [float(rows[1][name]) for name in ("sample_border", "sample_inside")] == pytest.approx(
        [border, inside], rel=1e-3
    )


def test_every_design_of_lite_is_one_of_its_own():
    """No two predict alike, whatever weights they learn."""
    image, x_t, outputs = torch.randn(1, 3, 32, 32), torch.randn(1, 1, 32, 32), []
    for name, options in lite_designs.designs().items():
        if name in ("unchanged", "no presence"):  # the network that `apart` is, too
            continue
        network = MedSegDiffLite(3, 1, **{"size": "tiny"} | options).eval()
        torch.manual_seed(0)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            outputs.append(network(x_t, torch.tensor([500]), network.encode(image)))
    assert not any(torch.allclose(one, other) for i, one in enumerate(outputs) for other in outputs[:i])


def test_a_new_step_network_stands_on_the_old_condition_network(tmp_path, monkeypatch):
    trained = MedSegDiffSegmenter(MedSegDiffLite(3, 1, "tiny"), image_size=(32, 32), num_steps=2)
    data = SyntheticDataModule(num_train=4, num_val=1, num_test=2, image_size=32, batch_size=2, eval_batch_size=2)
    data.setup("test")
    monkeypatch.setattr(lite_designs, "load_run", lambda run: (trained, data))
    model, _ = lite_designs.with_new_steps(tmp_path, {"denoiser.patches": "interpolated", "loss.dice": 0.5})
    assert to_config(model)["init_args"]["loss"]["init_args"]["dice"] == 0.5
    assert to_config(model.denoiser)["init_args"]["patches"] == "interpolated"
    before = {name: value.clone() for name, value in trained.denoiser.condition.state_dict().items()}
    lite_designs.train([tmp_path], runs=tmp_path, steps=2, only=["apart"])
    assert read_rows(tmp_path / "isic2017" / "2" / "apart.0" / "designs.csv")
    own = model.denoiser.condition.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.denoiser.condition.parameters())


def test_table_of_the_designs(tmp_path, capsys):
    """By hand: two patients, of whom the first has two images; jumps whose ratio is 2 and 1."""
    for variant, dices, border in (("apart", (0.4, 0.6, 0.8), 2), ("interpolated", (0.6, 0.6, 0.9), 1)):
        for seed in (0, 1):
            run = tmp_path / "isic2017" / "300" / f"{variant}.{seed}"
            run.mkdir(parents=True)
            rows = [
                {"case": case, "patient": case[0], "ged_unbiased": ""}
                | dict.fromkeys(("dice", "dice_samples", "dice_prior", "diversity"), dice)
                | {"sample_border": border, "sample_inside": 1, "map_border": 1, "map_inside": 1}
                | {"distance_to_raters": ""}
                for case, dice in zip(("a0", "a1", "b0"), dices, strict=True)
            ]
            lite_designs.write_rows(rows, run / "designs.csv")
    lite_designs.collect(tmp_path, tmp_path / "scores.csv")
    lite_designs.table(tmp_path / "scores.csv")
    printed = capsys.readouterr().out
    assert "| apart | 2 | 2 | 0.6500 |" in printed
    assert "| interpolated | 2 | 2 | 0.7500, +0.1000 (+0.1000 to +0.1000; +0.1000, +0.1000) |" in printed
    assert "| 1.0000, -1.0000 (-1.0000 to -1.0000; -1.0000, -1.0000) | 1.0000 |" in printed
    assert "GED" not in printed


def test_samples_of_the_rare_mode_are_told_from_those_of_the_core():
    core, halo = rare_mode.rings()
    neither = halo.clone()
    neither[:, 6:13] = 0  # less than half of the halo is left
    samples = torch.stack([core, core, halo, halo, neither])[None] > 0.5
    model = SimpleNamespace(segment=lambda *_, **__: SimpleNamespace(binary_samples=samples))
    assert rare_mode.drawn(model, 5, 1) == pytest.approx((0.6, 0.2))


def test_table_of_the_rare_mode(monkeypatch, capsys):
    """One step of training: every cell is there."""
    first = dict(list(rare_mode.models().items())[::2])
    monkeypatch.setattr(rare_mode, "models", lambda: first)
    rare_mode.main(train_steps=1, samples=4, seeds=(0,))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[1] for line in lines] == ["steps", "1", "1", "4"]
    assert all(line.count("%") == 2 * len(rare_mode.RARE) for line in lines[1:])


def test_noise_of_nodules():
    slices, samples = [3, 4, 7], 2
    rows = {
        shape: [
            keyed_normal((64,), row, torch.device("cpu"))
            for row in nodule_volumes.generators_of(0, "patient/nodule-0", slices, samples, None, shape)
        ]
        for shape in (None, 0.0, 4.0)
    }
    alike = {
        shape: float(torch.corrcoef(torch.stack([found[0][0], found[1][0]]))[0, 1]) for shape, found in rows.items()
    }
    assert alike[None] == pytest.approx(1)
    assert abs(alike[0.0]) < 0.4 < alike[4.0] < 0.95
    assert all(len(found) == 3 and found[0].shape == (samples, 64) for found in rows.values())


def test_scores_and_table_of_nodules():
    still = torch.zeros(2, 4, 8, 8, dtype=torch.bool)
    still[:, 1:3, 2:6, 2:6] = True
    readers = still.clone()
    readers[1] = False
    ged, unbiased, rough, of_readers, spread, spread_of_readers = nodule_volumes.scores(still, readers)
    assert (ged, unbiased) == (0.5, 0.5)  # samples all alike; every other reader saw nothing
    assert rough == of_readers > 0
    assert spread == 0 < spread_of_readers
    rows = [
        {"nodule": f"p{n}_nodule-0", "presence": noise, "shape": noise}
        | dict.fromkeys(nodule_volumes.SCORES, value + n)
        for n in range(3)
        for noise, value in (("shared", 0.5), ("own", 0.25))
    ]
    lines = nodule_volumes.table(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["shared", "own"]
    assert lines[3].endswith("| -0.250 (-0.250 to -0.250) |")


def some_masks(number, seed):
    masks = torch.zeros(number, 12, 12, dtype=torch.bool)
    for mask, (row, column, side) in zip(
        masks, torch.randint(1, 6, (number, 3), generator=keyed_generator(seed)), strict=True
    ):
        mask[row : row + side, column : column + side] = True
    return masks


def test_sources_of_error_vanish_with_the_raters_own_masks():
    """Raters' presence and shapes together are the raters, and each alone is nearer to them than the model."""
    shapes, raters = some_masks(16, "shapes"), some_masks(4, "raters")
    raters[0] = False
    scores = error_sources.sources(shapes, 0.2, raters)
    assert error_sources.expected_ged(raters[1:], 0.75, raters, drawn=False) == pytest.approx(0, abs=1e-12)
    assert 0 < scores["presence of the raters"] < scores["presence and shapes of the model"]
    assert 0 < scores["shapes of the raters"] < scores["presence and shapes of the model"]
    assert error_sources.sources(shapes, 0.0, torch.zeros_like(raters))["shapes of the raters"] == 0


def test_the_expectation_over_presence_is_the_mean_of_drawn_sets():
    shapes, raters = some_masks(6, "shapes"), some_masks(4, "raters")
    raters[:2] = False
    assert error_sources.expected_ged(shapes, 1.0, raters) == pytest.approx(
        float(generalized_energy_distance(shapes, raters).unbiased)
    )
    generator, drawn = keyed_generator("presence"), []
    for _ in range(4000):
        present = torch.rand(6, 1, 1, generator=generator) < 0.4
        drawn.append(float(generalized_energy_distance(shapes & present, raters).unbiased))
    expected = error_sources.expected_ged(shapes, 0.4, raters)
    assert torch.tensor(drawn).mean() == pytest.approx(expected, abs=0.02)
