from dataclasses import fields

from diffmedseg.metrics.scores import LOWER_IS_BETTER, SCORES, TITLES, CaseScore

#: What says which case a row is of, or how it was made: no scores, which have a mean.
FACTS = {"case", "region", "both_empty", "num_slices", "num_samples", "num_raters", "density_low", "density_high"}


def test_every_number_of_a_case_is_a_score_or_a_fact():
    assert {one.name for one in fields(CaseScore)} - set(SCORES) == FACTS | {"patient"}


def test_no_two_scores_are_called_alike():
    assert len(set(TITLES.values())) == len(SCORES)


def test_meanings_say_which_way_is_better():
    for name, score in SCORES.items():
        assert score.explanation.endswith("; lower is better") == (name in LOWER_IS_BETTER)
    assert {"hd95", "ged_unbiased", "brier", "seconds"} <= LOWER_IS_BETTER
    assert not {"dice", "diversity", "density"} & LOWER_IS_BETTER
