"""``diffmedseg score`` and ``calibrate``: score folders of masks, and calibrate the probabilities of a run."""

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
#: Number of validation cases below which a calibration is unreliable. The number is our choice, and was not measured.
_FEW_CASES = 20
#: Names of ``evaluation.protocols.PROTOCOLS``. They are repeated here because that module loads torch.
_PROTOCOLS = ("brats", "medsegdiff", "pooled")
_POLICIES = ("aggregation", "interval", "both_empty", "one_empty", "thresholded_jaccard", "surfaces")


def score(args: list[str]) -> None:
    """Run ``diffmedseg score``."""
    parser = Parser(
        "diffmedseg score",
        "Score a folder of masks of any method against a folder of reference masks: pictures or volumes. Files are "
        "paired by name, without endings such as _segmentation, _prediction or _mask. Foreground is above half of the "
        "range.",
    )
    parser.add_argument("predictions", type=Path, help="Folder of predicted masks.")
    parser.add_argument("truths", type=Path, help="Folder of reference masks.")
    parser.add_argument("--json", action="store_true", help="Print JSON: means, cases and policy.")
    parser.add_argument("--out", type=Path, metavar="CSV", help="Write the scores of every case to this file.")
    parser.add_argument("--common", action="store_true", help="Leave out reference masks without a prediction.")
    parser.add_argument(
        "--spacing", type=float, nargs=2, metavar=("ROW", "COLUMN"),
        help="Pictures: size of a pixel in mm, for surface distances in mm. Default: distances in pixels. Volumes "
        "have their own spacing.",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=_PROTOCOLS, action="append", default=[],
        help="Add a column with the scores of another protocol, for comparisons. medsegdiff: MedSegDiff's released "
        "code. pooled: the pixels of all cases together. brats: lesion by lesion, as in BraTS 2023. Can be repeated.",
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="SCHEME",
        help="Score each region of label maps. SCHEME is brats (1, 2, 4), brats2023 (1, 2, 3), or "
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
            _Region(
                region_pairs,
                score_pairs(region_pairs, options.spacing),
                {name: PROTOCOLS[name](region_pairs) for name in options.protocol},
            )
            for region_pairs in pairs.regions(options.labels)
        ]
        if options.out:
            write_cases([row for region in regions for row in region.scored.rows], options.out)
    if not options.json:
        _print_scores(regions)
        return
    results = {region.pairs.region: _as_json(region) for region in regions}
    print(json.dumps({"regions": results} if options.labels else results[pairs.region], indent=1))


class _Region(NamedTuple):
    """The scores of a region. Masks have one region; label maps may have several."""

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
    facts = {"cases": cases, "left_out": left_out, "empty_after_thresholding": faded, "policy": policy}
    if protocols:
        facts["protocols"] = {name: asdict(protocol) for name, protocol in protocols.items()}
    summary: dict[str, Any] = plain(means | facts)
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
                values = [getattr(protocol, s.score, None) for protocol in region.protocols.values()]
                cells = ["" if value is None else f"{value:.4f}" for value in values]
                table.add_row(*([s.region] if several else []), TITLES[s.score], f"{s.mean:.4f}", interval, *cells)
    Console().print(table)


def _caption(regions: Sequence[_Region]) -> str:
    from diffmedseg.wording import first_names

    pairs, scored, protocols = regions[0]
    caption = f"mean over {count(len(scored.rows), 'case')}"
    for region in regions:
        empty = sum(row.both_empty for row in region.scored.rows)
        of_region = "" if pairs.labels is None else f" of {region.pairs.region}"
        caption += f"; {count(empty, 'empty mask')}{of_region} predicted empty, which scores 1" if empty else ""
    for names, noun in (
        (pairs.missing, "reference masks without prediction"),
        (pairs.extra, "predictions without reference mask"),
    ):
        caption += f"; left out: {len(names)} {noun} ({first_names(names)})" if names else ""
    if scored.faded:
        caption += f"; {count(len(scored.faded), 'mask')} with all values below half of the range, "
        caption += f"scored as empty ({first_names(list(map(str, scored.faded)))})"
    return caption + "".join(f"; protocol {name}: {protocol.policy}" for name, protocol in protocols.items())


def calibrate(args: list[str]) -> None:
    """Run ``diffmedseg calibrate``."""
    parser = Parser(
        "diffmedseg calibrate",
        "Calibrate a run on its validation cases: probabilities, contours and intervals of areas with a stated "
        "coverage, and a warning of images that are unlike these cases. Write checkpoints/calibrated.ckpt, "
        "calibration.json, and calibration.yaml (for `test -c`, after config.yaml).",
    )
    parser.add_argument("run", type=Path, help="The run's folder.")
    parser.add_argument("--method", choices=("isotonic", "temperature"), default="isotonic", help="Default: isotonic.")
    parser.add_argument(
        "--share", type=float, default=0.95, help="Fraction of a contour's pixels that has to be right. Default: 0.95."
    )
    parser.add_argument(
        "--coverage", type=float, default=0.9, help="Fraction of cases whose contours and areas hold. Default: 0.9."
    )
    parser.add_argument(
        "--nothing",
        type=float,
        help="DiffSeg: accepted fraction of healthy images with a non-empty mask, e.g. 0.05.",
    )
    add_tta(parser)
    add_trust(parser)
    options = parser.parse_args(args)
    if options.nothing is not None and not 0 < options.nothing < 1:
        parser.error(f"--nothing is {options.nothing}; it has to lie between 0 and 1.")
    from diffmedseg.evaluation.calibrating import calibrate_run
    from diffmedseg.evaluation.summary import PSEUDO

    with report_errors():
        settings = options.method, options.share, options.coverage, options.nothing, options.tta
        fitted = calibrate_run(options.run, *settings, options.trust)
    if PSEUDO in fitted:
        print(
            "The validation masks are pseudo masks, so all that follows holds for pseudo masks and not for true masks. "
            f"Their origin: {fitted[PSEUDO]}."
        )
    if "presence" in fitted:
        presence = fitted["presence"]
        print(
            f"Masks are empty up to a contrast of {presence['least_contrast']:.4f}. On the images of the fit, masks "
            f"are not empty for {presence['false_positives']:.1%} of {presence['healthy']} healthy images and for "
            f"{presence['found']:.1%} of {presence['diseased']} diseased images (area under the ROC curve "
            f"{presence['auc']:.3f}). The limit holds for {presence['num_steps']} steps."
        )
    print(
        f"Fitted to {count(fitted['cases'], 'validation case')}. Masks do not change: the threshold is now "
        f"{fitted['threshold']:.4f}, the calibrated value of the old threshold."
    )
    if fitted["cases"] < _FEW_CASES:
        print(f"With fewer than {_FEW_CASES} cases the probabilities may be worse than before. Hold out more cases.")
    print("Calibration error before and after, on the same cases (lower than on new cases):")
    for part, name in (("whole", "all pixels"), ("neighbourhood", "near lesions")):
        print(f"  {name:<13} {fitted['ece']['before'][part]:.4f}  {fitted['ece']['after'][part]:.4f}")
    if "without_contours" in fitted:
        print(f"No contours and no intervals of area: {fitted['without_contours']}")
    else:
        _say_contours(fitted["regions"], fitted["conformal"]["init_args"])
    _say_familiarity(fitted)
    print(f"Wrote {options.run / 'calibration.yaml'}, calibration.json and checkpoints/calibrated.ckpt.")


def _say_familiarity(calibration: Mapping[str, Any]) -> None:
    if "without_familiarity" in calibration:
        print(f"No warning of unfamiliar images: {calibration['without_familiarity']}")
    elif fitted := calibration["familiarity"]:
        print(
            f"Images with a familiarity of {fitted['level']:.3f} or less get a warning: at most {fitted['level']:.1%} "
            f"of new cases like these {count(fitted['cases'], 'case')}."
        )


def _say_contours(regions: Sequence[str], fitted: Mapping[str, Any]) -> None:
    share, coverage = f"{fitted['share']:.0%}", f"{fitted['coverage']:.0%}"
    print(
        f"About {coverage} of new cases like these have {share} of the inner contour within the truth, {share} of the "
        f"truth within the outer contour, and the true area within its interval. With "
        f"{count(fitted['num_samples'], 'sample')} of {fitted['num_steps']} steps (probabilities before calibration):"
    )
    for region, inner, outer, factor in zip(
        regions, fitted["inner"], fitted["outer"], fitted["area_factor"], strict=True
    ):
        inside = "an empty inner contour" if math.isinf(inner) else f"inner contour at probability {inner:.3f}"
        outside = "outer contour the whole image" if outer <= 0 else f"outer contour at {outer:.3f}"
        print(f"  {region}: {inside}, {outside}; areas from least / {factor:.2f} to most x {factor:.2f}")
    if any(map(math.isinf, fitted["inner"])) or min(fitted["outer"]) <= 0:
        print("  A contour that is empty or the whole image says nothing: lower --coverage or --share.")
