"""``diffmedseg score`` and ``calibrate``: mask folders, and a run's probabilities."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffmedseg.cli.parsing import Parser, add_trust, add_tta, report_errors
from diffmedseg.wording import count

if TYPE_CHECKING:
    from diffmedseg.evaluation.mask_folders import Pairs, Scored
    from diffmedseg.evaluation.protocols import Protocol

_DISTANCES = ("hd95", "nsd", "hd95_pixels", "nsd_pixels")
_OVERLAP = ("dice", "iou", "thresholded_jaccard", "sensitivity", "precision", *_DISTANCES)
#: Fewer validation cases do not tell how often a probability is right; a round number, not a measured one.
_FEW_CASES = 20
#: Of the protocols of others; their module loads torch.
_PROTOCOLS = ("brats", "medsegdiff", "pooled")
_POLICIES = ("aggregation", "interval", "both_empty", "one_empty", "thresholded_jaccard", "surfaces")


def score(args: list[str]) -> None:
    """Run ``diffmedseg score``."""
    parser = Parser(
        "diffmedseg score",
        "Score a folder of masks against a folder of true ones, whatever wrote them: pictures or volumes, "
        "paired by name without endings such as _segmentation, _prediction or _mask; foreground is above half of the "
        "range.",
    )
    parser.add_argument("predictions", type=Path, help="Folder of masks.")
    parser.add_argument("truths", type=Path, help="Folder of true masks.")
    parser.add_argument("--json", action="store_true", help="Print JSON: means, cases and policy.")
    parser.add_argument("--out", type=Path, metavar="CSV", help="Write the scores of every case.")
    parser.add_argument("--common", action="store_true", help="Leave out true masks that have no prediction.")
    parser.add_argument(
        "--spacing", type=float, nargs=2, metavar=("ROW", "COLUMN"),
        help="Size of a pixel in mm, for distances between the surfaces of masks in pictures; else they are in pixels; "
        "volumes say theirs.",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=_PROTOCOLS, action="append", default=[],
        help="Add a column with the scores of another protocol, for comparisons: medsegdiff is that of MedSegDiff's "
        "released code, pooled takes the pixels of all cases together, brats scores the lesions of volumes one by one, "
        "as BraTS 2023 does. Can be repeated.",
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="SCHEME",
        help="Files are label maps: score each region. SCHEME is brats (1, 2, 4), brats2023 (1, 2, 3), or "
        "REGION=VALUE+VALUE,... with all values of each region.",
    )  # fmt: skip
    options = parser.parse_args(args)
    from diffmedseg.evaluation.mask_folders import pair_masks, score_pairs
    from diffmedseg.evaluation.protocols import PROTOCOLS
    from diffmedseg.metrics.table import write_cases

    with report_errors():
        kind = "mask" if options.labels is None else "labels"
        pairs = pair_masks(options.predictions, options.truths, options.common, kind)
        regions = [
            _Region(one, score_pairs(one, options.spacing), {name: PROTOCOLS[name](one) for name in options.protocol})
            for one in pairs.regions(options.labels)
        ]
        if options.out:
            write_cases([row for region in regions for row in region.scored.rows], options.out)
    if not options.json:
        _print_scores(regions)
        return
    found = {region.pairs.region: _as_json(region) for region in regions}
    print(json.dumps({"regions": found} if options.labels else found[pairs.region], indent=1))


class _Region(NamedTuple):
    """What is said of one region, which of masks is all there is."""

    pairs: "Pairs"
    scored: "Scored"
    protocols: "Mapping[str, Protocol]"


def _as_json(region: _Region) -> dict[str, Any]:
    from diffmedseg.evaluation.summary import POLICY, plain
    from diffmedseg.metrics.cases import summarise

    pairs, scored, protocols = region
    rows = scored.rows
    means = {
        s.score: {"mean": s.mean, "low": s.low, "high": s.high, "cases": s.cases}
        for s in summarise(rows)
        if s.score in _OVERLAP
    }
    cases = {row.case: {name: getattr(row, name) for name in (*_OVERLAP, "both_empty")} for row in rows}
    policy = {name: POLICY[name] for name in _POLICIES}
    labels = pairs.labels and f"labels {', '.join(map(str, pairs.labels.wanted))}"
    policy |= {"foreground": labels or "above half of the range of the folder's masks"}
    left_out = {"true_masks_without_prediction": pairs.missing, "predictions_without_true_mask": pairs.extra}
    faded = [str(path) for path in scored.faded]
    found = {"cases": cases, "left_out": left_out, "empty_after_thresholding": faded, "policy": policy}
    if protocols:
        found["protocols"] = {name: asdict(protocol) for name, protocol in protocols.items()}
    summary: dict[str, Any] = plain(means | found)
    return summary


def _print_scores(regions: Sequence[_Region]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from diffmedseg.metrics.cases import summarise
    from diffmedseg.metrics.scores import TITLES

    pairs, _, protocols = regions[0]
    several = [] if pairs.labels is None else ["Region"]
    table = Table(caption=escape(_caption(regions)), caption_justify="left")
    for name in (*several, "Score", "Mean", "95 % interval", *(f"Protocol {name}" for name in protocols)):
        table.add_column(name, justify="left" if name in {"Region", "Score"} else "right")
    for region in regions:
        for s in summarise(region.scored.rows):
            if s.score in _OVERLAP:
                interval = f"{s.low:.4f} to {s.high:.4f}" if s.cases > 1 else ""
                theirs = [getattr(protocol, s.score, None) for protocol in region.protocols.values()]
                cells = ["" if value is None else f"{value:.4f}" for value in theirs]
                table.add_row(*([s.region] if several else []), TITLES[s.score], f"{s.mean:.4f}", interval, *cells)
    Console().print(table)


def _caption(regions: Sequence[_Region]) -> str:
    from diffmedseg.wording import first_names

    pairs, scored, protocols = regions[0]
    caption = f"mean over {count(len(scored.rows), 'case')}"
    for region in regions:
        empty = sum(row.both_empty for row in region.scored.rows)
        where = "" if pairs.labels is None else f" of {region.pairs.region}"
        caption += f"; {count(empty, 'empty mask')}{where} predicted empty, which counts 1" if empty else ""
    for names, what in (
        (pairs.missing, "true masks without prediction"),
        (pairs.extra, "predictions without true mask"),
    ):
        caption += f"; left out: {len(names)} {what} ({first_names(names)})" if names else ""
    if scored.faded:
        caption += f"; {count(len(scored.faded), 'mask')} with values that are all below half of the range, "
        caption += f"taken for empty ({first_names(list(map(str, scored.faded)))})"
    return caption + "".join(f"; protocol {name}: {protocol.policy}" for name, protocol in protocols.items())


def calibrate(args: list[str]) -> None:
    """Run ``diffmedseg calibrate``."""
    parser = Parser(
        "diffmedseg calibrate",
        "Fit a run's probabilities to its validation cases, contours and areas that hold the truth as often as they "
        "say, and a warning of images that look unlike these cases. "
        "Writes checkpoints/calibrated.ckpt, calibration.yaml, which `test -c` takes after "
        "config.yaml, and calibration.json.",
    )
    parser.add_argument("run", type=Path, help="The run's folder.")
    parser.add_argument("--method", choices=("isotonic", "temperature"), default="isotonic", help="Default: isotonic.")
    parser.add_argument("--share", type=float, default=0.95, help="Of a contour's pixels that have to be right.")
    parser.add_argument("--coverage", type=float, default=0.9, help="How often contours and areas have to hold.")
    parser.add_argument(
        "--nothing", type=float, help="For DiffSeg: in which share of healthy images a lesion may be found, as 0.05."
    )
    add_tta(parser)
    add_trust(parser)
    options = parser.parse_args(args)
    if options.nothing is not None and not 0 < options.nothing < 1:
        parser.error(f"--nothing is {options.nothing}; it has to lie between 0 and 1.")
    from diffmedseg.evaluation.calibrating import calibrate_run

    with report_errors():
        fitting = options.method, options.share, options.coverage, options.nothing, options.tta
        found = calibrate_run(options.run, *fitting, options.trust)
    if "presence" in found:
        presence = found["presence"]
        print(
            f"Up to a contrast of {presence['least_contrast']:.4f} nothing is found. Of the images that this was "
            f"fitted to, something is in {presence['false_positives']:.1%} of {presence['healthy']} healthy and in "
            f"{presence['found']:.1%} of {presence['diseased']} diseased ones (area under the ROC curve "
            f"{presence['auc']:.3f}). It holds for {presence['num_steps']} steps."
        )
    print(
        f"Fitted to {count(found['cases'], 'validation case')}. Masks stay as they are: their threshold is now "
        f"{found['threshold']:.4f}, the calibrated value of the old one. Calibration error on the same cases, so lower "
        "than on new ones, before and after:"
    )
    if found["cases"] < _FEW_CASES:
        print(f"  These are few: below {_FEW_CASES} cases the probabilities may be worse than before. Hold out more.")
    for place, name in (("whole", "all pixels"), ("neighbourhood", "near lesions")):
        print(f"  {name:<13} {found['ece']['before'][place]:.4f}  {found['ece']['after'][place]:.4f}")
    if "without_contours" in found:
        print(f"No contours and no intervals of area: {found['without_contours']}")
    else:
        _say_contours(found["regions"], found["conformal"]["init_args"])
    _say_familiarity(found)
    print(f"Wrote {options.run / 'calibration.yaml'}, calibration.json and checkpoints/calibrated.ckpt.")


def _say_familiarity(found: Mapping[str, Any]) -> None:
    if "without_familiarity" in found:
        print(f"No warning of unfamiliar images: {found['without_familiarity']}")
    elif fitted := found["familiarity"]:
        print(
            f"A warning of unfamiliar images comes at a familiarity of {fitted['level']:.3f} or less: of new cases "
            f"like these {count(fitted['cases'], 'case')}, at most {fitted['level']:.1%} will have one."
        )


def _say_contours(regions: Sequence[str], fitted: Mapping[str, Any]) -> None:
    share, coverage = f"{fitted['share']:.0%}", f"{fitted['coverage']:.0%}"
    print(
        f"Of new cases like these, about {coverage} have {share} of the inner contour within the truth, {share} "
        "of the truth within the outer contour, and the true area within its interval, with "
        f"{count(fitted['num_samples'], 'sample')} of {fitted['num_steps']} steps (probabilities before calibration):"
    )
    for region, inner, outer, factor in zip(
        regions, fitted["inner"], fitted["outer"], fitted["area_factor"], strict=True
    ):
        inside = "an empty inner contour" if math.isinf(inner) else f"inner contour at probability {inner:.3f}"
        around = "the whole image as outer one" if outer <= 0 else f"outer one at {outer:.3f}"
        print(f"  {region}: {inside}, {around}; areas from least / {factor:.2f} to most x {factor:.2f}")
    if any(map(math.isinf, fitted["inner"])) or min(fitted["outer"]) <= 0:
        print("  A contour that is empty or the whole image says nothing: lower --coverage or --share.")
