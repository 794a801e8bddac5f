"""The report of a test as one self-contained HTML file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from diffmedseg.evaluation.figures import (
    Example,
    choose_examples,
    draw_curves,
    draw_dice_over_uncertainty,
    draw_examples,
    draw_reliability,
    draw_risk_coverage,
)
from diffmedseg.evaluation.provenance import Provenance
from diffmedseg.evaluation.summary import PSEUDO
from diffmedseg.metrics.calibration import risk_coverage
from diffmedseg.metrics.scores import FAILED_BELOW, SCORES, CaseScore
from diffmedseg.wording import count

_STYLE = """
:root { color-scheme: light dark; --text: #222; --soft: #555; --line: #ddd; --page: #fff; --code: #f3f3f3; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --soft: #b0b0b0; --line: #444; --page: #181818; --code: #262626; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.2rem; padding-top: 1rem;
border-top: 1px solid var(--line); } table { border-collapse: collapse; } th, td { text-align: left;
padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr.score td { border: 0; padding-bottom: 0; }
td.n, table.scores th + th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
width: 1%; }
code { background: var(--code); padding: .1rem .3rem; border-radius: 4px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .wide img { min-width: 40rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 18rem; max-width: 30rem; }
figcaption, .small { font-size: .88rem; color: var(--soft); }
@media (max-width: 30rem) { body { padding: .7rem; } th, td { padding-right: .5rem; } }
"""
#: Scores in the overview of regions, if the test has them.
_OVERVIEW = ("dice", "iou", "sensitivity", "precision", "hd95", "hd95_pixels", "nsd", "nsd_pixels", "ged_unbiased")


def render_report(
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[CaseScore],
    examples: Mapping[str, Example],
    regions: Sequence[str],
    provenance: Provenance | None = None,
) -> str:
    """Write the report.

    Args:
        title: Title, such as the model and the data set.
        summary: Result of :func:`~diffmedseg.evaluation.summary.summarise_test`.
        rows: Scores of all cases.
        examples: An image of each case.
        regions: Names of the regions.
        provenance: Provenance of the scores; None if it is not known.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if provenance is not None:
        parts.append(_provenance(provenance))
    if origin := summary["policy"].get(PSEUDO):
        parts.append(
            "<p><b>These scores compare with pseudo masks, not with true masks.</b> "
            f"Their origin: {html.escape(origin)}.</p>"
        )
    if len(regions) > 1:
        parts.append(_overview(summary["regions"]))
    for k, region in enumerate(regions):
        region_rows = [row for row in rows if row.region == region]
        region_summary = summary["regions"][region]
        if len(regions) > 1:
            parts.append(f"<h1>{_words(region)}</h1>")
        parts.append(_in_short(region_rows, region_summary, summary["policy"].get("contours")))
        parts += [_scores(region_summary), _trust(region_rows, region_summary)]
        parts.append(_examples(region_rows, examples, regions, k))
    if provenance is not None and provenance.curves:
        parts.append(_training(provenance))
    parts.append(_policy(summary))
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        '<p class="small">Research software: not for diagnosis.</p>\n</body>\n</html>\n'
    )


def _words(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _provenance(provenance: Provenance) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    lines = {
        "Tested": html.escape(provenance.date),
        "Command": f"<code>{html.escape(provenance.command)}</code>" if provenance.command else "",
        "Versions": html.escape(versions),
        "Trained": "" if provenance.steps is None else count(provenance.steps, "step"),
    }
    rows = "\n".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in lines.items() if text)
    return f'<table class="small">\n{rows}\n</table>'


def _overview(summaries: Mapping[str, Any]) -> str:
    """Return the scores of all regions side by side."""
    names = [
        name for name in _OVERVIEW if any(name in region_summary["scores"] for region_summary in summaries.values())
    ]
    head = "".join(f"<th>{html.escape(SCORES[name].title)}</th>" for name in names)
    lines = []
    for region, region_summary in summaries.items():
        means = [
            f"{region_summary['scores'][name]['mean']:.3f}" if name in region_summary["scores"] else "none"
            for name in names
        ]
        cells = "".join(f'<td class="n">{mean}</td>' for mean in means)
        failed = f'<td class="n">{region_summary["set"]["failure_rate"]:.0%}</td>'
        lines.append(f"<tr><td>{_words(region)}</td>{cells}{failed}</tr>")
    body = "\n".join(lines)
    return (
        '<h2>Regions</h2>\n<div class="wide"><table class="scores">\n'
        f"<tr><th>mean over cases</th>{head}<th>IoU below {FAILED_BELOW}</th></tr>\n{body}\n</table></div>"
    )


def _training(provenance: Provenance) -> str:
    """Return the curves of training: losses and validation scores."""
    kinds = {"train/": "Training losses.", "val/": "Validation scores."}
    parts = []
    for prefix, caption in kinds.items():
        curves = {name: curve for name, curve in provenance.curves.items() if name.startswith(prefix)}
        if curves:
            image = _image(draw_curves(curves, provenance.steps), caption)
            parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    figures = "\n".join(parts)
    return f'<h2>Training</h2>\n<div class="row">{figures}</div>'


def _in_short(rows: Sequence[CaseScore], region_summary: Mapping[str, Any], contours: Mapping[str, Any] | None) -> str:
    scores, of_set = region_summary["scores"], region_summary["set"]
    dice = scores["dice"]
    lines = [
        f"Mean Dice <b>{dice['mean']:.3f}</b> (95 % interval {_interval(dice)}) over "
        f"{count(dice['cases'], 'case')}; {of_set['failure_rate']:.0%} of them fail (IoU below {FAILED_BELOW})."
    ]
    lines += [f"<b>The {html.escape(name)} is empty in every case.</b>" for name in of_set["empty_in_all_cases"]]
    if of_set["without_lesion"]:
        alarms = of_set["without_lesion"] - of_set["both_empty"]
        lines.append(
            f"{count(of_set['without_lesion'], 'case')} without a lesion: in {alarms} of them the mask is not empty "
            "(Dice 0); an empty mask has Dice 1."
        )
    if len(rows) >= 10:
        coverage, risk = risk_coverage([row.uncertainty for row in rows], [row.dice for row in rows])
        kept = int((coverage <= 0.8 + 1e-9).sum())
        lines.append(f"Without the 20 % of cases with the highest uncertainty, mean Dice is {1 - risk[kept - 1]:.3f}.")
    if of_set["ece_neighbourhood"] is not None:
        lines.append(
            f"The calibration error of the probability is {of_set['ece_neighbourhood']:.1%} near lesions and "
            f"{of_set['ece']:.1%} over all pixels."
        )
    if contours and "inner_held" in scores:
        inner, outer, area = (f"{scores[name]['mean']:.0%}" for name in ("inner_held", "outer_held", "area_held"))
        lines.append(
            f"{contours['share']:.0%} of the inner contour was true in {inner} of cases, {contours['share']:.0%} of "
            f"the truth was in the outer contour in {outer}, and the true area was in its interval in {area}. The fit "
            f"on {count(contours['cases'], 'case')} aims at {contours['coverage']:.0%}."
        )
    return "<p>" + "<br>\n".join(lines) + "</p>"


def _interval(score: Mapping[str, Any]) -> str:
    return "unknown" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}"


def _scores(region_summary: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f'<tr class="score"><td>{html.escape(SCORES[name].title)}</td><td class="n">{score["mean"]:.3f}</td>'
        f'<td class="n">{_interval(score)}</td><td class="n">{score["cases"]}</td></tr>\n'
        f'<tr><td colspan="4" class="small">{html.escape(SCORES[name].explanation)}</td></tr>'
        for name, score in region_summary["scores"].items()
    )
    return (
        '<h2>Scores</h2>\n<div class="wide"><table class="scores">\n<tr><th>score</th><th>mean</th>'
        f"<th>95 % interval</th><th>cases</th></tr>\n{lines}\n</table></div>"
    )


def _trust(rows: Sequence[CaseScore], region_summary: Mapping[str, Any]) -> str:
    of_set = region_summary["set"]
    correlation = of_set["rank_correlation_dice_uncertainty"]
    figures = [
        (
            draw_reliability(of_set["reliability"]),
            "Is the probability right? On the dashed line, seven in ten pixels with 70 % are foreground. Below the "
            "line the model is overconfident.",
        ),
        (
            draw_risk_coverage(rows),
            f"Does uncertainty predict errors? The higher the line at the left, the better. Area under the risk "
            f"curve: {of_set['aurc']:.3f}.",
        ),
        (
            draw_dice_over_uncertainty(rows),
            "Each point is a case."
            + (f" Rank correlation {correlation:.2f}; -1 would be perfect." if correlation is not None else ""),
        ),
    ]
    figure_parts = "\n".join(
        f"<figure>{_image(figure)}<figcaption>{caption}</figcaption></figure>" for figure, caption in figures
    )
    return f'<h2>Can the model be trusted?</h2>\n<div class="row">{figure_parts}</div>'


def _examples(rows: Sequence[CaseScore], examples: Mapping[str, Example], regions: Sequence[str], k: int) -> str:
    parts = ["<h2>Cases</h2>"]
    for name, group in choose_examples(rows).items():
        known = [row for row in group if row.case in examples]
        titled_examples = [(f"{row.case}\nDice {row.dice:.2f}", _select_region(examples[row.case], k)) for row in known]
        if titled_examples:
            figure = draw_examples(titled_examples, [regions[k]])
            image = _image(figure, f"the {name} cases")
            parts.append(f'<h3>{name}</h3>\n<div class="wide">{image}</div>')
    return "\n".join(parts)


def _select_region(example: Example, k: int) -> Example:
    """Return one region of an example."""
    maps = (getattr(example, name)[k : k + 1] for name in ("probability", "uncertainty", "mask"))
    return Example(example.image, example.raters[:, k : k + 1], *maps)


def _policy(summary: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{html.escape(_in_words(value))}</td></tr>"
        for name, value in summary["policy"].items()
    )
    return f'<h2>How scores were computed</h2>\n<div class="wide"><table class="small">\n{lines}\n</table></div>'


def _in_words(value: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    parts = [f"{name.replace('_', ' ')} {_in_words(item)}" for name, item in value.items() if name != "class"]
    return " ".join([*([value["class"]] if "class" in value else []), *([f"({', '.join(parts)})"] if parts else [])])


def _image(figure: Figure, alt: str = "") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
