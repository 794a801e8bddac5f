import itertools
from pathlib import Path

import pytest
import yaml

from diffmedseg.data.mri import Case
from diffmedseg.data.splits import draw_splits, read_splits, write_splits
from diffmedseg.errors import DataError


def cases(patients=20, visits=2):
    return [
        Case(f"p{p:02d}-{v}", f"p{p:02d}", (Path("i"),), (Path("s"),)) for p in range(patients) for v in range(visits)
    ]


def draw(fold=0, folds=5, val_fraction=0.25, seed=0, of=None):
    return draw_splits(cases() if of is None else of, folds, fold, val_fraction, seed)


def test_every_patient_is_tested_once_and_never_split():
    tested = []
    for fold in range(5):
        splits = draw(fold)
        assert sorted(itertools.chain(*splits.values())) == sorted(case.id for case in cases())
        patients = {name: {case[:3] for case in ids} for name, ids in splits.items()}
        assert {name: len(found) for name, found in patients.items()} == {"train": 12, "val": 4, "test": 4}
        tested += splits["test"]
    assert sorted(tested) == sorted(case.id for case in cases())


def test_splits_depend_on_the_seed_and_the_patients_alone():
    assert draw() == draw(of=cases()) != draw(seed=1)
    shuffled = {name: set(ids) for name, ids in draw(of=cases()[::-1]).items()}
    assert shuffled == {name: set(ids) for name, ids in draw().items()}


def test_few_patients_are_all_trained_on():
    splits = draw(folds=4, val_fraction=0.1, of=cases(4, 1))
    assert splits["val"] == splits["train"]
    assert len(splits["train"]) == 3


def test_fewer_patients_than_folds():
    with pytest.raises(DataError, match=r"4 patients .* 5 folds. Set folds to 4 .*--data\.folds 4.*--set folds=4"):
        draw(of=cases(4))
    with pytest.raises(DataError, match=r"1 patient .* At least one patient to train on and one to test"):
        draw(of=cases(1))


def test_a_file_of_splits(tmp_path):
    path = tmp_path / "new" / "splits.yaml"
    write_splits(path, draw(), {"folds": 5, "fold": 0})
    assert read_splits(path, cases(), {"folds": 5, "fold": 0}) == draw()
    with pytest.raises(DataError, match=r"was drawn with .*'fold': 0.*; the present settings are .*'fold': 1"):
        read_splits(path, cases(), {"folds": 5, "fold": 1})
    by_hand = yaml.safe_dump({name: ids for name, ids in draw().items()})
    path.write_text(by_hand)
    assert read_splits(path, cases(), {"folds": 5, "fold": 1}) == draw()
    assert [file.name for file in path.parent.iterdir()] == ["splits.yaml"]
    assert len(yaml.safe_load(path.read_text())["test"]) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [("train: [p00-0]", "is damaged"), ("- a", "is damaged"), (": :", "is damaged"),
     ("train: 005\nval: []\ntest: [p00-0]", "is damaged"), ("train: [{a: b}]\nval: []\ntest: [p]", "is damaged"),
     ("train: [p00-0]\nval: []\ntest: [p99-0]", "names 1 missing case: p99-0"),
     ("train: [p00-0]\nval: []\ntest: [p00-1]", "has 1 patient both in the test set and in training"),
     ("train: [p00-0]\nval: []\ntest: []", "has no case under test")],
)  # fmt: skip
def test_wrong_files_of_splits(text, message, tmp_path):
    (tmp_path / "splits.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path / "splits.yaml", cases(), {})


def test_cases_that_no_split_names_are_left_out_aloud(tmp_path, caplog):
    write_splits(tmp_path / "splits.yaml", draw(of=cases(10)), {})
    read_splits(tmp_path / "splits.yaml", cases(), {})
    assert "20 cases are in no split" in caplog.text


IDS = [
    *("005", "010", "1e3", "0x1F", "1_000", "yes", "null", "~", "2024-01-01", "2024-13-45", "1:30", ".5", "-3", "true"),
    *("=", "a: b", "#x", "Pr\u00fcfung", "\u691c\u67fb", "a b", "{x}", "'q'", '"d"', "[1]", "*a", "&a", "!x", "%x"),
]


def of(ids):
    return [Case(name, name, (Path("i"),), (Path("s"),)) for name in ids]


def test_ids_are_text(tmp_path):
    splits = {"train": IDS[2:], "val": IDS[1:2], "test": IDS[:1]}
    path = tmp_path / "splits.yaml"
    write_splits(path, splits, {"val_fraction": 1e-05, "split_seed": 0, "split_by": "010"})
    assert read_splits(path, of(IDS), {"val_fraction": 1e-05, "split_seed": 0, "split_by": "010"}) == splits
    assert "Pr\u00fcfung" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", IDS[:14])
def test_ids_written_by_hand_are_text(name, tmp_path):
    (tmp_path / "splits.yaml").write_text(f"train: [a, {name}]\nval:\n- {name}\ntest: [b]\n")
    found = read_splits(tmp_path / "splits.yaml", of(["a", "b", name]), {"folds": 3})
    assert found == {"train": ["a", name], "val": [name], "test": ["b"]}


def test_ids_whose_accents_are_stored_apart(tmp_path):
    (tmp_path / "splits.yaml").write_text("train: [Pru\u0308fung]\nval: []\ntest: [b]\n", encoding="utf-8")
    assert read_splits(tmp_path / "splits.yaml", of(["Pr\u00fcfung", "b"]), {})["train"] == ["Pr\u00fcfung"]
