"""``diffmedseg pseudo``: pseudo masks for training images."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from diffmedseg.cli.parsing import (
    Parser,
    add_device,
    add_trust,
    natural_number,
    open_share,
    positive_integer,
    report_errors,
    setting_pairs,
)
from diffmedseg.errors import unknown
from diffmedseg.experiments import data_file, data_root, list_datasets
from diffmedseg.files import expand_home, read_yaml

_PROPOSERS = ("model", "luminance", "border")
_MEAN = "model+luminance"
_HOW = (
    "P is model, luminance, border (contrast to the border of the image), or names joined by + for their mean. mean "
    f"stands for {_MEAN}."
)


def main(args: list[str]) -> None:
    """Run ``diffmedseg pseudo``."""
    options, names, settings = _parse(args)
    from diffmedseg.pseudo.writing import DATA, write_pseudo_masks

    with report_errors():
        folder = expand_home(options.out)
        existed = (folder / DATA).is_file()
        rows = write_pseudo_masks(_order(options, names, settings), folder)
    tally = Counter((row.split, row.kept) for row in rows)
    counts = ", ".join(f"{tally[split, 'yes']} of {tally[split, 'yes'] + tally[split, 'no']} {split} images"
                       for split in ("train", "val"))  # fmt: skip
    print(f"{'Kept existing' if existed else 'Wrote'} pseudo masks for {counts}: {folder}")
    print(f"\nNext: diffmedseg train medsegdiff-lite {folder / DATA}")


def _parser() -> Parser:
    parser = Parser(
        "diffmedseg pseudo",
        usage="diffmedseg pseudo [RUN] DATA --out FOLDER [--proposer P] [--data.SETTING VALUE]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write filtered pseudo masks for the training and validation images of DATA. RUN is a run that\n"
        "learned from labels, or a student; --proposer luminance+border needs no RUN. Masks of DATA are not used,\n"
        "except for --true_masks. The mask_rule of the data set turns maps into masks.\n\n"
        "  diffmedseg pseudo runs/diffseg-isic2017/version_0 isic2017 --data.root /data/isic2017 --out pseudo\n"
        "  diffmedseg pseudo isic2017 --proposer luminance+border --data.root /data/isic2017 --out pseudo\n"
        "  diffmedseg train medsegdiff-lite pseudo/data.yaml        # tested on the true masks of DATA's test set\n"
        "  diffmedseg train medsegdiff-lite folder --data.root pseudo",
        epilog=f"DATA is one of {', '.join(list_datasets())}; or a yaml file of your own.\n"
        "The last checkpoint of RUN is used, since true masks chose the best one. Of a student, the best checkpoint\n"
        "is used: pseudo masks chose it. The same command resumes an interrupted one.",
    )
    parser.add_argument("--out", required=True, help="Folder to write.")
    add_proposing(
        parser,
        None,
        "Proposer of the masks. Default: model if RUN is named.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the choice of true masks.")
    parser.add_argument("--batch_size", type=positive_integer, default=16, help="Images per batch. Default: 16.")
    add_device(parser)
    add_trust(parser)
    return parser


def add_proposing(parser: Parser, proposer: str | None, who: str) -> None:
    """Add the options of proposing masks.

    Args:
        parser: The parser.
        proposer: Default of ``--proposer``.
        who: Beginning of the help of ``--proposer``.
    """
    parser.add_argument("--proposer", type=_proposer, default=proposer, metavar="P", help=f"{who} {_HOW}")
    parser.add_argument(
        "--crf",
        choices=("auto", "on", "off"),
        default="auto",
        help="Refine maps by DenseCRFs. auto: if the proposing model does.",
    )
    parser.add_argument(
        "--agreement", type=open_share, default=0.0, metavar="DICE",
        help="Leave out images in which the masks of two proposers have a smaller Dice. Default: 0, keep all.",
    )  # fmt: skip
    parser.add_argument(
        "--true_masks", type=natural_number, default=0, metavar="N", help="Add N true masks of training images."
    )


def _proposer(text: str) -> str:
    """Check the value of ``--proposer``."""
    for name in proposer_names(text):
        if name not in _PROPOSERS:
            raise argparse.ArgumentTypeError(unknown("proposer", name, [*_PROPOSERS, "mean"]))
    return text


def proposer_names(text: str) -> list[str]:
    """Return the names in a value of ``--proposer``, joined by +, each once."""
    return list(dict.fromkeys((_MEAN if text == "mean" else text).split("+")))


def _parse(args: list[str]) -> tuple[argparse.Namespace, list[str], dict[str, str]]:
    """Return the options, the names before them, and the settings of the data."""
    parser = _parser()
    names = list(args[: next((i for i, argument in enumerate(args) if argument.startswith("-")), len(args))])
    options, arguments = parser.parse_known_args(args[len(names) :])
    settings: dict[str, str] = {}
    for name, value in setting_pairs(arguments):
        if not name.startswith("--data.") or value is None:
            parser.error(f"{name} is not an option. Give settings of the data as --data.NAME VALUE.")
        settings[name.removeprefix("--data.")] = value
    options.proposer = options.proposer or ("model" if len(names) == 2 else None)
    if options.proposer is None or len(names) != 1 + ("model" in proposer_names(options.proposer)):
        parser.error("name RUN and DATA, or only DATA with a --proposer that needs no model, such as luminance.")
    return options, names, settings


def _order(options: argparse.Namespace, names: list[str], settings: dict[str, str]) -> Any:  # noqa: ANN401
    """Build the order of the pseudo masks from the options."""
    from diffmedseg.data.catalogue import configured
    from diffmedseg.pseudo.border import BorderContrast
    from diffmedseg.pseudo.proposers import Council, Luminance, Proposer
    from diffmedseg.pseudo.writing import Order

    name = names[-1]
    root = data_root(name, settings.pop("root", None))
    data = configured(name, root, settings)
    proposers: list[Proposer] = []
    sha256 = None
    chosen = proposer_names(options.proposer)
    if "model" in chosen:
        proposer, sha256 = _of_run(names[0], options, data.info)
        proposers.append(proposer)
    proposers += [
        kind(data.mask_rule, data.info)
        for name, kind in (("luminance", Luminance), ("border", BorderContrast))
        if name in chosen
    ]
    refinement = next((proposer.refinement for proposer in proposers if proposer.refinement is not None), None)
    if options.crf == "on" and refinement is None:
        from diffmedseg.postprocessing.crf import RandomSubsetCRF

        refinement = RandomSubsetCRF()
    council = Council(proposers, data.mask_rule, None if options.crf == "off" else refinement, options.agreement)
    facts = {key: value for key, value in (read_yaml(data_file(name)) or {}).items() if key != "data"}
    facts["tags"] = list(dict.fromkeys([*facts.get("tags", []), Path(data_file(name)).stem]))
    record = {"proposer": options.proposer, "weights": sha256, "crf": council.refinement is not None}
    record |= {"agreement": options.agreement} if options.agreement else {}
    record |= {"true_masks": options.true_masks, "seed": options.seed}
    return Order(council, data, facts, options.true_masks, options.seed, record, options.batch_size)


def _of_run(name: str, options: argparse.Namespace, info: Any) -> tuple[Any, str]:  # noqa: ANN401
    """Load the proposer of a run, and the sha256 of its weights."""
    from diffmedseg.cli.predicting import on_device
    from diffmedseg.files import file_sha256
    from diffmedseg.pseudo.checkpoints import proposing_checkpoint
    from diffmedseg.pseudo.proposers import OfModel
    from diffmedseg.zoo import load_model

    path, chosen_by = proposing_checkpoint(name)
    model = load_model([str(path)], options.trust).to(on_device(options.device))
    return OfModel(model, info, chosen_by), file_sha256(path) if isinstance(path, Path) else path
