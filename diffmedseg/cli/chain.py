"""``diffmedseg train diffseg-student``: a chain of stages from image-level labels to a student. Stages can resume."""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmedseg.atomic import write_whole
from diffmedseg.cli.parsing import Parser, positive_integer, refuse, report_errors, setting_pairs
from diffmedseg.cli.pseudo import add_proposing, proposer_names
from diffmedseg.errors import DataError, RecipeError
from diffmedseg.experiments import experiments_folder, list_presets
from diffmedseg.files import read_json, read_yaml

_ORDER = "chain.json"
_PROPOSING = ("--proposer", "--crf", "--agreement")


@dataclass(frozen=True)
class Chain:
    """A chain and the options of the command.

    Attributes:
        name: Name of the experiment; its stages lie in ``<runs>/<name>``.
        data: Name of the data set.
        stages: Model and settings of ``teacher`` and ``student``.
        options: The options of the command.
        settings: Settings by stage: ``data`` (of the teacher and the pseudo masks), ``teacher``, ``student``, or
            ``both`` trainings.
    """

    name: str
    data: str
    stages: Mapping[str, Mapping[str, Any]]
    options: argparse.Namespace
    settings: Mapping[str, list[str]]

    @property
    def folder(self) -> Path:
        """The folder of all stages."""
        return Path(self.options.runs) / self.name

    def train_teacher(self) -> list[str]:
        """Return the arguments that train the teacher."""
        model = self.stages["teacher"]["model"]
        preset = self.options.preset if self.options.preset in list_presets(model) else None
        best = {"preset": preset, "settings": self.stages["teacher"]["settings"]}
        best |= self.stages["for_data"].get(self.data, {}).get("teacher", {})
        settings = [*best["settings"], *self.settings["data"], *self.settings["both"]]
        return self._train(model, self.data, "teacher", best["preset"], [*settings, *self.settings["teacher"]])

    def propose(self, cycle: int, run: Path | None) -> list[str]:
        """Return the arguments that write pseudo masks. ``run`` is the proposing run; None if no model proposes."""
        kind = self.options.proposer if cycle == 1 else "model"
        names = [self.data] if run is None else [str(run), self.data]
        crf = ["--crf", self.options.crf]
        if cycle == 1 and self.options.agreement:
            crf += ["--agreement", f"{self.options.agreement}"]
        true = ["--true_masks", str(self.options.true_masks), "--seed", str(self.options.seed)]
        return ["pseudo", *names, "--out", str(self.pseudo(cycle)), "--proposer", kind, *crf, *true,
                *self.settings["data"]]  # fmt: skip

    def pseudo(self, cycle: int) -> Path:
        """Return the folder of the pseudo masks of a cycle, from 1."""
        return self.folder / f"pseudo_{cycle}"

    def train_student(self, cycle: int) -> list[str]:
        """Return the arguments that train the student of a cycle."""
        settings = [*self.stages["student"]["settings"], *self.settings["both"], *self.settings["student"]]
        encoder = {"--encoder": self.options.encoder, "--encoder_weights": self.options.encoder_weights}
        arguments = [part for name, value in encoder.items() if value is not None for part in (name, value)]
        data = str(self.pseudo(cycle) / "data.yaml")
        return self._train(
            self.stages["student"]["model"], data, f"student_{cycle}", self.options.preset, arguments + settings
        )

    def fine_tune(self, cycle: int, student: Path) -> list[str]:
        """Return the arguments that fine-tune the student of a cycle on the true masks alone."""
        config = read_yaml(student / "config.yaml")
        size, encoder_lr = config["data"]["init_args"]["image_size"], config["model"]["init_args"]["encoder_lr"]
        settings = [f"--pretrained={student}", "--data.true_only=true"]
        settings += [f"--data.image_size={json.dumps(size)}", f"--model.encoder_lr={encoder_lr}"]
        settings += [*self.settings["both"], *self.stages["fine_tuning"]["settings"], *self.settings["fine_tuning"]]
        folder, preset = str(self.pseudo(cycle) / "data.yaml"), self.options.preset
        return self._train(self.stages["student"]["model"], folder, f"fine_tuned_{cycle}", preset, settings)

    def _train(self, model: str, data: str, stage: str, preset: str | None, settings: list[str]) -> list[str]:
        preset_arguments = [] if preset is None else ["--preset", preset]
        logger = [] if self.options.logger is None else ["--logger", self.options.logger]
        options = ["--name", f"{self.name}/{stage}", *preset_arguments, *logger, f"--runs={self.options.runs}"]
        return ["train", model, data, *options, f"--seed_everything={self.options.seed}", *settings]


def train(args: list[str]) -> None:
    """Run ``diffmedseg train`` for a chain."""
    with report_errors():
        chain = _parse(args)
        _hold_to(chain)
    runs = chain.folder
    _say(f"{chain.name}: stages lie in {runs}; interrupted stages resume")
    taught = "model" in proposer_names(chain.options.proposer)
    run = _finish(runs / "teacher", chain.train_teacher()) if taught else None
    for cycle in range(1, chain.options.cycles + 1):
        if not (chain.pseudo(cycle) / "data.yaml").is_file():
            _run(chain.propose(cycle, run))
        run = _finish(runs / f"student_{cycle}", chain.train_student(cycle))
    if run is not None and chain.options.true_masks:
        run = _finish(runs / f"fine_tuned_{cycle}", chain.fine_tune(cycle, run))
    supervision = read_json(run / "metrics.json")["policy"]["learned_from"] if run else ""
    _say(f"The student is {run}. It learned from {supervision}")


def _finish(experiment: Path, arguments: list[str]) -> Path:
    """Train a stage, or resume it, and return its run.

    A stage is finished when its best checkpoint was tested.
    """
    if (run := _tested(experiment)) is None:
        resumes = any(experiment.glob("version_*/checkpoints/last.ckpt"))
        _run([*arguments, *(["--ckpt_path", "last"] if resumes else [])])
        run = _tested(experiment)
    if run is None:
        refuse(f"The stage {experiment} ended before its test. Give the same command again to resume it.")
    return run


def _tested(experiment: Path) -> Path | None:
    """Return the newest run of a stage that was tested."""
    runs = [path.parent for path in experiment.glob("version_*/metrics.json")]
    return max(runs, key=lambda run: (run / "metrics.json").stat().st_mtime_ns, default=None)


def _hold_to(chain: Chain) -> None:
    """Record the settings of the chain; refuse to resume it with other settings.

    Raises:
        DataError: If the folder holds a chain with other settings.
    """
    ignored = {"ckpt_path", "runs", "cycles"}  # a resumed chain may have more cycles
    if not chain.options.agreement:
        ignored.add("agreement")  # older chains have no such option
    options = {name: value for name, value in vars(chain.options).items() if name not in ignored}
    parts = {"stages": chain.stages, "settings": chain.settings}
    if not chain.options.true_masks:  # without true masks, nothing is fine-tuned, and older chains have no such stage
        parts = {key: {k: v for k, v in part.items() if k != "fine_tuning"} for key, part in parts.items()}
    record = {"data": chain.data, "options": options, **parts}
    path = chain.folder / _ORDER
    if path.is_file():
        recorded = read_json(path)
        current = json.loads(json.dumps(record))
        if recorded != current:
            changed = next(name for name in current if recorded.get(name) != current[name])
            raise DataError(
                f"{chain.folder} was started with other {changed} ({path}). Give the same {changed}, or another --name."
            )
        return
    chain.folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(record, indent=1), encoding="utf-8"))


def _parser(model: str) -> Parser:
    parser = Parser(
        f"diffmedseg train {model}",
        usage=f"diffmedseg train {model} DATA [--proposer P] [--cycles N] [--true_masks N] [settings]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a teacher on labels, have it propose masks, and train a student on these masks. The same\n"
        "command resumes an interrupted chain. A higher --cycles adds cycles.\n\n"
        f"  diffmedseg train {model} isic2017 --data.root /data/isic2017 --preset cpu --cycles 2",
        epilog="--data.* sets the data set. --teacher.*, --student.* and --fine_tuning.* set one training, such as\n"
        "--student.trainer.max_steps 100. --model.* sets the student. Other settings apply to all trainings.",
    )
    parser.add_argument("--preset", help="See `diffmedseg train`.")
    parser.add_argument("--name", help="Name of the experiment. Default: MODEL-DATA.")
    parser.add_argument("--encoder", help="Encoder of the student; see `diffmedseg train`.")
    parser.add_argument("--encoder_weights", help="Initial weights of the encoder; see `diffmedseg train`.")
    parser.add_argument("--logger", help="See `diffmedseg train`.")
    parser.add_argument("--runs", default="runs", help="Folder of all runs.")
    parser.add_argument("--seed", "--seed_everything", type=int, default=0, help="Seed of all stages.")
    parser.add_argument("--ckpt_path", choices=("last",), help="Has no effect: a chain always resumes.")
    add_proposing(
        parser,
        "model",
        "Proposer of the first cycle. Default: the best measured for DATA, else model. model trains a teacher.",
    )
    parser.add_argument("--cycles", type=positive_integer, default=1,
                        help="Number of cycles. Each student proposes the masks of the next cycle.")  # fmt: skip
    return parser


def _parse(args: list[str]) -> Chain:
    """Read the command.

    Raises:
        RecipeError: If the preset does not exist for the student.
    """
    model, arguments = args[0], args[1:]
    data = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "synthetic"
    stages = read_yaml(experiments_folder() / "chain" / f"{model}.yaml")
    parser = _parser(model)
    if not any(argument.partition("=")[0] in _PROPOSING for argument in arguments):
        parser.set_defaults(**stages["for_data"].get(data, {}).get("proposing", {}))
    options, settings = parser.parse_known_args(arguments)
    presets = list_presets(stages["student"]["model"])
    if options.preset is not None and options.preset not in presets and not options.preset.endswith((".yaml", ".yml")):
        raise RecipeError(f"The model {model} has no preset {options.preset!r}: choose one of {', '.join(presets)}.")
    by_stage: dict[str, list[str]] = {"data": [], "teacher": [], "student": [], "fine_tuning": [], "both": []}
    for name, value in setting_pairs(settings):
        if not name.startswith("--") or value is None:
            refuse(f"{name!r} is not a setting with a value. Names come first: diffmedseg train MODEL DATA [settings].")
        part = name.partition(".")[0].removeprefix("--")
        if part in ("teacher", "student", "fine_tuning"):
            by_stage[part].append(f"--{name.partition('.')[2]}={value}")
        else:
            by_stage[{"data": "data", "model": "student"}.get(part, "both")].append(f"{name}={value}")
    return Chain(options.name or f"{model}-{Path(data).stem}", data, stages, options, by_stage)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(arguments: list[str]) -> None:
    """Run a stage in a child process. Stop it with this process; exit with its code if it fails."""
    _say("\n$ diffmedseg " + " ".join(arguments))
    child = subprocess.Popen([sys.executable, "-P", "-m", "diffmedseg", *arguments])
    handler = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        code = None
        while code is None:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C also reaches the stage, which ends its step
                code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)
