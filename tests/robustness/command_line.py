"""The command line's values, up to the point where a command would begin its work."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from robustness.mutation import TOKENS, Random, mutate_text
from robustness.worker import Files, WorkBeginsError

#: What a command calls first when its arguments are read.
_BEGINNINGS = (
    "diffmedseg.cli.training.run",
    "diffmedseg.cli.predicting.load_model",
    "diffmedseg.cli.zoo_commands.current_source",
    "diffmedseg.cli.dashboard.build_workspace",
    "diffmedseg.cli.info.collect",
    "diffmedseg.data.catalogue.configured",
    "diffmedseg.data.catalogue.markdown_table",
    "diffmedseg.data.lidc_pickle.convert_lidc",
    "diffmedseg.evaluation.calibrating.calibrate_run",
    "diffmedseg.evaluation.mask_folders.pair_masks",
    "diffmedseg.cli.comparing._read_tests",
    "diffmedseg.zoo.exporting.add_recipe",
    "diffmedseg.zoo.exporting.export",
)
_COMMANDS = (
    "train",
    "train medsegdiff-lite synthetic --preset cpu --name mine --trainer.max_steps 3",
    "train medsegdiff-lite folder --data.root mine --logger wandb --callbacks crf --trust torch",
    "evaluate runs --model.num_samples 16 --callbacks crf",
    "predict model.ckpt a.png b*.jpg --out out --num_samples 4 --num_steps 3 --seed 1 --batch_size 2 --bf16 --panel",
    "predict model.ckpt cases --out out --resume --device cpu --modality t1ce=*_GD --brain_mask b --volumes a,b,c",
    "predict model.ckpt a.png --out out --range 0 4095 --windows w.csv --trust mine",
    "windows model.ckpt photos --out w.csv --data refuge --margin 1.5 --batch_size 4 --device cpu",
    "score masks truths --json --out scores.csv --common --spacing 1 0.5",
    "compare a b --json --common --format latex --scores dice,iou",
    "calibrate runs/a/version_0 --method temperature --share 0.9 --coverage 0.8 --nothing 0.05",
    "data list chase",
    "data check chase dir --set folds=3 --against isic2016 other --json --sheet s.png",
    "data labels synthetic --out l.png --num_images 3",
    "data augment-preview synthetic --out p.png --num_images 2 --num_variants 2 --data.root x",
    "data convert-lidc a.pickle out",
    "data cache",
    "zoo list",
    "zoo list --data isic --task lesion --json",
    "zoo card a b",
    "zoo retire a --superseded_by b --reason text",
    "zoo push a hf://b/c --dry_run --private",
    "zoo show name",
    "zoo verify a b --trust x",
    "zoo cases a --root r --out c.png --add",
    "zoo reproduce a --root r --runs runs",
    "zoo export runs/a --name a_b.c --folder zoo --notes text --dtype float32 --pictures true --version 1.2.0",
    "zoo recipe s.yaml --name a_b.c",
    "export runs/a --name a_b.c",
    "dashboard --entity e --project p --name n --regions disc cup --out w.json",
    "info --json",
    "--help",
    "--version",
)
_SETTINGS = (
    "--trainer.max_steps=2",
    "--trainer.precision=32-true",
    "--trainer.max_time=00:00:01:00",
    "--trainer.devices=1",
    "--data.image_size=16",
    "--data.batch_size=2",
    "--data.steps_per_epoch=1",
    "--data.num_train=24",
    "--data.seed=0",
    "--model.num_samples=2",
    "--model.num_steps=2",
    "--model.threshold=0.5",
    "--model.denoiser.init_args.size=tiny",
    "--model.optimizer=torch.optim.Adam",
    "--model.optimizer.init_args.lr=0.1",
    "--ema.decay=0.9",
    "--runs=r",
    "--tags=[a]",
    "--ckpt_path=null",
    "--seed_everything=3",
    "--experiment=e",
    "--pretrained=p",
    "--trust=[x]",
    "--logger=null",
    "--model=MedSegDiffSegmenter",
    "--data=SyntheticDataModule",
    "--trainer.callbacks=[]",
    "--model.fusion=MeanFusion",
)


def argument_lists() -> list[Files]:
    """Return the arguments of every command, as files of JSON."""
    return [{"arguments.json": json.dumps(command.split()).encode()} for command in _COMMANDS]


def setting_lists() -> list[Files]:
    """Return the arguments of LightningCLI for a run, with a few settings each."""
    from diffmedseg.recipes import recipe

    base = ["fit", *recipe("medsegdiff-lite", "synthetic").arguments]
    chosen = [_SETTINGS[first : first + 4] for first in range(0, len(_SETTINGS), 4)]
    return [{"arguments.json": json.dumps([*base, *own]).encode()} for own in chosen]


def mutate_arguments(name: str, content: bytes, rng: Random, other: bytes) -> bytes:
    """Replace, change, repeat, leave out or add arguments after the first."""
    arguments, more = json.loads(content), json.loads(other)
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Mostly the last ones: before them stand the recipe's files.
        at = rng.randrange(max(len(arguments) - 8, 0), len(arguments)) if arguments else 0
        choice = rng.random()
        if choice < 0.35 and arguments:
            option, equals, value = arguments[at].partition("=")
            new = (
                mutate_text(value.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "replace")
                if rng.random() < 0.3
                else rng.choice(TOKENS)
            )
            arguments[at] = f"{option}={new}" if equals else new
        elif choice < 0.5 and arguments:
            text = mutate_text(arguments[at].encode("utf-8", "surrogatepass"), rng)[:10000]
            arguments[at] = text.decode("utf-8", "surrogateescape")
        elif choice < 0.6 and arguments:
            del arguments[at]
        elif choice < 0.7 and arguments:
            arguments.insert(rng.randrange(len(arguments) + 1), arguments[at])
        elif choice < 0.85:
            arguments.insert(at, rng.choice(more))
        else:
            arguments.insert(at, rng.choice((*TOKENS, *_SETTINGS)))
    return json.dumps(arguments).encode()


def read_arguments(path: Path) -> object:
    """Read the arguments of a command; no command begins its work."""
    from diffmedseg.cli import main

    arguments = [argument.replace("\0", "") for argument in json.loads(path.read_bytes())]  # no process is given NUL
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"DIFFMEDSEG_CACHE": str(path.parent / "cache")}))
        for place in _BEGINNINGS:
            stack.enter_context(mock.patch(place, side_effect=WorkBeginsError))
        return main(arguments)


def read_settings(path: Path) -> object:
    """Read the settings of a run; nothing is built."""
    from diffmedseg.cli import main

    arguments = [argument.replace("\0", "") for argument in json.loads(path.read_bytes())]
    with mock.patch("diffmedseg.cli.lightning_cli.DiffMedSegCLI.instantiate_classes", side_effect=WorkBeginsError):
        return main(arguments)
