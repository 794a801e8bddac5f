"""Compare tests of the same cases: of single runs, or of pooled seeds and folds."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.metrics.bootstrap import bootstrap_interval
from diffmedseg.metrics.scores import OF_SAMPLE_NUMBER, TITLES, CaseScore
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)

#: Scores of one test: (case, region) -> score name -> value.
_Pooled = dict[tuple[str, str], dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """A score of one test, and its difference from the first test, case by case.

    Attributes:
        region: The region.
        score: The score, a field of :class:`~diffmedseg.metrics.cases.CaseScore`.
        test: Name of the test.
        tables: Number of pooled tables: seeds, folds or both.
        cases: Number of cases. Each counts once, with its mean over the tables that have it.
        mean: Mean over the cases.
        low: Lower end of its 95 % bootstrap interval, over patients if the tables name them, else over cases.
        high: Upper end of the interval.
        deviation: Standard deviation of the mean over tables of the same cases (seeds); NaN for one table and folds.
        difference: Mean difference from the first test over the same cases. NaN for the first test, and for a score
            that depends on the number of samples if these numbers differ.
        difference_low: Lower end of the 95 % bootstrap interval of the difference.
        difference_high: Upper end of the interval.
        above: Share of cases in which this test is above the first; ties count half. NaN for the first test.
    """

    region: str
    score: str
    test: str
    tables: int
    cases: int
    mean: float
    low: float
    high: float
    deviation: float = float("nan")
    difference: float = float("nan")
    difference_low: float = float("nan")
    difference_high: float = float("nan")
    above: float = float("nan")


def compare_tests(
    tests: Mapping[str, Sequence[Sequence[CaseScore]]], common: bool = False, scores: Sequence[str] = tuple(TITLES)
) -> list[Comparison]:
    """Compare tests with the first test, paired by case and region.

    A score that a test lacks is left out for the test. A score is compared over the cases in which all tests have it.
    If a test has another number of samples than the first test, a warning names the scores without a difference.

    Args:
        tests: The tables of each test, by name: one table, or the tables of its seeds and folds.
        common: Compare only the cases that all tests have, instead of refusing tests of different cases.
        scores: The scores to compare, fields of :class:`~diffmedseg.metrics.cases.CaseScore`.

    Returns:
        A row for each region, score and test, in this order.

    Raises:
        DataError: If there are fewer than two tests; a case occurs twice in a table, or in more tables of a test than
            another case; no case is in all tests; or the cases differ and ``common`` is not set.
    """
    if len(tests) < 2:
        raise DataError(f"There is {count(len(tests), 'test')}; expected two or more to compare.")
    base, pooled = next(iter(tests)), {name: _pool(name, tables) for name, tables in tests.items()}
    keys = _common_keys(pooled, common)
    numbers_of_samples = {name: _numbers_of_samples(tables) for name, tables in tests.items()}
    unlike = {name for name, numbers in numbers_of_samples.items() if len(numbers | numbers_of_samples[base]) > 1}
    patient = {row.case: row.patient for tables in tests.values() for table in tables for row in table if row.patient}
    rows = []
    for region in dict.fromkeys(row.region for tables in tests.values() for row in tables[0]):
        cases = [key for key in keys if key[1] == region]
        for score in scores:
            values = {name: np.array([scored[key][score] for key in cases]) for name, scored in pooled.items()}
            available = {name: numbers for name, numbers in values.items() if not np.isnan(numbers).all()}
            kept = ~np.isnan(np.array(list(available.values()))).any(0) if available else np.zeros(len(cases), bool)
            if not kept.any():
                continue
            first = values[base][kept]
            patients = [patient.get(case, case) for (case, _), keep in zip(cases, kept, strict=True) if keep]
            alone = {base} | (unlike if score in OF_SAMPLE_NUMBER else set())
            rows += [
                _compare(region, score, name, tests[name], numbers[kept], patients, None if name in alone else first)
                for name, numbers in available.items()
            ]
    if unlike:
        _warn_of_numbers(numbers_of_samples, rows)
    return rows


def _numbers_of_samples(tables: Sequence[Sequence[CaseScore]]) -> set[int]:
    return {row.num_samples for table in tables for row in table}


def _warn_of_numbers(numbers_of_samples: Mapping[str, set[int]], rows: Sequence[Comparison]) -> None:
    """Name the scores that have no difference, since the tests have different numbers of samples."""
    scores = [TITLES[name] for name in dict.fromkeys(row.score for row in rows) if name in OF_SAMPLE_NUMBER]
    if scores:
        found = [f"{name}: {' and '.join(map(str, sorted(numbers)))}" for name, numbers in numbers_of_samples.items()]
        _log.warning(
            "The numbers of samples differ (%s). These scores depend on it and have no difference: %s. Test with equal "
            "numbers, or compare scores of a fixed number, such as ged_16.", ", ".join(found), ", ".join(scores),
        )  # fmt: skip


def _pool(name: str, tables: Sequence[Sequence[CaseScore]]) -> _Pooled:
    """Average the scores of each case over the tables that have it."""
    by_case: dict[tuple[str, str], list[CaseScore]] = defaultdict(list)
    for table in tables:
        twice = [key for key, times in Counter((row.case, row.region) for row in table).items() if times > 1]
        if twice:
            raise DataError(
                f"{name}: a case occurs twice in one table: {_case_names(twice)}. Keep one row of the case."
            )
        for row in table:
            by_case[row.case, row.region].append(row)
    times = {len(rows) for rows in by_case.values()}
    if len(times) > 1:
        fewest = [key for key, rows in by_case.items() if len(rows) == min(times)]
        raise DataError(
            f"{name}: some cases are in {min(times)} of {len(tables)} tables, others in {max(times)}: "
            f"{_case_names(fewest)}. Seeds need the same cases; folds must have no case in common."
        )
    return {
        key: {score: _mean([getattr(row, score) for row in rows]) for score in TITLES} for key, rows in by_case.items()
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(map(float, values))


def _common_keys(pooled: Mapping[str, _Pooled], common: bool) -> list[tuple[str, str]]:
    keys = [scores.keys() for scores in pooled.values()]
    in_all = {key for key in keys[0] if all(key in test_keys for test_keys in keys)}
    unshared = {key for test_keys in keys for key in test_keys} - in_all
    if not in_all or (unshared and not common):
        remedy = "--common compares the other cases." if in_all else "Name tests of the same data."
        raise DataError(f"{count(len(unshared), 'case')} not in every test: {_case_names(unshared)}. {remedy}")
    return sorted(in_all)


def _case_names(keys: Sequence[tuple[str, str]] | set[tuple[str, str]]) -> str:
    return first_names({f"{case} ({region})" for case, region in keys})


def _compare(
    region: str,
    score: str,
    name: str,
    tables: Sequence[Sequence[CaseScore]],
    values: NDArray[np.float64],
    patients: Sequence[str],
    first: NDArray[np.float64] | None,
) -> Comparison:
    interval = bootstrap_interval(values, patients=patients)
    mean = region, score, name, len(tables), len(values), float(values.mean()), *interval
    deviation = _deviation(tables, region, score)
    if first is None or np.isnan(first).any():
        return Comparison(*mean, deviation)
    difference = values - first
    above = float(((np.sign(difference) + 1) / 2).mean())
    interval = bootstrap_interval(difference, patients=patients)
    return Comparison(*mean, deviation, float(difference.mean()), *interval, above)


def _deviation(tables: Sequence[Sequence[CaseScore]], region: str, score: str) -> float:
    """Return the standard deviation of the mean over tables of the same cases."""
    cases = [{row.case: float(getattr(row, score)) for row in table if row.region == region} for table in tables]
    if len(tables) < 2 or any(scores.keys() != cases[0].keys() for scores in cases):
        return float("nan")
    means = [float(np.mean([value for value in scores.values() if value == value] or [np.nan])) for scores in cases]
    return float("nan") if np.isnan(means).any() else stdev(means)
