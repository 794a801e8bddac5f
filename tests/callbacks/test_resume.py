"""A run that is stopped anywhere and goes on ends as one that never stopped."""

import contextlib
import signal

import pytest
import torch
from helpers.tiny_run import checkpoints, load, plain_model, tiny_data, tiny_trainer
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping

from diffmedseg.callbacks import ExactResume, RunStopped, StepStatistics, StopSafely, WarmupEMA
from diffmedseg.callbacks.resume import is_unvalidated
from diffmedseg.run_log import RunLogger

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
    goes_on = () if ckpt_path is None else (load(ckpt_path)["global_step"], is_unvalidated(load(ckpt_path)))
    settings = {"max_steps": 12, "log_every_n_steps": 1, "logger": RunLogger(folder, *goes_on)}
    trainer = tiny_trainer(folder, callbacks=callbacks, **settings | options)
    torch.manual_seed(hash(str(folder)) % 1000)  # nothing may depend on it
    model = plain_model(cosine_decay=False) if model is None else model
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
    """Everything in a checkpoint that Lightning restores, but for its place and the run's limit."""
    checkpoint = load(folder / f"{name}.ckpt")
    del checkpoint["trainer"]["max_steps"]  # of the best it is that of the shorter run
    for state in checkpoint["callbacks"].values():
        for key in ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path", "current_score"):
            state.pop(key, None)
        if "best_k_models" in state:
            state["best_k_models"] = list(state["best_k_models"].values())
        state.pop("time_elapsed", None)
    checkpoint["exact_resume"].pop("before")
    checkpoint["callbacks"] = {key: state for key, state in checkpoint["callbacks"].items() if "Timer" not in key}
    return checkpoint


def assert_same_runs(whole, other):
    for name in ("last", "best"):
        assert_same_values(outcome(whole, name), outcome(other, name), name)
    assert (other / "metrics.csv").read_text().count("\n") == (whole / "metrics.csv").read_text().count("\n")
    rows = [
        [line.split(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()] for folder in (whole, other)
    ]
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


def test_ctrl_c_saves_too(whole, tmp_path):
    stopped = train(tmp_path, At("on_before_backward", 7, kill(signal.SIGINT)))
    assert (stopped.code, stopped.can_save) == (130, True)
    train(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert_same_runs(whole, tmp_path)


def test_a_second_ctrl_c_stops_at_once_without_a_checkpoint(tmp_path):
    once, again = (At("on_before_backward", 1, kill(signal.SIGINT)) for _ in range(2))
    stopped = train(tmp_path, once, again)
    assert (stopped.code, stopped.can_save) == (130, False)
    assert not (tmp_path / "last.ckpt").exists()


def test_outside_training_a_signal_stops_at_once_and_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    class InSanityCheck(Callback):
        def on_validation_batch_start(self, trainer, *rest):
            signal.raise_signal(signal.SIGTERM)

    stopped = train(tmp_path, InSanityCheck(), num_sanity_val_steps=1)
    assert (stopped.code, stopped.can_save) == (143, False)

    class InTest(Callback):
        def on_test_batch_start(self, trainer, *rest):
            signal.raise_signal(signal.SIGTERM)

    trainer = tiny_trainer(tmp_path, callbacks=[InTest(), StopSafely()])
    with pytest.raises(RunStopped) as found:
        trainer.test(plain_model(), tiny_data(), verbose=False)
    assert found.value.code == 143
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_signal_whose_exception_a_library_loses_ends_the_run_all_the_same(error):
    def library():
        with contextlib.suppress(RunStopped):
            signal.raise_signal(signal.SIGTERM)
        if error:
            raise error

    def run():
        with StopSafely().listening():
            library()

    with pytest.raises(RunStopped) as found:
        run()
    assert found.value.code == 143


class Shake(Callback):
    """Draws from the global generator in each step, as dropout does."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        for parameter in pl_module.parameters():
            parameter.grad *= torch.rand(())


def test_what_draws_from_the_global_generator_resumes_exactly_too(tmp_path):
    whole, other = tmp_path / "whole", tmp_path / "other"
    train(whole, Shake())
    train(other, Shake(), At("on_before_backward", 4, kill(signal.SIGTERM)))
    train(other, Shake(), ckpt_path=other / "last.ckpt")
    assert_same_runs(whole, other)


class Killed(BaseException):
    """SIGKILL: nothing of ours runs after it."""


@pytest.mark.parametrize(("hook", "step"), [("on_before_backward", 7), ("on_validation_end", 9)])
def test_a_kill_goes_on_from_the_last_whole_checkpoint(hook, step, whole, tmp_path):
    def die():
        raise Killed

    with pytest.raises(Killed):
        train(tmp_path, At(hook, step, die))
    metrics = tmp_path / "metrics.csv"
    assert len([line for line in metrics.read_text().splitlines()[1:] if line]) > 7  # rows from beyond the checkpoint
    with metrics.open("a") as file:
        file.write("1,0.5")  # and a line that was cut off
    assert load(tmp_path / "last.ckpt")["global_step"] == 6
    train(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert_same_runs(whole, tmp_path)


def test_a_kill_after_a_validation_that_was_made_up_for_logs_it_once(whole, tmp_path):
    def die():
        raise Killed

    last = tmp_path / "last.ckpt"
    train(tmp_path, At("on_validation_batch_start", 6, kill(signal.SIGTERM)))
    with pytest.raises(Killed):
        train(tmp_path, At("on_validation_end", 6, die), ckpt_path=last)
    train(tmp_path, ckpt_path=last)
    assert_same_runs(whole, tmp_path)


@pytest.mark.parametrize("score", [0.1, 0.9], ids=["worse", "better"])
@pytest.mark.parametrize("stop", [2, 8])
def test_stopping_within_an_epoch_by_max_steps_changes_nothing(stop, score, whole, tmp_path):
    """The stop validates once more than the longer run does: that must not count."""
    assert train(tmp_path, max_steps=stop, scores=SCORES | {stop: score})[-1] == stop
    if score == 0.9:
        assert load(tmp_path / "best.ckpt")["global_step"] == stop  # what the short run is tested with
    assert train(tmp_path, ckpt_path=tmp_path / "last.ckpt")[-1] == 12
    for name in ("last", "best"):
        assert_same_values(outcome(whole, name), outcome(tmp_path, name), name)


class Clock(Callback):
    """A second for each step."""

    now = 0

    def monotonic(self):
        return self.now

    def on_train_batch_start(self, *arguments):
        self.now += 1


def test_stopping_by_max_time_changes_nothing(whole, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", clock)
    assert train(tmp_path, clock, max_time={"seconds": 8}) == [3, 6, 8]
    assert load(tmp_path / "last.ckpt")["global_step"] == 8
    assert train(tmp_path, clock, max_time={"seconds": 8}, ckpt_path=tmp_path / "last.ckpt") == []  # its time is over
    assert train(tmp_path, clock, max_time={"seconds": 99}, ckpt_path=tmp_path / "last.ckpt") == [9, 12]
    for name in ("last", "best"):
        assert_same_values(outcome(whole, name), outcome(tmp_path, name), name)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_start"])
def test_the_last_weights_are_validated_even_if_the_signal_comes_then(hook, tmp_path):
    whole, other, scores = tmp_path / "whole", tmp_path / "other", SCORES | {8: 0.9}
    train(whole, max_steps=8, scores=scores)
    train(other, At(hook, 8, kill(signal.SIGTERM)), max_steps=8, scores=scores)
    assert train(other, max_steps=8, scores=scores, ckpt_path=other / "last.ckpt") == [8]
    assert_same_runs(whole, other)
    assert load(other / "best.ckpt")["global_step"] == 8
    assert train(other, max_steps=8, scores=scores, ckpt_path=other / "last.ckpt") == []


def test_a_run_that_stopped_early_stays_stopped_unless_patience_is_raised(tmp_path):
    assert train(tmp_path, patience=1) == [3, 6, 9]
    assert train(tmp_path, patience=1, ckpt_path=tmp_path / "last.ckpt") == []
    assert load(tmp_path / "last.ckpt")["global_step"] == 9
    assert train(tmp_path, patience=3, ckpt_path=tmp_path / "last.ckpt") == [12]


@pytest.mark.parametrize(
    "options",
    [{"val_check_interval": 1}, {"check_val_every_n_epoch": 2}, {"accumulate_grad_batches": 2, "max_steps": 8},
     {"max_steps": -1, "max_epochs": 4}],
    ids=["within epochs", "every other epoch", "accumulated", "epochs"],
)  # fmt: skip
def test_other_plans_resume_exactly_too(options, tmp_path):
    whole, other, moments = tmp_path / "whole", tmp_path / "other", ("on_before_backward", "on_validation_batch_start")
    every = dict.fromkeys(range(13), 0.5)
    train(whole, scores=every, patience=99, **options)
    for hook, step in zip((*moments, *moments), (2, 3, 4, 6), strict=True):
        path = other / "last.ckpt"
        train(other, At(hook, step, kill(signal.SIGTERM)), scores=every, patience=99,
              ckpt_path=path if path.exists() else None, **options)  # fmt: skip
    train(other, scores=every, patience=99, ckpt_path=path, **options)
    assert_same_runs(whole, other)
