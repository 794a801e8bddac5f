"""The precision of a run on a CPU without instructions for bfloat16."""

import logging

import pytest

from diffmedseg.cli import precision
from diffmedseg.recipes import recipe


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without"])
def supported(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: request.param)
    return request.param


def test_a_presets_bfloat16_gives_way_where_it_is_slow(supported, tmp_path):
    """The stored configuration says what was used: whoever tests or calibrates the run reads it there."""
    settings = [f"--runs={tmp_path}", "--trainer.accelerator=cpu", "--logger=null"]
    _, _, trainer = recipe("medsegdiff-lite", "synthetic", preset="cpu", settings=settings).build()
    assert trainer.precision == ("bf16-mixed" if supported else "32-true")


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_a_precision_that_the_user_gave_is_kept(supported, accelerator, caplog):
    with caplog.at_level(logging.WARNING):
        found = precision.fitting_precision("bf16-mixed", accelerator, ["--trainer.precision=bf16-mixed"])
    assert found == "bf16-mixed"
    assert ("32-true is faster" in caplog.text) == (accelerator == "cpu" and not supported)


def test_only_bfloat16_on_a_cpu_is_changed(supported):
    for given, accelerator in (("32-true", "cpu"), ("16-mixed", "cpu"), ("bf16-mixed", "cuda")):
        assert precision.fitting_precision(given, accelerator, []) == given
