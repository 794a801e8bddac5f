"""A test as one HTML file, which needs nothing else to be read."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from diffmedseg.evaluation.figures import (
    Example,
    choose_examples,
    draw_dice_over_uncertainty,
    draw_examples,
    draw_reliability,
    draw_risk_coverage,
)
from diffmedseg.metrics.calibration import risk_coverage
from diffmedseg.metrics.scores import FAILED_BELOW, SCORES, CaseScore
from diffmedseg.wording import count

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-top: 1px solid #ddd;
padding-top: 1rem; } table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem .8rem .25rem 0;
border-bottom: 1px solid #eee; vertical-align: top; }
td.n, th + th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; } .row { display: flex;
flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 18rem; }
figcaption, .small { font-size: .88rem; color: #555; }
"""


def render_report(
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[CaseScore],
    examples: Mapping[str, Example],
    regions: Sequence[str],
) -> str:
    """Write the report.

    Args:
        title: What was tested on what.
        summary: Of :func:`~diffmedseg.evaluation.summary.summarise_test`.
        rows: Scores of all cases.
        examples: An image of each case.
        regions: Names of the regions.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for k, region in enumerate(regions):
        own = [row for row in rows if row.region == region]
        found = summary["regions"][region]
        if len(regions) > 1:
            parts.append(f"<h1>{html.escape(region.replace('_', ' '))}</h1>")
        parts += [_in_short(own, found, summary["policy"].get("contours")), _scores(found), _trust(own, found)]
        parts.append(_examples(own, examples, regions, k))
    parts.append(_policy(summary))
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        '<p class="small">Research software: not for diagnosis.</p>\n</body>\n</html>\n'
    )


def _in_short(rows: Sequence[CaseScore], found: Mapping[str, Any], contours: Mapping[str, Any] | None) -> str:
    scores, of_set = found["scores"], found["set"]
    dice = scores["dice"]
    lines = [
        f"Mean Dice <b>{dice['mean']:.3f}</b> (95 % interval {_interval(dice)}) over "
        f"{count(dice['cases'], 'case')}; {of_set['failure_rate']:.0%} of them fail (IoU below {FAILED_BELOW})."
    ]
    lines += [f"<b>The {html.escape(name)} is empty in every case.</b>" for name in of_set["empty_in_all_cases"]]
    if of_set["without_lesion"]:
        alarms = of_set["without_lesion"] - of_set["both_empty"]
        lines.append(
            f"{count(of_set['without_lesion'], 'case')} without a lesion: in {alarms} of them something is found, "
            "which counts as Dice 0, and nothing as 1."
        )
    if len(rows) >= 10:
        coverage, risk = risk_coverage([row.uncertainty for row in rows], [row.dice for row in rows])
        kept = int((coverage <= 0.8 + 1e-9).sum())
        lines.append(
            f"Without the fifth of cases of which the model is most doubtful, mean Dice is {1 - risk[kept - 1]:.3f}."
        )
    if of_set["ece_neighbourhood"] is not None:
        lines.append(
            f"Near lesions its probability is off by {of_set['ece_neighbourhood']:.1%} on average (over all pixels "
            f"{of_set['ece']:.1%})."
        )
    if contours and "inner_held" in scores:
        inner, outer, area = (f"{scores[name]['mean']:.0%}" for name in ("inner_held", "outer_held", "area_held"))
        lines.append(
            f"{contours['share']:.0%} of its inner contour was true in {inner} of cases, {contours['share']:.0%} of "
            f"the truth was in its outer contour in {outer}, and the true area in its interval in {area}; fitted on "
            f"{count(contours['cases'], 'case')} to hold in {contours['coverage']:.0%}."
        )
    return "<p>" + "<br>\n".join(lines) + "</p>"


def _interval(score: Mapping[str, Any]) -> str:
    return "unknown" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}"


def _scores(found: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"<tr><td>{html.escape(SCORES[name].title)}<br>"
        f'<span class="small">{html.escape(SCORES[name].explanation)}</span></td>'
        f'<td class="n">{one["mean"]:.3f}</td><td class="n">{_interval(one)}</td>'
        f'<td class="n">{one["cases"]}</td></tr>'
        for name, one in found["scores"].items()
    )
    return (
        '<h2>Scores</h2>\n<div class="wide"><table>\n<tr><th>score</th><th>mean</th><th>95 % interval</th>'
        f"<th>cases</th></tr>\n{lines}\n</table></div>"
    )


def _trust(rows: Sequence[CaseScore], found: Mapping[str, Any]) -> str:
    of_set = found["set"]
    correlation = of_set["rank_correlation_dice_uncertainty"]
    figures = [
        (
            draw_reliability(of_set["reliability"]),
            "Is its probability right? On the dashed line, of the pixels given 70 % seven in ten are foreground. Below "
            "it the model is too sure.",
        ),
        (
            draw_risk_coverage(rows),
            f"Does its doubt find its errors? The higher the line at the left, the better. Area under the risk: "
            f"{of_set['aurc']:.3f}.",
        ),
        (
            draw_dice_over_uncertainty(rows),
            "Each point is a case."
            + (f" Rank correlation {correlation:.2f}; -1 would be perfect." if correlation is not None else ""),
        ),
    ]
    shown = "\n".join(
        f"<figure>{_image(figure)}<figcaption>{caption}</figcaption></figure>" for figure, caption in figures
    )
    return f'<h2>Can it be trusted?</h2>\n<div class="row">{shown}</div>'


def _examples(rows: Sequence[CaseScore], examples: Mapping[str, Example], regions: Sequence[str], k: int) -> str:
    parts = ["<h2>Cases</h2>"]
    for name, group in choose_examples(rows).items():
        known = [row for row in group if row.case in examples]
        drawn = [(f"{row.case}\nDice {row.dice:.2f}", _only(examples[row.case], k)) for row in known]
        if drawn:
            figure = draw_examples(drawn, [regions[k]])
            parts.append(f"<h3>{name}</h3>\n{_image(figure, f'the {name} cases')}")
    return "\n".join(parts)


def _only(example: Example, k: int) -> Example:
    """Take one region."""
    maps = (getattr(example, name)[k : k + 1] for name in ("probability", "uncertainty", "mask"))
    return Example(example.image, example.raters[:, k : k + 1], *maps)


def _policy(summary: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{html.escape(_in_words(value))}</td></tr>"
        for name, value in summary["policy"].items()
    )
    return f'<h2>How scores were taken</h2>\n<div class="wide"><table class="small">\n{lines}\n</table></div>'


def _in_words(value: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    parts = [f"{name.replace('_', ' ')} {_in_words(one)}" for name, one in value.items() if name != "class"]
    return " ".join([*([value["class"]] if "class" in value else []), *([f"({', '.join(parts)})"] if parts else [])])


def _image(figure: Figure, alt: str = "") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
