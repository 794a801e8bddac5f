"""A run that is stopped anywhere and goes on ends as one that never stopped."""

import signal

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping
from tiny_run import checkpoints, load, tiny_data, tiny_model, tiny_trainer

from diffmedseg.callbacks import ExactResume, RunStopped, StepStatistics, StopSafely, WarmupEMA
from diffmedseg.runs import RunLogger

LENGTH = 3  # batches of an epoch


class At(Callback):
    """Calls a function at one moment of a run: at a hook, when so many steps are done."""

    def __init__(self, hook, step, act):
        self.done = False

        def call(trainer, *rest, **named):
            if not self.done and trainer.global_step == step and not trainer.sanity_checking:
                self.done = True
                act()

        setattr(self, hook, call)


class Choose(Callback):
    """Replaces the validation score, so that the best checkpoint and early stopping are known."""

    def __init__(self, scores):
        self.scores, self.validations = scores, []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.validations.append(trainer.global_step)
        pl_module.log("val/score", float(self.scores.get(trainer.global_step, 0)))


SCORES = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.3}


def train(folder, *extra, ckpt_path=None, scores=SCORES, patience=2, model=None, **options):
    best, last = checkpoints(folder)
    best.monitor = "val/score"
    stopping = EarlyStopping("val/score", mode="max", patience=patience, check_on_train_epoch_end=False)
    choose = Choose(scores)
    callbacks = [WarmupEMA(), StepStatistics(), choose, stopping, best, last, *extra, ExactResume(), StopSafely()]
    steps = None if ckpt_path is None else load(ckpt_path)["global_step"]
    settings = {"max_steps": 12, "log_every_n_steps": 1, "logger": RunLogger(folder, steps)}
    trainer = tiny_trainer(folder, callbacks=callbacks, **settings | options)
    torch.manual_seed(hash(str(folder)) % 1000)  # nothing may depend on it
    model = tiny_model(cosine_decay=False) if model is None else model
    try:
        trainer.fit(model, tiny_data(steps_per_epoch=LENGTH), ckpt_path=ckpt_path, weights_only=True)
    except RunStopped as stopped:
        return stopped
    return choose.validations


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder) == [3, 6, 9, 12]
    return folder


def assert_same_values(a, b, name=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same_values(a[key], b[key], f"{name}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_values(x, y, f"{name}/{i}")
    else:
        assert a == b, name


def outcome(folder, name):
    """Everything in a checkpoint, but for where it lies."""
    checkpoint = load(folder / f"{name}.ckpt")
    for state in checkpoint["callbacks"].values():
        for key in ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path"):
            state.pop(key, None)
        if "best_k_models" in state:
            state["best_k_models"] = list(state["best_k_models"].values())
        state.pop("time_elapsed", None)
    checkpoint["callbacks"] = {key: state for key, state in checkpoint["callbacks"].items() if "Timer" not in key}
    return checkpoint


def assert_same_runs(whole, other):
    for name in ("last", "best"):
        assert_same_values(outcome(whole, name), outcome(other, name), name)
    assert (other / "metrics.csv").read_text().count("\n") == (whole / "metrics.csv").read_text().count("\n")
    rows = [[line.split(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()] for folder in (whole, other)]
    assert rows[0] == rows[1]


def kill(signum):
    return lambda: signal.raise_signal(signum)


MOMENTS = [
    ("on_train_batch_start", 0),
    ("on_before_backward", 4),
    ("on_train_batch_end", 4),
    ("on_train_batch_end", 6),
    ("on_validation_start", 6),
    ("on_validation_batch_start", 3),
    ("on_validation_end", 9),
    ("on_train_epoch_end", 6),
    ("on_train_epoch_start", 6),
    ("on_validation_batch_end", 12),
    ("on_train_batch_end", 12),
]


@pytest.mark.parametrize(("hook", "step"), MOMENTS, ids=lambda value: str(value))
def test_a_signal_at_any_moment_of_training_changes_nothing(hook, step, whole, tmp_path):
    stopped = train(tmp_path, At(hook, step, kill(signal.SIGTERM)))
    assert stopped.code == 143
    assert stopped.can_save
    last = load(tmp_path / "last.ckpt")
    assert last["global_step"] in {step, step + 1}  # not one step is lost
    train(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert_same_runs(whole, tmp_path)
