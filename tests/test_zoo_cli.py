"""The commands of the zoo, and zoos that are not there."""

import math
import shutil
import sys

import pytest

from diffmedseg import list_pretrained, zoo
from diffmedseg.cli import main
from diffmedseg.zoo import Source, ZooError
from diffmedseg.zoo.registry import REGISTRY

NAMES = ("medsegdiff_synthetic.one", "medsegdiff_synthetic.two")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "zoo"
    for name in NAMES:
        zoo.export(finished_run, name, folder)
    return folder


@pytest.fixture
def own_zoo(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    return shutil.copytree(exported, tmp_path / "zoo")


def test_single_entries_can_be_verified(own_zoo, capsys):
    main(["zoo", "verify", NAMES[1]])
    printed = capsys.readouterr().out
    assert NAMES[1] in printed
    assert NAMES[0] not in printed
    with pytest.raises(SystemExit, match="1 of the entries"):
        main(["zoo", "verify", "nothing", NAMES[1]])
    assert "no entry 'nothing'" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "verify", "table"])
@pytest.mark.parametrize("place", ["nowhere", "owner/name", "zoo/registry.yaml"])
def test_a_zoo_that_is_not_there_is_an_error(own_zoo, tmp_path, monkeypatch, place, command):
    """It seemed to be verified."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFMEDSEG_ZOO", place)
    with pytest.raises(SystemExit, match=r"error: There is no .*registry\.yaml.*hf://"):
        main(["zoo", command])


def test_an_empty_setting_is_none(monkeypatch):
    shipped = list_pretrained()
    monkeypatch.setenv("DIFFMEDSEG_ZOO", "")
    assert list_pretrained() == shipped


def test_a_training_that_fails_says_so_once(own_zoo, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(SystemExit, match=f"the training of {NAMES[0]} failed"):
        main(["zoo", "reproduce", NAMES[0]])


def test_a_score_of_one_case_is_held_against_nothing(own_zoo, tmp_path, monkeypatch, capsys):
    """Its interval is not known, and its run not wrong."""
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    monkeypatch.setattr("diffmedseg.runs.newest_run", lambda folder: own_zoo / NAMES[0])
    monkeypatch.setattr("diffmedseg.zoo.checking.agrees", lambda entry, rows: (0.8, [0.9, math.nan, math.nan], False))
    main(["zoo", "reproduce", NAMES[0]])
    assert "Dice 0.8000; the entry states 0.9000 for one case" in capsys.readouterr().out


def test_a_card_from_afar_takes_no_weights(own_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    source = Source(f"file://{own_zoo}")
    assert f"# {NAMES[0]}" in source.card(NAMES[0])
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [REGISTRY]
    with pytest.raises(ZooError, match="no entry 'nothing'"):
        source.card("nothing")


def test_a_registry_from_afar_is_named_by_its_address(own_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    (own_zoo / REGISTRY).write_text("version: 99\nentries: {}\n")
    with pytest.raises(ZooError, match=rf"^file://{own_zoo}/{REGISTRY} has version 99"):
        Source(f"file://{own_zoo}").entries()
