import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers.tiny_run import tiny_data, tiny_model, tiny_trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg

from diffmedseg import __version__
from diffmedseg.callbacks import CaseMetrics, TestReport
from diffmedseg.evaluation.figures import Example, choose_examples, draw_reliability
from diffmedseg.evaluation.provenance import command_line, read_curves
from diffmedseg.evaluation.report import render_report
from diffmedseg.evaluation.summary import summarise_test
from diffmedseg.metrics.cases import score_cases, summarise
from diffmedseg.metrics.images import pool, score_image
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.run_log import RUN_LOG, RunLogger

pytestmark = pytest.mark.pictures


class Balanced(HTMLParser):
    """Fails on tags that are not closed in their order; notes what would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parsed(text):
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return parser, " ".join(" ".join(parser.words).split())


def report(count, regions=("lesion",), raters=1):
    generator = torch.Generator().manual_seed(0)
    images, examples = [], {}
    for number in range(count):
        reference = torch.rand(raters, len(regions), 16, 16, generator=generator).round().to(torch.uint8)
        samples = (reference[0] + torch.rand(3, len(regions), 16, 16, generator=generator)) / 2
        mean = samples.mean(0)
        images.append(score_image(f"<c{number}>", mean, samples, reference, 0.5, 0.1))
        examples[f"<c{number}>"] = Example(torch.zeros(3, 16, 16), reference, mean, mean / 2, mean > 0.5)
    pooled = pool(images)
    rows = score_cases(pooled.values(), regions)
    return render_report("a <title>", summarise_test(pooled, rows, summarise(rows), 0.5), rows, examples, regions), rows


@pytest.mark.parametrize(
    ("count", "regions", "raters"), [(12, ("lesion",), 1), (1, ("lesion",), 3), (4, ("outer", "inner"), 2)]
)
def test_one_file_that_needs_nothing_else(count, regions, raters):
    text, rows = report(count, regions, raters)
    parser, words = parsed(text)
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert "a <title>" in words
    assert "<title>a &lt;title&gt;</title>" in text
    mean = sum(row.dice for row in rows if row.region == regions[0]) / count
    assert f"Mean Dice {mean:.3f}" in words
    assert ("GED (unbiased)" in words) == (raters > 1)
    assert "not for diagnosis" in words
    assert ("with the highest uncertainty" in words) == (count >= 10)


def test_reliability_shows_both_places_where_they_agree():
    bins = [{"probability": p / 10, "frequency": p / 12} for p in range(11)]
    figure = draw_reliability({"whole": bins, "neighbourhood": bins})
    figure.axes[0].get_legend().remove()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    red, _, blue, _ = np.moveaxis(np.asarray(canvas.buffer_rgba()).astype(int), -1, 0)
    assert min(int((red - blue > 60).sum()), int((blue - red > 60).sum())) > 500  # orange and blue


def rows(dice):
    return [CaseScore(f"c{i}", "a", d, d, False, 1, 1, 1) for i, d in enumerate(dice)]


@pytest.mark.parametrize("count", range(1, 12))
def test_cases_are_shown_once(count):
    groups = choose_examples(rows([i / 20 for i in range(count)]))
    shown = [row.case for group in groups.values() for row in group]
    assert len(shown) == len(set(shown)) == min(count, 9) - (count % 3 if count < 9 else 0) or count < 3
    assert groups["worst"][0].case == "c0"
    if count > 1:
        assert groups["best"][0].case == f"c{count - 1}"


def test_a_test_writes_it(tmp_path):
    trainer = tiny_trainer(tmp_path, callbacks=[CaseMetrics(), TestReport()])
    trainer.test(tiny_model(), tiny_data(num_test=5), verbose=False)
    text = next(tmp_path.rglob("report.html")).read_text()
    _, words = parsed(text)
    assert "MedSegDiff (Wu et al. 2022) on Synthetic lesions" in words
    assert len(re.findall("<h3>", text)) == 3
    assert not list(tmp_path.rglob(".tmp*"))


def test_it_needs_what_is_scored(tmp_path):
    with pytest.raises(ValueError, match="TestReport shows the scores of CaseMetrics"):
        tiny_trainer(tmp_path, callbacks=[TestReport(), CaseMetrics()]).test(tiny_model(), tiny_data(), verbose=False)


def test_it_says_where_the_scores_come_from(tmp_path, monkeypatch):
    """Trained and tested in one go, as the command does: steps, curves and the command line."""
    monkeypatch.setattr("sys.argv", ["/env/bin/diffmedseg", "train", "a <b>", "--data.root", "two words"])
    trainer = tiny_trainer(
        tmp_path, max_steps=2, log_every_n_steps=1, logger=RunLogger(tmp_path), callbacks=[CaseMetrics(), TestReport()]
    )
    model, data = tiny_model(), tiny_data(num_test=2, num_val=2)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    text = (tmp_path / "report.html").read_text()
    _, words = parsed(text)
    assert "diffmedseg train 'a <b>' --data.root 'two words'" in words
    assert f"diffmedseg {__version__}" in words
    assert "Trained 2 steps" in words
    assert re.search(r"Tested 2\d\d\d-\d\d-\d\d \d\d:\d\d", words)
    assert "Training losses." in words
    assert "Validation scores." in words
    assert len(dict(read_curves(tmp_path / RUN_LOG)["train/loss"])) == 2


def test_a_checkpoint_brings_its_steps_and_the_curves_of_its_run(tmp_path):
    trained = tmp_path / "version_0"
    trainer = tiny_trainer(trained, max_steps=1, log_every_n_steps=1, logger=RunLogger(trained))
    model, data = tiny_model(), tiny_data(num_test=2, num_val=2)
    trainer.fit(model, data)
    trainer.save_checkpoint(trained / "checkpoints" / "best.ckpt")
    tester = tiny_trainer(tmp_path / "test_0", callbacks=[CaseMetrics(), TestReport()])
    tester.test(tiny_model(), data, ckpt_path=trained / "checkpoints" / "best.ckpt", weights_only=True, verbose=False)
    _, words = parsed(next((tmp_path / "test_0").rglob("report.html")).read_text())
    assert "Trained 1 step" in words
    assert "Training losses." in words


def test_weights_without_a_run_have_no_curves(tmp_path):
    tiny_trainer(tmp_path, callbacks=[CaseMetrics(), TestReport()]).test(
        tiny_model(), tiny_data(num_test=1), verbose=False
    )
    _, words = parsed(next(tmp_path.rglob("report.html")).read_text())
    assert "Trained" not in words
    assert "losses" not in words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/env/bin/diffmedseg", "train"], "diffmedseg train"),
        (["/site-packages/diffmedseg/__main__.py", "evaluate", "r"], "diffmedseg evaluate r"),
        (["/home/me/study.py", "--fold", "1"], "python study.py --fold 1"),
        ([""], ""),
        ([], ""),
    ],
)
def test_the_command_is_what_a_user_types(arguments, said):
    assert command_line(arguments) == said


def test_regions_are_shown_side_by_side():
    text, rows = report(3, ("whole_tumour", "core"))
    _, words = parsed(text)
    overview = words[words.index("Regions") : words.index("Mean Dice")]
    for region in ("whole_tumour", "core"):
        mean = sum(row.dice for row in rows if row.region == region) / 3
        assert f"{region.replace('_', ' ')} {mean:.3f}" in overview
    assert "Regions" not in parsed(report(3)[0])[1]
