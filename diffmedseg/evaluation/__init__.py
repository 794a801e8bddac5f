"""Score masks of any method, summarise a test, and compare tests."""

from diffmedseg.evaluation.comparison import Comparison, compare_tests
from diffmedseg.evaluation.mask_folders import pair_masks, read_mask, score_folders
from diffmedseg.evaluation.summary import summarise_test

__all__ = ["Comparison", "compare_tests", "pair_masks", "read_mask", "score_folders", "summarise_test"]
