"""Comparing two tests of the same cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffmedseg.errors import DataError
from diffmedseg.metrics.bootstrap import bootstrap_interval
from diffmedseg.metrics.cases import TITLES, CaseScore
from diffmedseg.wording import count, first_names


@dataclass(frozen=True)
class Difference:
    """A score of two tests, case by case.

    Attributes:
        region: The region.
        score: The score.
        a: Its mean in the first test.
        b: In the second.
        mean: Mean of a - b over the cases that have it in both.
        low: Lower end of its 95 % bootstrap interval over cases.
        high: Upper end.
        above: Share of cases in which a is above b; ties count half.
        cases: Number of cases.
    """

    region: str
    score: str
    a: float
    b: float
    mean: float
    low: float
    high: float
    above: float
    cases: int


def compare_cases(a: Sequence[CaseScore], b: Sequence[CaseScore], common: bool = False) -> list[Difference]:
    """Compare two tests, paired by case and region.

    Args:
        a: Scores of the first test.
        b: Scores of the second.
        common: Compare the cases that are in both, where others are in one alone.

    Raises:
        DataError: If a case occurs twice, none is in both, or some are in one alone and ``common`` is not set.
    """
    first, second = _by_case(a, "first"), _by_case(b, "second")
    alone = {f"{case} ({region})" for case, region in first.keys() ^ second.keys()}
    both = sorted(first.keys() & second.keys())
    if not both or (alone and not common):
        remedy = "--common compares the others." if both else "Are these tests of the same data?"
        raise DataError(f"{count(len(alone), 'case')} in one table alone: {first_names(alone)}. {remedy}")
    differences = []
    for region in dict.fromkeys(row.region for row in a):
        for score in TITLES:
            pairs = [(getattr(first[key], score), getattr(second[key], score)) for key in both if key[1] == region]
            values = np.array(pairs, dtype=float).reshape(-1, 2)
            values = values[~np.isnan(values).any(1)]
            if len(values):
                difference = values[:, 0] - values[:, 1]
                above = float(((np.sign(difference) + 1) / 2).mean())
                mean_a, mean_b = values.mean(0).tolist()
                low, high = bootstrap_interval(difference)
                mean = float(difference.mean())
                differences.append(Difference(region, score, mean_a, mean_b, mean, low, high, above, len(values)))
    return differences


def _by_case(rows: Sequence[CaseScore], which: str) -> dict[tuple[str, str], CaseScore]:
    found = {(row.case, row.region): row for row in rows}
    if len(found) < len(rows):
        raise DataError(f"A case occurs twice in the {which} table.")
    return found
