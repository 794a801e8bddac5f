"""Tests on cases that a model was trained on are refused."""

import numpy as np
import pytest
from helpers.picture_files import lesion, photo, save, save_mask, yaml_module

from diffmedseg.configurable import to_config
from diffmedseg.data import SyntheticDataModule
from diffmedseg.errors import DataError
from diffmedseg.evaluation.held_out import check_held_out
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.metrics.table import CASES, write_cases


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        save(tmp_path / "own" / "images" / f"p{i}.png", photo(i))
        save_mask(tmp_path / "own" / "masks" / f"p{i}.png", np.asarray(lesion(i)))
    return tmp_path / "own"


def test_the_training_cases_of_another_fold_are_refused(folder):
    first, second = (yaml_module("folder", folder, folds=5, fold=fold) for fold in (0, 1))
    check_held_out(first, {"a": to_config(first)})
    told = r"b was trained on \d of the 2 test cases \(p\d.*\)\. Test it on its own split"
    with pytest.raises(DataError, match=told):
        check_held_out(first, {"a": to_config(first), "b": to_config(second)})


def test_other_settings_of_the_same_split_are_fine(folder, tmp_path):
    data = yaml_module("folder", folder, folds=5)
    check_held_out(data, {"a": to_config(yaml_module("folder", folder, folds=5, image_size=32, seed=3))})
    check_held_out(data, {"other": to_config(SyntheticDataModule())})
    moved = to_config(yaml_module("folder", tmp_path / "gone", folds=5, fold=1))
    with pytest.raises(DataError, match="moved was trained on"):
        check_held_out(data, {"moved": moved})
    (tmp_path / "elsewhere").mkdir()
    check_held_out(data, {"b": to_config(yaml_module("folder", tmp_path / "elsewhere", folds=5, fold=1))})


def test_a_split_that_changed_since_the_training_is_named(folder, tmp_path, caplog):
    """New cases change the split of all cases."""
    data = yaml_module("folder", folder, folds=5)
    config, old = to_config(data), data.split_cases("test")
    write_table(tmp_path / CASES, old)
    check_held_out(data, {"a": config}, tables={"a": tmp_path / CASES})
    for i in range(10, 20):
        save(folder / "images" / f"p{i}.png", photo(i))
        save_mask(folder / "masks" / f"p{i}.png", np.asarray(lesion(i)))
    larger = yaml_module("folder", folder, folds=5)
    write_table(tmp_path / "short.csv", sorted(larger.split_cases("test"))[:1])
    for table in ("short.csv", "missing.csv"):
        check_held_out(larger, {"a": config}, tables={"a": tmp_path / table})
    assert not caplog.text
    check_held_out(larger, {"a": config}, tables={"a": tmp_path / CASES})
    new = larger.split_cases("test") - old
    assert new
    assert f"a may have been trained on {len(new)} of the 4 test cases" in caplog.text


def write_table(path, cases):
    rows = [CaseScore(c, "lesion", 1, 1, both_empty=False, num_slices=1, num_samples=1, num_raters=1) for c in cases]
    write_cases(rows, path)
