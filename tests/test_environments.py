"""Consoles that are not UTF-8, and users without a home folder."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.files import cache_folder, expand_home

NAME = "\u691c\u67fb Pr\u00fcfung"


@pytest.fixture
def folder(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for number in range(3):
            values = np.random.default_rng(number).integers(0, 2, (16, 16), dtype=np.uint8) * 255
            Image.fromarray(values).save(tmp_path / "data" / part / f"{NAME}{number}.png")
    Image.fromarray(values).save(tmp_path / "data" / "images" / f"{NAME} alone.png")
    return tmp_path / "data"


def run(monkeypatch, encoding, *args):
    """Return what a command prints to a console of an encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    try:
        main([str(arg) for arg in args])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    for stream in streams:
        stream.flush()
    monkeypatch.undo()
    return [stream.buffer.getvalue().decode(encoding) for stream in streams]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_names_that_a_console_cannot_print_are_escaped(encoding, folder, monkeypatch):
    shown = NAME.encode(encoding, "backslashreplace").decode(encoding)
    checked = "data", "check", "folder", folder, "--set", "folds=3"
    assert f"{shown} alone" in run(monkeypatch, encoding, *checked)[0]
    report = json.loads(run(monkeypatch, encoding, *checked, "--json")[0])
    assert report["problems"][0]["names"] == [f"{NAME} alone"]
    scored = "score", folder / "images", folder / "masks"
    assert shown in run(monkeypatch, encoding, *scored)[0].replace("\n", " ")
    assert f"{NAME}0" in json.loads(run(monkeypatch, encoding, *scored, "--json")[0])["cases"]
    assert f"{shown} alone" in run(monkeypatch, encoding, "score", folder / "masks", folder / "images")[1]


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_cache_needs_no_home(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for unset in (lambda: monkeypatch.setenv("DIFFMEDSEG_CACHE", ""), lambda: monkeypatch.delenv("DIFFMEDSEG_CACHE")):
        unset()
        with pytest.raises(DataError, match=r"no home folder\. Set DIFFMEDSEG_CACHE"):
            cache_folder()


def test_a_home_that_is_not_there(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"begins with ~, and there is no such home folder\. Write the whole path"):
        expand_home("~nobody-of-this-name/data")
    assert expand_home(str(tmp_path)) == tmp_path
