"""Scoring masks of any origin, summing up a test, and comparing two."""

from diffmedseg.evaluation.comparison import Difference, compare_cases
from diffmedseg.evaluation.mask_folders import pair_masks, read_mask, score_folders
from diffmedseg.evaluation.summary import summarise_test

__all__ = ["Difference", "compare_cases", "pair_masks", "read_mask", "score_folders", "summarise_test"]
