import dataclasses

import numpy as np
import pytest

from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.evaluation import compare_cases
from diffmedseg.metrics.cases import CaseScore
from diffmedseg.metrics.table import read_cases, write_cases


def rows(dice, region="lesion"):
    return [
        CaseScore(f"c{i}", region, d, d / 2, both_empty=False, num_slices=1, num_samples=1, num_raters=1)
        for i, d in enumerate(dice)
    ]


def test_a_constant_difference_is_certain():
    """Unpaired, the spread of the cases would hide it."""
    dice = np.linspace(0.2, 0.9, 30)
    [first, *_] = compare_cases(rows(dice + 0.05), rows(dice))
    assert (first.score, first.cases, first.above) == ("dice", 30, 1)
    assert (first.mean, first.low, first.high) == pytest.approx((0.05, 0.05, 0.05))
    assert first.a - first.b == pytest.approx(0.05)


def test_order_does_not_matter_and_ties_count_half():
    a, b = rows([0.5, 0.6, 0.9, 0.7]), rows([0.5, 0.7, 0.8, 0.7])
    [first, *_] = compare_cases(a, b[::-1])
    assert first.above == 0.5
    assert first.mean == pytest.approx(0)


def test_cases_that_are_in_one_alone():
    a, b = rows([0.5, 0.6, 0.9]), rows([0.5, 0.6])
    with pytest.raises(DataError, match=r"1 case in one table alone: c2 \(lesion\)\. --common"):
        compare_cases(a, b)
    assert compare_cases(a, b, common=True)[0].cases == 2
    with pytest.raises(DataError, match="Are these tests of the same data"):
        compare_cases(a, rows([0.5], "other"), common=True)
    with pytest.raises(DataError, match="twice in the second table"):
        compare_cases(a, a + a)


def test_tables_are_read_as_they_were_written(tmp_path):
    written = [dataclasses.replace(row, hd95=3.25, both_empty=True) for row in rows([0.123456789, 0.5])]
    write_cases(written, tmp_path / "cases.csv")
    assert list(map(repr, read_cases(tmp_path / "cases.csv"))) == list(map(repr, written))  # NaN is not itself


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "no column case"), ("", "no column case"),
     ("case,region,dice,iou,both_empty,num_slices,num_samples,num_raters\na,b,x,1,True,1,1,1\n", "line 2"),
     ("case,region,dice,iou,both_empty,num_slices,num_samples,num_raters\na,b,1\n", "line 2")],
)  # fmt: skip
def test_files_that_are_no_table(text, message, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(SystemExit, match=rf"error: .*x\.csv.*{message}"):
        main(["compare", str(tmp_path / "x.csv"), str(tmp_path / "x.csv")])
