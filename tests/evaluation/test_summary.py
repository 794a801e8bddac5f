import html
import json
import math
from dataclasses import replace

import pytest
import torch

from diffmedseg.callbacks.case_metrics import summary_table
from diffmedseg.evaluation import summarise_test
from diffmedseg.evaluation.report import render_report
from diffmedseg.evaluation.summary import POLICY
from diffmedseg.metrics import dice
from diffmedseg.metrics.calibration import FINE_BINS, merge_bins, proper_scores
from diffmedseg.metrics.cases import score_cases, summarise
from diffmedseg.metrics.images import pool, score_image
from diffmedseg.metrics.scores import TITLES


def images(count=6, raters=1, regions=1):
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        samples = torch.rand(3, regions, 16, 16, generator=generator)
        reference = torch.rand(raters, regions, 16, 16, generator=generator).round().to(torch.uint8)
        found.append(score_image(f"c{number}", samples.mean(0), samples, reference, 0.5, 0.1))
    return pool(found)


def summed_up(pooled, regions):
    rows = score_cases(pooled.values(), regions)
    return summarise_test(pooled, rows, summarise(rows), 0.5)


def test_it_is_json_with_every_policy():
    pooled = images(raters=3, regions=2)
    summary = summed_up(pooled, ["a", "b"])
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again == summary
    assert (summary["cases"], summary["policy"]["raters"], summary["policy"]["samples_per_image"]) == (6, [3], 3)
    assert list(summary["regions"]) == ["a", "b"]
    for region in summary["regions"].values():
        names = ("ged_unbiased", "distance_to_raters", "diversity", "rater_diversity")
        means = {name: region["scores"][name] for name in names}
        assert {one["cases"] for one in means.values()} == {6}
        ged, across, *within = (one["mean"] for one in means.values())
        assert 2 * across - sum(within) == pytest.approx(ged)
        assert 0 < region["set"]["ece"] < 1
        assert sum(one["pixels"] for one in region["set"]["reliability"]["whole"]) == 6 * 256
        assert region["set"]["failure_rate"] == 1


def test_what_one_case_does_not_have_is_none():
    pooled = images(1)
    region = summed_up(pooled, ["a"])["regions"]["a"]
    assert region["set"]["rank_correlation_dice_uncertainty"] is None
    assert "ged_unbiased" not in region["scores"]


def test_pooled_dice_counts_pixels_where_the_mean_counts_cases():
    large, small = torch.zeros(2, 1, 16, 16)
    large[:, :12], small[:, :2] = 1, 1
    maps = {"large": (large, large), "small": (1 - small, small)}
    pooled = pool(score_image(n, p, p[None], r[None].to(torch.uint8), 0.5, 0.0) for n, (p, r) in maps.items())
    region = summed_up(pooled, ["a"])["regions"]["a"]
    both = [torch.cat([maps[name][k] for name in maps], 1) > 0.5 for k in (0, 1)]
    assert region["set"]["dice_pooled"] == pytest.approx(float(dice(*both)))
    assert region["scores"]["dice"]["mean"] == 0.5


def test_only_images_of_a_case_are_pooled():
    a, b = images(2).values()
    with pytest.raises(ValueError, match="cannot be pooled"):
        a + b


@pytest.mark.parametrize("raters", [2, 3])
def test_the_reference_is_what_is_said(raters):
    reference = torch.zeros(raters, 1, 16, 16, dtype=torch.uint8)
    reference[0, :, :8], reference[1:, :, 4:] = 1, 1
    own = reference[0 if raters == 2 else 1].float()
    rows = score_cases([score_image("a", own, own[None], reference, 0.5, 0.0)], ["x"])
    assert rows[0].dice == 1
    said = "the first of two raters; the majority of three or more"
    assert said in summary_table(rows, summarise(rows), {"x": {"set": {}}}).caption
    assert said in POLICY["reference"]
    single = score_cases(images(1).values(), ["x"])
    assert "rater" not in summary_table(single, summarise(single), {"x": {"set": {}}}).caption


def test_the_policy_is_what_is_done():
    """As many bins as there can be, and the surprise of a certain error."""
    assert f"at most {merge_bins(torch.ones(3, FINE_BINS)).shape[1]} bins" in POLICY["ece"]
    _, _, surprise = proper_scores(torch.zeros(1, 1), torch.ones(1, 1)).tolist()
    assert f"at least {math.exp(-surprise):.0e}".replace("e-0", "e-") in POLICY["nll"]


def test_false_alarms_are_counted_where_there_is_nothing_to_find():
    something, nothing = torch.ones(1, 16, 16), torch.zeros(1, 16, 16)
    maps = {"a": (something, something), "b": (nothing, something), "c": (something, nothing), "d": (nothing, nothing)}
    pooled = pool(score_image(n, p, p[None], r[None].to(torch.uint8), 0.5, 0.0) for n, (p, r) in maps.items())
    of_set = summed_up(pooled, ["r"])["regions"]["r"]["set"]
    assert (of_set["without_lesion"], of_set["false_alarms"]) == (2, 0.5)
    rows = score_cases(pooled.values(), ["r"])
    page = render_report("t", summed_up(pooled, ["r"]), rows, {}, ["r"])
    assert "2 cases without a lesion: in 1 of them the mask is not empty" in page
    of_set = summed_up(images(), ["r"])["regions"]["r"]["set"]
    assert (of_set["without_lesion"], of_set["false_alarms"]) == (0, None)


def test_what_only_the_set_has_is_printed_without_an_interval():
    pooled = images(regions=2)
    rows = score_cases(pooled.values(), ["a", "b"])
    found = summarise_test(pooled, rows, summarise(rows), 0.5)["regions"]
    found["b"]["set"]["ece_neighbourhood"] = None
    lines = list(zip(*(column.cells for column in summary_table(rows, summarise(rows), found).columns), strict=True))
    for region, of_set in found.items():
        for title, name in (
            ("Dice pooled over all cases", "dice_pooled"),
            ("ECE, all pixels", "ece"),
            ("ECE, near lesions", "ece_neighbourhood"),
            ("AURC", "aurc"),
            ("False alarms in cases without lesion", "false_alarms"),
        ):
            value = of_set["set"][name]
            assert ((region, title, f"{value or 0:.4f}", "") in lines) == (value is not None)
    assert [line[0] for line in lines] == sorted(line[0] for line in lines)


def test_a_model_that_finds_nothing_anywhere_is_said():
    something, nothing = torch.ones(1, 16, 16), torch.zeros(1, 16, 16)

    def tested(mask, prior, truth=something):
        """Score two cases, of which the second has nothing to find."""
        pooled = pool(
            score_image(name, mask, mask[None], reference[None].to(torch.uint8), 0.5, 0.0, prior=prior)
            for name, reference in (("a", truth), ("b", nothing))
        )
        rows, summary = score_cases(pooled.values(), ["r"]), summed_up(pooled, ["r"])
        names = summary["regions"]["r"]["set"]["empty_in_all_cases"]
        page = render_report("t", summary, rows, {}, ["r"])
        caption = summary_table(rows, summarise(rows), summary["regions"]).caption
        for name in ("fused mask", "condition network's own mask"):
            assert (f"the {name} of r is empty in every case" in caption) == (name in names)
            assert (f"The {html.escape(name)} is empty in every case." in page) == (name in names)
        return names

    assert tested(something, something) == []
    assert tested(nothing, nothing, truth=nothing) == []
    assert tested(nothing, something) == ["fused mask"]
    assert tested(something, nothing) == ["condition network's own mask"]
    assert tested(nothing, None) == ["fused mask"]


def test_scores_that_some_cases_lack_say_their_number_of_cases():
    pooled = images(3, raters=2) | {
        f"one{name}": replace(image, case=f"one{name}") for name, image in images(2).items()
    }
    rows = score_cases(pooled.values(), ["x"])
    summaries, found = summarise(rows), {"x": {"set": {"dice_pooled": 0.5}}}
    table = summary_table(rows, summaries, found)
    titles, numbers = (list(table.columns[i].cells) for i in (1, -1))
    assert table.columns[-1].header == "Cases"
    shown = dict(zip(titles, numbers, strict=True))
    assert [shown[TITLES[summary.score]] for summary in summaries] == [str(summary.cases) for summary in summaries]
    assert {"3", "5"} <= set(numbers)
    assert "or fewer" in table.caption
    full = summarise([row for row in rows if row.num_raters == 2])
    table = summary_table([row for row in rows if row.num_raters == 2], full, found)
    assert table.columns[-1].header == "95 % interval"
    assert "or fewer" not in table.caption


def test_the_policy_counts_patients():
    pooled = images(4)
    for patients, number in ((None, 4), ({name: "one" for name in pooled}, 1)):
        rows = score_cases(pooled.values(), ["x"], patients=patients)
        assert summarise_test(pooled, rows, summarise(rows), 0.5)["policy"]["patients"] == number
        caption = summary_table(rows, summarise(rows), {"x": {"set": {}}}).caption
        assert ("intervals over 1 patient" in caption) == (number == 1)
