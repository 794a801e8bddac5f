"""The ambiguity benchmark: samples of any origin against several raters."""

import csv
import json
import math
import zipfile
from dataclasses import asdict, replace
from types import SimpleNamespace

import ambiguity_references
import numpy as np
import pytest
import torch
from helpers.picture_files import save, yaml_module
from helpers.slice_files import SIDE, write_slices
from helpers.small_networks import small
from helpers.tiny_run import TINY, tiny_data, tiny_trainer
from PIL import Image

from diffmedseg.callbacks import CaseMetrics, SampleFiles
from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.evaluation import worst_sets
from diffmedseg.evaluation.ambiguity import AmbiguityBenchmark
from diffmedseg.evaluation.ambiguity_result import SCORES
from diffmedseg.figures import save_figure
from diffmedseg.metrics import generalized_energy_distance, iou
from diffmedseg.metrics.functional import dice
from diffmedseg.metrics.table import read_cases
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter

OF_SETS = [
    name for name in SCORES if name.startswith(("ged", "hungarian", "rectangular", "divers", "distance", "rater"))
]


@pytest.fixture
def root(tmp_path):
    write_slices(tmp_path / "data")
    return tmp_path / "data"


def benchmark(root, track="all", **options):
    return AmbiguityBenchmark(yaml_module("lidc_slices", root, **options), "test", track)


def draw(image, number):
    """Draw samples (S, H, W), uint8, of an image: boxes, of which some are empty."""
    rng = np.random.default_rng(list(image.encode()))
    masks = np.zeros((number, SIDE, SIDE), np.uint8)
    for mask in masks:
        top, left, height, width = rng.integers(0, 14, 4)
        mask[top : top + height, left : left + width] = 1
    return masks


def write(folder, images, number=16):
    folder.mkdir()
    for image in images:
        np.savez_compressed(folder / f"{image}.npz", samples=draw(image, number))
    return folder


def write_pngs(folder, images, number=16):
    for image in images:
        for s, mask in enumerate(draw(image, number)):
            save(folder / image / f"sample-{s:02d}.png", mask * 255)
    return folder


def test_scores_are_those_of_the_metrics(root, tmp_path):
    own = benchmark(root)
    found = own.score(write(tmp_path / "samples", own.store.ids, 40))
    assert (found.num_samples, found.num_raters, found.left_out) == (40, [4], ["ged_100"])
    assert len(found.samples["all"].rows) == len(own.store) == 10
    for index, row in enumerate(found.samples["all"].rows):
        raters = own.store.reference(index)[:, 0].bool()
        samples = torch.from_numpy(draw(own.store.ids[index], 40)).bool()
        energy, first = (generalized_energy_distance(some, raters) for some in (samples, samples[:16]))
        assert row.patient == own.store.ids[index].split("_")[0]
        assert row.ged_16 == pytest.approx(float(first.biased))
        assert row.ged_unbiased == pytest.approx(float(energy.unbiased))
        majority = raters.sum(0) >= 2
        fused = samples.float().mean(0) > 0.5
        assert row.dice == pytest.approx(float(dice(fused, majority)))
        share = samples.double().mean(0)
        assert row.brier == pytest.approx(float((share - raters.double()).square().mean()), abs=1e-7)
        assert math.isnan(row.found) is not math.isnan(row.left_empty)
    scores = found.as_dict()["tracks"]["all"]["samples"]["nodule"]
    assert scores["ged_16_bias"]["mean"] == pytest.approx(scores["diversity"]["mean"] / 16)
    assert scores["ged_unbiased"]["mean"] == pytest.approx(
        2 * scores["distance_to_raters"]["mean"] - scores["diversity"]["mean"] - scores["rater_diversity"]["mean"]
    )


def test_the_raters_own_masks_are_a_perfect_set(root, tmp_path):
    own = benchmark(root)
    (tmp_path / "samples").mkdir()
    for index, image in enumerate(own.store.ids):
        masks = own.store.reference(index)[:, 0].repeat(8, 1, 1).numpy()
        np.savez(tmp_path / "samples" / f"{image}.npz", samples=masks)
    found = own.score(tmp_path / "samples").as_dict()
    for track, images in (("all", 10), ("nonempty", 2)):
        assert found["tracks"][track]["images"] == images
        scores = {name: one["mean"] for name, one in found["tracks"][track]["samples"]["nodule"].items()}
        assert scores["ged_16"] == pytest.approx(0, abs=1e-12)
        assert (scores["hungarian_iou_16"], scores["hungarian_iou_32"]) == pytest.approx((1, 1))
        assert scores["ece"] == pytest.approx(0, abs=1e-12)
        assert scores["samples_filled"] == pytest.approx(scores["raters_filled"])
        assert scores.get("left_empty", 1) == 1


def test_a_rater_is_scored_against_the_others(root):
    own = benchmark(root)
    for index, row in enumerate(own.score(None).raters["all"].rows):
        raters = own.store.reference(index)[:, 0].bool()
        others = [torch.cat([raters[:r], raters[r + 1 :]]) for r in range(4)]
        distance = np.mean([float((1 - iou(raters[r].expand(3, -1, -1), others[r])).mean()) for r in range(4)])
        agreed = np.mean([float(dice(raters[r], others[r].sum(0) >= 2)) for r in range(4)])
        assert row.distance_to_raters == pytest.approx(distance)
        assert row.dice == pytest.approx(agreed)
        assert row.samples_filled == pytest.approx(float(raters.flatten(1).any(1).double().mean()))
        assert math.isnan(row.ged_biased)


def test_a_rater_is_scored_against_a_single_other_rater(tmp_path):
    """Images with two raters and with three have the same scores."""
    rng = np.random.default_rng(0)
    for number, who in enumerate(["ab", "abc", "ab", "bc"]):
        save(tmp_path / "images" / f"p{number}.png", rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
        for rater in who:
            masks = draw(f"{rater}{number}", 1) * 255
            save(tmp_path / f"masks_{rater}" / f"p{number}.png", masks[0] if number else 0 * masks[0])
    for fold in (0, 1):
        own = AmbiguityBenchmark(yaml_module("folder", tmp_path, folds=2, fold=fold))
        for index, row in enumerate(own.score(None).raters["all"].rows):
            raters = own.store.reference(index)[:, 0].bool()
            number = len(raters)
            pairs = [(a, b) for a in range(number) for b in range(number) if a != b]
            distance = np.mean([float(1 - iou(raters[a], raters[b])) for a, b in pairs])
            assert (row.distance_to_raters, row.hungarian_iou) == pytest.approx((distance, 1 - distance))
            assert row.samples_filled == float(raters.any(2).any(1).double().mean())
            assert not math.isnan(row.found) or not math.isnan(row.left_empty)
            assert row.num_raters == number - 1
            if number == 2:
                assert row.dice == pytest.approx(float(dice(raters[0], raters[1])))
                squared = (raters[0] ^ raters[1]).double().mean()
                assert row.brier == pytest.approx(float(squared))


def test_pngs_score_as_the_same_arrays(root, tmp_path):
    own = benchmark(root)
    arrays = own.score(write(tmp_path / "arrays", own.store.ids))
    pngs = own.score(write_pngs(tmp_path / "pngs", own.store.ids))
    assert arrays.as_dict() == pngs.as_dict()


def test_a_track_alone_needs_no_other_samples(root, tmp_path):
    everything, track = benchmark(root), benchmark(root, "nonempty")
    wanted = [name for name, *_ in track.expected()]
    assert [name[-1] for name in wanted] == ["4", "4"]
    alone = track.score(write(tmp_path / "some", wanted)).as_dict()["tracks"]
    within = everything.score(write(tmp_path / "all", everything.store.ids)).as_dict()["tracks"]
    assert alone == {"nonempty": within["nonempty"]}
    assert track.score(tmp_path / "all").as_dict()["tracks"] == alone


def test_scores_that_need_more_samples_are_left_out_and_named(root, tmp_path):
    own = benchmark(root)
    for number, least in ((1, 2), (20, 32)):
        found = own.score(write(tmp_path / str(number), own.store.ids, number))
        scores = found.as_dict()["tracks"]["all"]["samples"]["nodule"]
        assert {"ged_100", "hungarian_iou_32"} <= set(found.left_out)
        assert not set(found.left_out) & set(scores)
        assert set(SCORES) == set(found.left_out) | set(scores) - {"ece", "ece_neighbourhood", "ged_16_bias"}
        assert ("ged_unbiased" in scores) is (least > 2)


def spoil(change):
    """Return a change of the samples of the first image."""
    return lambda folder, image: np.savez(folder / f"{image}.npz", samples=change(draw(image, 16)))


def remove(folder, image):
    (folder / f"{image}.npz").unlink()


def add_png(folder, image):
    write_pngs(folder, [image])


def in_place(write_file):
    def change(folder, image):
        remove(folder, image)
        write_file(folder, image)

    return change


def gap(folder, image):
    write_pngs(folder, [image])
    (folder / image / "sample-03.png").unlink()


def grey_png(folder, image):
    write_pngs(folder, [image])
    save(folder / image / "sample-03.png", draw(image, 1)[0])


def other_array(folder, image):
    np.savez(folder / f"{image}.npz", masks=draw(image, 16))


def objects(folder, image):
    np.savez(folder / f"{image}.npz", samples=np.array([None]))


def cut(folder, image):
    file = folder / f"{image}.npz"
    file.write_bytes(file.read_bytes()[:-40])


def corrupt(folder, image):
    file = folder / f"{image}.npz"
    with zipfile.ZipFile(file) as archive:
        start = archive.infolist()[0].header_offset + 60
    content = bytearray(file.read_bytes())
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"1 of 10 images have no samples in .*: expected .*slice-0\.npz\. --list FILE\.csv"),
        (
            lambda folder, _: (folder / "other.npz").touch(),
            r"has other\.npz, and no image of the split has this name",
        ),
        (lambda folder, _: (folder / "notes.txt").touch(), r"has notes\.txt, and no image"),
        (add_png, r"1 sets of samples have the same name: .*slice-0 and .*slice-0\.npz"),
        (
            spoil(lambda masks: masks[:, :-1]),
            r"have shape \(16, 1, 23, 24\); expected \(S, 24, 24\) or \(S, 1, 24, 24\)",
        ),
        (spoil(lambda masks: masks[0]), r"have shape \(24, 24\)"),
        (spoil(lambda masks: masks[:0]), r"have shape \(0, 1, 24, 24\).*S of at least 1"),
        (spoil(lambda masks: np.stack([masks, masks], 1)), r"have shape \(16, 2, 24, 24\)"),
        (spoil(lambda masks: masks * 255), r"slice-0\.npz has values 255; expected only 0 and 1\. Threshold"),
        (spoil(lambda masks: masks * 0.3), r"has values 0\.3; expected only 0 and 1"),
        (spoil(lambda masks: np.where(masks, np.nan, 0)), r"has values nan"),
        (spoil(lambda masks: masks.astype(str)), r"has values of type <U"),
        (spoil(lambda masks: masks[:15]), r"numbers of samples differ: 15 of .*slice-0 and 16 of .*slice-1"),
        (other_array, r"has no array samples; it holds masks\. Save it by numpy\.savez_compressed"),
        (objects, r"slice-0\.npz cannot be read \(Object arrays"),
        (cut, r"slice-0\.npz cannot be read \(File is not a zip file\)"),
        (corrupt, r"slice-0\.npz cannot be read"),
        (in_place(gap), r"holds 15 files .*expected sample-00\.png, sample-01\.png and so on, without a gap"),
        (in_place(grey_png), r"sample-03\.png has values 1; expected only 0 and 255"),
        (in_place(lambda folder, image: (folder / image).touch()), r"is neither an \.npz file nor a folder of PNG"),
    ],
)
def test_samples_that_cannot_be_scored_are_named_in_one_message(root, tmp_path, change, message):
    own = benchmark(root)
    folder = write(tmp_path / "samples", own.store.ids)
    change(folder, own.store.ids[0])
    with pytest.raises(DataError, match=message) as error:
        own.score(folder)
    assert "\n" not in str(error.value)


def test_data_that_the_benchmark_does_not_take(root, tmp_path):
    with pytest.raises(DataError, match="has one rater; the ambiguity benchmark needs two or more"):
        AmbiguityBenchmark(tiny_data(raters=1))
    with pytest.raises(DataError, match=r"There is no folder .*none\. Name the folder"):
        benchmark(root).score(tmp_path / "none")


def grey_model():
    return MedSegDiffSegmenter(small(MedSegDiffLite, 1), image_size=(16, 16), num_samples=16, num_steps=2)


def test_a_test_and_its_sample_files_score_alike_at_native_size(root, tmp_path):
    """The grid has 16 pixels, the files have 24."""
    data, scorer = yaml_module("lidc_slices", root), CaseMetrics()
    trainer = tiny_trainer(tmp_path / "run", callbacks=[scorer, SampleFiles(tmp_path / "samples")])
    trainer.test(grey_model(), data, verbose=False)
    found = benchmark(root).score(tmp_path / "samples").samples["all"].rows
    assert len({row.diversity for row in found}) > 1
    for tested, row in zip(scorer.rows, sorted(found, key=lambda row: row.case), strict=True):
        assert (tested.case, tested.patient) == (row.case, row.patient)
        for name in [*OF_SETS, "samples_filled", "raters_filled"]:
            assert getattr(tested, name) == pytest.approx(getattr(row, name), abs=0, nan_ok=True), name
    with pytest.raises(DataError, match="is not an empty folder"):
        trainer.test(grey_model(), data, verbose=False)


def test_two_images_never_share_a_file_of_samples(tmp_path):
    writer = SampleFiles(tmp_path)
    masks = torch.rand(2, 4, 1, 6, 6)
    batch = {"id": ["a/b", "a_b"], "reference": [torch.zeros(1, 1, 6, 6)] * 2}
    batch |= {"window": [None] * 2, "field_of_view": [None] * 2}
    result = {"segmentation": SimpleNamespace(samples=masks)}
    with pytest.raises(DataError, match=r"same file of samples, a_b\.npz"):
        writer.on_test_batch_end(None, None, result, batch, 0)
    assert np.array_equal(np.load(tmp_path / "a_b.npz")["samples"], masks[0] > 0.5)


def test_evaluate_writes_what_the_benchmark_scores_to_the_last_digit(run, tmp_path, capsys):
    fusion = "diffmedseg.postprocessing.MajorityFusion"
    options = ["--model.num_samples=16", f"--model.fusion={fusion}", f"--runs={tmp_path}"]
    main(["evaluate", str(run), f"--samples_folder={tmp_path / 'samples'}", *options])
    settings = [option.removeprefix("--data.") for option in TINY if option.startswith("--data.")]
    command = ["benchmark", "ambiguity", "synthetic", *(part for one in settings for part in ("--set", one))]
    main([*command, "--samples", str(tmp_path / "samples"), "--output", str(tmp_path / "out")])
    [table] = tmp_path.glob("medsegdiff-lite-synthetic/test_*/cases.csv")
    tested, scored = (
        [asdict(row) for row in read_cases(file)] for file in (table, tmp_path / "out" / "cases.csv")
    )  # fmt: skip
    of_models = {"seconds", "dice_prior", "hd95_pixels", "nsd_pixels", "uncertainty"}
    for one, other in zip(tested, scored, strict=True):
        for name in one.keys() - of_models:
            assert one[name] == other[name] or (one[name] != one[name] and other[name] != other[name]), name
    assert "GED (biased) of 16 samples" in capsys.readouterr().out


def test_the_command_writes_tables_that_compare_takes(root, tmp_path, capsys):
    command = ["benchmark", "ambiguity", "lidc_slices", "--data.root", str(root), "--set", "image_size=16"]
    main([*command, "--list", str(tmp_path / "names.csv")])
    with (tmp_path / "names.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert [(row["height"], row["width"]) for row in expected] == [("24", "24")] * 10
    images = [row["file"].removesuffix(".npz") for row in expected]
    for name, number in (("a", 16), ("b", 32)):
        folder = write(tmp_path / name, images, number)
        main([*command, "--samples", str(folder), "--output", str(tmp_path / f"out_{name}")])
    printed = capsys.readouterr().out
    assert (
        "Left out, since they need more than 16 samples per image: ged_100, hungarian_iou_32, rectangular_iou_32."
        in printed
    )
    assert "…" not in printed
    for place, cases in (("", 10), ("/raters", 10), ("/nonempty", 2), ("/nonempty/raters", 2)):
        tests = [str(tmp_path / f"out_{name}{place}") for name in "ab"]
        main(["compare", *tests, "--json", "--scores", "dice,ged_16"])
        for row in json.loads(capsys.readouterr().out):
            assert row["cases"] == cases
            assert row["low"] is not None  # over two patients
    metrics = json.loads((tmp_path / "out_b" / "metrics.json").read_text())
    assert (metrics["samples_per_image"], metrics["raters"], metrics["left_out"]) == (32, [4], ["ged_100"])
    assert [one["patients"] for one in metrics["tracks"].values()] == [2, 2]
    with pytest.raises(SystemExit, match="out_a is not an empty folder"):
        main([*command, "--samples", str(tmp_path / "a"), "--output", str(tmp_path / "out_a")])
    with pytest.raises(SystemExit, match=r"a/out is in the folder of samples, .*a\. Name a folder outside"):
        main([*command, "--samples", str(tmp_path / "a"), "--output", str(tmp_path / "a" / "out")])
    with pytest.raises(SystemExit, match=r"metrics\.json is not a list of this command"):
        main([*command, "--list", str(tmp_path / "out_b" / "metrics.json")])
    assert json.loads((tmp_path / "out_b" / "metrics.json").read_text()) == metrics
    main([*command, "--list", str(tmp_path / "names.csv")])  # a list may be written again


def test_a_folder_that_cannot_be_written_is_refused_before_scoring(root, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(AmbiguityBenchmark, "score", None)
    command = ["benchmark", "ambiguity", "lidc_slices", "--data.root", str(root), "--set", "image_size=16"]
    with pytest.raises(SystemExit, match="Not a directory"):
        main([*command, "--output", str(tmp_path / "file" / "out")])


def test_the_worst_images_are_drawn_worst_first(root, tmp_path, capsys, monkeypatch):
    command = ["benchmark", "ambiguity", "lidc_slices", "--data.root", str(root), "--set", "image_size=16"]
    task = benchmark(root)
    images = [image for image, *_ in task.expected()]
    folder = write(tmp_path / "samples", images)
    drawn = []

    def draw_sets(rows, store, index_of, samples_of):
        for row in rows:
            index = index_of(row)
            masks = samples_of(index)[:, 0]
            assert np.array_equal(masks, draw(store.ids[index], 16))
            energy = generalized_energy_distance(masks.bool(), store.reference(index)[:, 0].bool())
            assert row.ged_unbiased == pytest.approx(float(energy.unbiased))
        drawn.append([row.ged_unbiased for row in rows])
        return worst_sets.draw_sets(rows, store, index_of, samples_of)

    monkeypatch.setattr("diffmedseg.evaluation.ambiguity.draw_sets", draw_sets)
    main([*command, "--samples", str(folder), "--output", str(tmp_path / "out"), "--worst", "4"])
    everything = sorted((row.ged_unbiased for row in read_cases(tmp_path / "out" / "cases.csv")), reverse=True)
    assert drawn[0] == pytest.approx(everything[:4])
    assert [len(values) for values in drawn] == [4, 2]  # two images have no empty rater
    for place in ("", "nonempty"):
        assert Image.open(tmp_path / "out" / place / "worst.png").size[0] > 500
    one = write(tmp_path / "one", images, 1)
    main([*command, "--samples", str(one), "--output", str(tmp_path / "out_one"), "--worst", "4"])
    assert "No worst.png: one sample per image" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="give --samples and --output"):
        main([*command, "--samples", str(folder), "--worst", "4"])


def test_a_name_with_dollars_is_drawn_as_it_is(root, tmp_path):
    own = benchmark(root)
    folder = write(tmp_path / "samples", own.store.ids)
    [row, *_] = own.score(folder).samples["all"].rows
    masks = torch.from_numpy(draw(own.store.ids[0], 16)[:, None])
    figure = worst_sets.draw_sets([replace(row, case=r"p$\frac$1")], own.store, lambda _: 0, lambda _: masks)
    assert any(r"p$\frac$1" in axis.get_title() for axis in figure.axes)
    save_figure(figure, tmp_path / "worst.png")


def test_the_interval_of_a_table_is_over_patients(root, tmp_path):
    """With two patients the ends are their own means, and the means of both together are between."""
    own = benchmark(root)
    found = own.score(write(tmp_path / "samples", own.store.ids))
    ged = {}
    for row in found.samples["all"].rows:
        ged.setdefault(row.patient, []).append(row.ged_16)
    low, high = sorted(np.mean(values) for values in ged.values())
    scores = found.as_dict()["tracks"]["all"]["samples"]["nodule"]
    assert (scores["ged_16"]["low"], scores["ged_16"]["high"]) == pytest.approx((low, high))
    for name in ("ece", "ece_neighbourhood"):
        assert scores[name]["low"] < scores[name]["high"]


def test_a_perfect_sampler_has_no_more_than_the_bias(root, tmp_path):
    """Its GED is about the diversity of raters over S. An empty answer finds nothing, and has no false alarm."""
    own = benchmark(root)
    ambiguity_references.write(own.store, tmp_path, samples=100, seed=0)
    perfect, empty = (
        own.score(tmp_path / name).as_dict()["tracks"]["all"]["samples"]["nodule"] for name in ("perfect", "empty")
    )
    bias = perfect["rater_diversity"]["mean"] / 100
    assert perfect["ged_100"]["mean"] == pytest.approx(bias, abs=bias)
    assert perfect["hungarian_iou_16"]["mean"] > 0.8
    assert (empty["found"]["mean"], empty["left_empty"]["mean"], empty["samples_filled"]["mean"]) == (0, 1, 0)
    far = 2 * empty["raters_filled"]["mean"] - empty["rater_diversity"]["mean"]
    assert empty["ged_16"]["mean"] == pytest.approx(far)
