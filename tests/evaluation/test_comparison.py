import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.evaluation import compare_tests
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.metrics.table import read_cases, write_cases
from diffmedseg.zoo.source import packaged_zoo


def rows(dice, region="lesion"):
    return [
        CaseScore(f"c{i}", region, d, d / 2, both_empty=False, num_slices=1, num_samples=1, num_raters=1)
        for i, d in enumerate(dice)
    ]


def compare(a, b, **options):
    """Compare a with b, the first test; return the rows of a."""
    return [row for row in compare_tests({"b": [b], "a": [a]}, **options) if row.test == "a"]


def test_a_constant_difference_is_certain():
    """Unpaired, the spread of the cases would hide it."""
    dice = np.linspace(0.2, 0.9, 30)
    [first, *_] = compare(rows(dice + 0.05), rows(dice))
    assert (first.score, first.cases, first.above) == ("dice", 30, 1)
    assert (first.difference, first.difference_low, first.difference_high) == pytest.approx((0.05, 0.05, 0.05))
    assert first.mean == pytest.approx(0.6)


def test_order_does_not_matter_and_ties_count_half():
    a, b = rows([0.5, 0.6, 0.9, 0.7]), rows([0.5, 0.7, 0.8, 0.7])
    [first, *_] = compare(a, b[::-1])
    assert first.above == 0.5
    assert first.difference == pytest.approx(0)


def test_cases_that_are_in_one_alone():
    a, b = rows([0.5, 0.6, 0.9]), rows([0.5, 0.6])
    with pytest.raises(DataError, match=r"1 case not in every test: c2 \(lesion\)\. --common"):
        compare(a, b)
    assert compare(a, b, common=True)[0].cases == 2
    with pytest.raises(DataError, match="Name tests of the same data"):
        compare(a, rows([0.5], "other"), common=True)
    with pytest.raises(DataError, match="b: a case occurs twice in one table"):
        compare(a, a + a)
    with pytest.raises(DataError, match="There is 1 test; expected two"):
        compare_tests({"a": [a]})


def test_seeds_are_averaged_case_by_case_and_folds_put_together():
    seeds = [rows([0.4, 0.6, 0.8]), rows([0.6, 0.8, 1.0])]
    folds = [rows([0.5, 0.7, 0.9])[:1], rows([0.5, 0.7, 0.9])[1:]]
    first, second, *_ = compare_tests({"seeds": seeds, "folds": folds})
    assert (first.mean, first.tables, first.cases) == (pytest.approx(0.7), 2, 3)
    assert first.deviation == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert (second.mean, second.difference) == (pytest.approx(0.7), pytest.approx(0))
    assert np.isnan(second.deviation)
    with pytest.raises(DataError, match=r"seeds: some cases are in 1 of 2 tables, others in 2: c2 \(lesion\)"):
        compare_tests({"seeds": [seeds[0], seeds[1][:2]], "folds": folds})


def test_three_tests_are_compared_with_the_first():
    found = compare_tests({name: [rows([value, value])] for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.3))})
    dice = {row.test: row.difference for row in found if row.score == "dice"}
    assert np.isnan(dice["a"])
    assert (dice["b"], dice["c"]) == pytest.approx((0.1, -0.2))


def test_scores_of_unequal_numbers_of_samples_have_no_difference(caplog):
    """The biased GED falls with the number of samples, even if their distribution stays the same."""

    def of(*numbers):
        return [
            dataclasses.replace(row, ged_biased=1 / n, ged_16=0.5, num_samples=n)
            for row, n in zip(rows([0.5, 0.6]), numbers, strict=True)
        ]

    compared = {row.score: row for row in compare(of(4, 4), of(16, 16)) if row.test == "a"}
    assert "b: 16, a: 4" in caplog.text
    assert "no difference: GED (biased)" in caplog.text
    assert compared["ged_biased"].mean == 0.25
    assert np.isnan([compared["ged_biased"].difference, compared["ged_biased"].above]).all()
    assert (compared["dice"].difference, compared["ged_16"].difference) == (0, 0)
    mixed = {row.score: row for row in compare(of(4, 16), of(4, 16))}
    assert np.isnan(mixed["ged_biased"].difference)
    caplog.clear()
    assert {row.score: row for row in compare(of(4, 4), of(4, 4))}["ged_biased"].difference == 0
    compare(rows([0.5, 0.6]), of(4, 4), scores=["dice"])
    assert not caplog.text


def test_a_score_that_a_test_does_not_have_is_left_out_of_it():
    with_distance = [dataclasses.replace(row, hd95=2.0) for row in rows([0.5, 0.6])]
    found = [row for row in compare_tests({"a": [rows([0.5, 0.6])], "b": [with_distance]}) if row.score == "hd95"]
    assert [(row.test, row.mean) for row in found] == [("b", 2.0)]
    assert np.isnan(found[0].difference)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Two seeds of one model and one table of another."""
    monkeypatch.chdir(tmp_path)
    for name, dice in (("a.0", [0.5, 0.61]), ("a.1", [0.7, 0.81]), ("b_", [0.4, 0.51])):
        Path(name).mkdir()
        write_cases(rows(dice), Path(name, "cases.csv"))
    return tmp_path


def test_every_format_says_the_same_numbers(tables, capsys):
    texts = {}
    for form in ("table", "markdown", "latex", "csv", "json"):
        main(["compare", "first=a.*", "b_", "--scores", "dice", "--format", form])
        texts[form] = capsys.readouterr().out
    for form in ("table", "markdown", "latex"):
        assert all(number in texts[form] for number in ("0.6550", "-0.2000", "0.1414")), texts[form]
    assert r"b\_" in texts["latex"]
    [a, b] = json.loads(texts["json"])
    assert (a["test"], a["mean"], a["tables"], a["difference"]) == ("first", pytest.approx(0.655), 2, None)
    assert (b["mean"], b["difference"]) == (pytest.approx(0.455), pytest.approx(-0.2))
    [c, d] = csv.DictReader(texts["csv"].splitlines())
    assert (float(c["mean"]), c["difference"], float(d["difference"])) == (a["mean"], "", b["difference"])


def test_no_number_is_cut_in_a_narrow_terminal(tables, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    main(["compare", "a.0", "a.1", "b_", "--scores", "dice"])
    narrow = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "300")
    main(["compare", "a.0", "a.1", "b_", "--scores", "dice"])
    assert narrow == capsys.readouterr().out
    assert "…" not in narrow


def test_folders_that_hold_no_table(tables):
    Path("runs/version_0").mkdir(parents=True)
    write_cases(rows([0.5, 0.6]), Path("runs/version_0/cases.csv"))
    with pytest.raises(SystemExit, match=r"runs has no cases.csv.*There are tests in it: runs/version_0"):
        main(["compare", "runs", "b_"])
    with pytest.raises(
        SystemExit, match="There is no file, folder or zoo entry c\\.\\*, and no match for it as a pattern"
    ):
        main(["compare", "c.*", "b_"])
    with pytest.raises(SystemExit, match="Two tests are called b_"):
        main(["compare", "b_", "b_"])


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
        main(["compare", str(tmp_path / "x.csv"), f"other={tmp_path / 'x.csv'}"])


def test_differences_are_over_patients_where_a_table_says_them(tmp_path):
    """Three patients of ten cases each: the difference is that of one of them alone."""
    patients = np.arange(30) // 10
    first, second = rows(np.full(30, 0.5)), rows(0.5 + 0.3 * (patients == 0))
    [over_cases, *_] = compare(second, first)
    named = [dataclasses.replace(row, patient=f"p{patient}") for row, patient in zip(second, patients, strict=True)]
    [over_patients, *_] = compare(named, first)
    assert over_patients.difference == over_cases.difference == pytest.approx(0.1)
    assert over_cases.difference_low > 0
    assert (over_patients.difference_low, over_patients.difference_high) == pytest.approx((0, 0.3))
    write_cases(named, tmp_path / "cases.csv")
    assert [row.patient for row in read_cases(tmp_path / "cases.csv")] == [row.patient for row in named]


def test_a_zoo_entry_is_compared_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "medsegdiff-lite_synthetic.tiny"
    main(["compare", f"lite={name}", f"again={packaged_zoo() / name}", "--scores", "dice", "--format", "json"])
    first, second = json.loads(capsys.readouterr().out)
    assert (first["test"], second["test"], second["difference"]) == ("lite", "again", 0)
    assert second["mean"] == pytest.approx(
        np.mean([row.dice for row in read_cases(packaged_zoo() / name / "cases.csv")])
    )
