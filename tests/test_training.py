from functools import partial

import pytest
import torch
from helpers.small_networks import small
from helpers.tiny_run import checkpoints, load, plain_model, tiny_data, tiny_model, tiny_trainer
from lightning import Callback
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from diffmedseg.callbacks import WarmupEMA
from diffmedseg.errors import NoRunError
from diffmedseg.models import (
    ClassConditionalUNet,
    DiffSegSegmenter,
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV2,
)
from diffmedseg.runs import check_strategy


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Three epochs without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    model, start = plain_model(), copy_of(plain_model())
    tiny_trainer(folder).fit(model, tiny_data())
    return folder, model, start


def test_training_changes_the_weights_and_writes_checkpoints(whole_run):
    folder, model, start = whole_run
    assert any(not torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert {path.name for path in folder.glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


def test_resume_equals_uninterrupted(whole_run, tmp_path):
    """The released code looks for optimiser and EMA under names that it never writes, and starts both anew."""
    folder, model, _ = whole_run
    # Stopped after every epoch; the learning rate's schedule knows the length of the whole run from the start.
    for ckpt_path in (None, tmp_path / "last.ckpt", tmp_path / "last.ckpt"):
        resumed = plain_model()
        torch.manual_seed(123)
        trainer = tiny_trainer(tmp_path, callbacks=[WarmupEMA(), *checkpoints(tmp_path), StopAfterEpoch()])
        trainer.fit(resumed, tiny_data(), ckpt_path=ckpt_path, weights_only=True)
    assert_same(dict(resumed.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
    a, b = load(folder / "last.ckpt"), load(tmp_path / "last.ckpt")
    assert a["global_step"] == b["global_step"] == 9
    assert_same(a["current_model_state"], b["current_model_state"], atol=0, rtol=0)


def with_encoder(**options):
    """Lite on an encoder that learns more slowly than the rest."""
    torch.manual_seed(0)
    network = MedSegDiffLite(3, 1, "tiny", encoder="tu-mobilenetv3_small_050", encoder_frozen_norm=True).train()
    settings = {"image_size": (32, 32), "num_samples": 2, "num_steps": 2, "val_num_samples": 1, "val_num_steps": 1}
    return MedSegDiffSegmenter(network, **settings | {"warmup_steps": 2, "encoder_lr": 0.5} | options)


def test_resume_keeps_the_learning_rate_of_an_encoder(tmp_path):
    whole, parts = with_encoder(), tmp_path / "parts"
    tiny_trainer(tmp_path, max_steps=6).fit(whole, tiny_data(image_size=(32, 32)))
    for ckpt_path in (None, parts / "last.ckpt"):
        resumed = with_encoder()
        trainer = tiny_trainer(parts, max_steps=6, callbacks=[WarmupEMA(), *checkpoints(parts), StopAfterEpoch()])
        trainer.fit(resumed, tiny_data(image_size=(32, 32)), ckpt_path=ckpt_path, weights_only=True)
    assert_same(dict(resumed.state_dict()), dict(whole.state_dict()), atol=0, rtol=0)
    states = [load(folder / "last.ckpt") for folder in (tmp_path, parts)]
    groups = [[group["lr"] for group in state["optimizer_states"][0]["param_groups"]] for state in states]
    assert groups[0] == groups[1]


class StopAfterEpoch(Callback):
    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop = True


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_run_cut_off_in_mid_epoch_sees_every_draw_once(stop, tmp_path):
    record = RecordDraws()
    for max_steps, ckpt_path in ((stop, None), (9, tmp_path / "last.ckpt")):
        trainer = tiny_trainer(tmp_path, callbacks=[WarmupEMA(), *checkpoints(tmp_path), record], max_steps=max_steps)
        trainer.fit(plain_model(), tiny_data(), ckpt_path=ckpt_path, weights_only=True)
        assert (tmp_path / "best.ckpt").is_file()  # the last weights are validated, too
    assert record.draws == list(range(9 * 4))


class RecordDraws(Callback):
    def __init__(self):
        self.draws = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.draws += batch["draw"]


def test_a_finished_run_can_be_made_longer(whole_run, tmp_path):
    """A schedule whose state is restored would go on with a learning rate of zero."""
    folder, _, _ = whole_run
    model = plain_model()
    tiny_trainer(tmp_path, max_steps=15).fit(model, tiny_data(), ckpt_path=folder / "last.ckpt", weights_only=True)
    before, after = (load(path / "last.ckpt") for path in (folder, tmp_path))
    assert after["global_step"] == 15
    moved = [(after["current_model_state"][k] - v).abs().max() for k, v in before["current_model_state"].items()]
    assert max(moved) > 1e-5


class InterruptValidation(Callback):
    """Ctrl-C while the averaged weights are in place."""

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def test_interrupted_validation_leaves_a_right_checkpoint(whole_run, tmp_path):
    folder, model, _ = whole_run
    callbacks = [
        WarmupEMA(),
        *checkpoints(tmp_path),
        InterruptValidation(),
        OnExceptionCheckpoint(tmp_path, "interrupted"),
    ]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        tiny_trainer(tmp_path, callbacks=callbacks).fit(plain_model(), tiny_data())
    # What was being validated is the state after all nine steps: average and raw weights are each in their place.
    interrupted, finished = load(tmp_path / "interrupted.ckpt"), load(folder / "last.ckpt")
    for key in ("state_dict", "current_model_state"):
        assert_same(interrupted[key], finished[key], atol=0, rtol=0)
    # And the last whole epoch resumes to the uninterrupted result.
    resumed = plain_model()
    tiny_trainer(tmp_path).fit(resumed, tiny_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert_same(dict(resumed.state_dict()), dict(model.state_dict()), atol=0, rtol=0)


class RecordValidation(Callback):
    def __init__(self):
        self.seen = []

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.seen.append(copy_of(pl_module))


def test_average_is_used_and_saved_and_the_schedule_is_untouched(tmp_path):
    model, record = plain_model(), RecordValidation()
    before = model.process.alpha_bar.clone()
    trainer = tiny_trainer(tmp_path, callbacks=[WarmupEMA(), *checkpoints(tmp_path), record])
    trainer.fit(model, tiny_data())
    assert torch.equal(model.process.alpha_bar, before)
    saved = load(tmp_path / "last.ckpt")
    assert_same(record.seen[-1], saved["state_dict"], atol=0, rtol=0)
    assert any(
        not torch.equal(saved["state_dict"][name], value) for name, value in saved["current_model_state"].items()
    )
    # Testing after training loads the average, not the raw weights that the checkpoint also holds.
    trainer.test(model, tiny_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert_same(dict(model.state_dict()), saved["state_dict"], atol=0, rtol=0)


def test_short_runs_do_not_keep_their_initial_weights():
    ema, share = WarmupEMA(0.999), 1.0
    for n in range(60):
        share *= ema.decay_after(n)
    assert share < 0.01
    assert ema.decay_after(0) == 0
    assert ema.decay_after(10**6) == 0.999
    with pytest.raises(ValueError, match="decay"):
        WarmupEMA(1.0)


class RecordGradients(Callback):
    def __init__(self):
        self.gradients = None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.gradients is None:
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters()}
            if trainer.is_global_zero and trainer.world_size > 1:
                torch.save(self.gradients, f"{trainer.default_root_dir}/gradients.pt")


def gradients(folder, batch_size, make=tiny_model, **options):
    record = RecordGradients()
    data = tiny_data(batch_size=batch_size, steps_per_epoch=4)
    model = make(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    tiny_trainer(folder, callbacks=[record], max_steps=1, limit_val_batches=0, **options).fit(model, data)
    return record.gradients


def test_accumulation_gives_the_full_batchs_gradient(tmp_path):
    whole = gradients(tmp_path, 8)
    assert any(g.abs().max() > 1e-3 for g in whole.values())
    assert_same(gradients(tmp_path, 2, accumulate_grad_batches=4), whole, atol=1e-5, rtol=1e-3)


def member(network, **options):
    """Build a member of the family; a prior that counts at some time steps only leaves no process without gradients."""
    segmenter = MedSegDiffSegmenter(small(network).train(), image_size=(16, 16), noise_levels=2, **options)
    segmenter.prior_loss.every = 5
    return segmenter


def diffseg(**options):
    return DiffSegSegmenter(small(ClassConditionalUNet).train(), image_size=(16, 16), **options)


#: A head that tells whether raters outline anything, the masks of all raters, and the energy distance to them.
all_raters = partial(member, partial(MedSegDiffLite, presence=True), raters="all", energy_weight=1.0, num_steps=2)


@pytest.mark.parametrize(
    "make",
    [tiny_model, partial(member, MedSegDiffV2), partial(member, MedSegDiffLite), all_raters, diffseg],
    ids=["V1", "V2", "lite", "lite, all raters", "diffseg"],
)
def test_two_processes_give_the_gradient_of_one(make, tmp_path):
    """lucidrains' trainer goes around DDP, so that the processes' gradients differ."""
    whole = gradients(tmp_path, 8, make)
    assert any(g.abs().max() > 1e-3 for g in whole.values())
    gradients(tmp_path, 4, make, strategy="ddp_fork", devices=2)
    assert_same(torch.load(tmp_path / "gradients.pt", weights_only=True), whole, atol=1e-5, rtol=1e-3)


def test_two_processes_test_every_case_once(tmp_path):
    from diffmedseg.callbacks import CaseMetrics

    rows = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        options = {"strategy": "ddp_fork", "devices": 2} if devices == 2 else {}
        trainer = tiny_trainer(folder, callbacks=[CaseMetrics()], **options)
        trainer.test(tiny_model(), tiny_data(num_test=5), verbose=False)
        lines = (folder / "cases.csv").read_text().splitlines()
        rows[devices] = [line.rsplit(",", 1)[0].split(",") for line in lines]  # without the seconds
    assert [row[0] for row in rows[2]] == ["case", *[f"test-{i:04d}" for i in range(5)]]
    for one, two in zip(rows[1][1:], rows[2][1:], strict=True):
        assert one[:2] == two[:2]
        assert [float(x) for x in one[2:4]] == pytest.approx([float(x) for x in two[2:4]], abs=1e-3)


def test_training_learns(tmp_path):
    """A hundred and fifty steps on small synthetic lesions beat both trivial answers: nothing, and everything."""
    data = tiny_data(num_train=200, num_test=40, image_size=16, batch_size=8, steps_per_epoch=150)
    model = tiny_model(num_samples=4, num_steps=4, warmup_steps=10)
    model.optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=2e-3)
    tiny_trainer(tmp_path, max_steps=150).fit(model, data)
    data.setup("test")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    lesions = [(b["image"][i], b["mask"][i].bool()) for b in batches for i in range(len(b["id"])) if b["mask"][i].any()]
    predicted = model.segment(torch.stack([image for image, _ in lesions])).mask
    masks = torch.stack([mask for _, mask in lesions])

    def mean_dice(prediction):
        from diffmedseg.metrics import dice

        return float(dice(prediction, masks).mean())

    assert mean_dice(predicted) > mean_dice(torch.ones_like(masks)) + 0.2
    assert mean_dice(torch.zeros_like(masks)) == 0


@pytest.mark.parametrize("decay", [True, False])
def test_the_learning_rate_falls_to_zero_unless_it_is_to_stay(decay, tmp_path):
    model, data = tiny_model(cosine_decay=decay), tiny_data()
    trainer = tiny_trainer(tmp_path)
    trainer.fit(model, data)
    [rate] = trainer.lr_scheduler_configs[0].scheduler.get_last_lr()
    assert rate == pytest.approx(0 if decay else 1e-3, abs=1e-9)


class RecordLosses(Callback):
    """What is logged of each step, of the first process."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        losses = [*getattr(self, "losses", []), float(trainer.callback_metrics["train/loss"])]
        self.losses = losses
        if trainer.is_global_zero:
            torch.save(losses, f"{trainer.default_root_dir}/losses.pt")


def test_the_logged_loss_is_that_of_all_processes(tmp_path):
    found = {}
    for name, size, options in (("one", 4, {}), ("two", 2, {"strategy": "ddp_fork", "devices": 2})):
        data = tiny_data(batch_size=size, steps_per_epoch=4)
        (tmp_path / name).mkdir()
        settings = {"max_steps": 3, "limit_val_batches": 0, "log_every_n_steps": 2, **options}
        tiny_trainer(tmp_path / name, callbacks=[RecordLosses()], **settings).fit(tiny_model(), data)
        found[name] = torch.load(tmp_path / name / "losses.pt")
    assert found["two"][1:] == pytest.approx(found["one"][1:], rel=1e-4)  # a step that is written, and the last one
    assert found["two"][0] != pytest.approx(found["one"][0], rel=1e-4)  # processes do not wait for each other


def test_two_processes_that_accumulate_give_the_gradient_of_one(tmp_path):
    whole = gradients(tmp_path, 8)
    gradients(tmp_path, 2, strategy="ddp_fork", devices=2, accumulate_grad_batches=2)
    assert_same(torch.load(tmp_path / "gradients.pt", weights_only=True), whole, atol=1e-5, rtol=1e-3)


def test_two_processes_in_bfloat16(tmp_path):
    whole = gradients(tmp_path, 8, precision="bf16-mixed")
    gradients(tmp_path, 4, strategy="ddp_fork", devices=2, precision="bf16-mixed")
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    a, b = (torch.cat([one[name].flatten() for name in sorted(one)]) for one in (whole, found))
    assert (a - b).norm() < 0.05 * a.norm()


def test_half_precision_with_scaled_gradients():
    """16-mixed on a GPU: FFT and loss stay in float32, and no gradient overflows."""
    found = []
    batch = next(iter(ready(tiny_data(batch_size=4))))
    for enabled in (False, True):
        model, scaler = tiny_model(), torch.amp.GradScaler("cpu", enabled=enabled)
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            loss = model.training_loss(dict(batch))
        assert loss.dtype == torch.float32
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert found[1].isfinite().all()
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()


def ready(data):
    data.setup("fit")
    for batch in data.train_dataloader():
        yield data.on_after_batch_transfer(batch, 0)


class WithUnused(MedSegDiffLite):
    """A network of one's own with a layer that no loss reaches."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.unused = torch.nn.Linear(2, 2)


def test_unused_parameters_have_to_be_looked_for(tmp_path):
    def fit(strategy):
        torch.manual_seed(0)
        model = MedSegDiffSegmenter(WithUnused(3, 1, "tiny"), image_size=(16, 16))
        settings = {"max_steps": 2, "limit_val_batches": 0, "devices": 2, "strategy": strategy}
        tiny_trainer(tmp_path, callbacks=[], enable_checkpointing=False, **settings).fit(model, tiny_data())

    with pytest.raises(Exception, match="find_unused_parameters=True"):
        fit("ddp_fork")
    fit("ddp_fork_find_unused_parameters_true")


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_divide_weights_are_refused(strategy):
    class WithStrategy:
        pass

    trainer = WithStrategy()
    trainer.strategy = strategy()
    trainer.strategy._launcher = None
    with pytest.raises(NoRunError, match=r"divides the weights between the GPUs\. .* Use --trainer\.strategy ddp\."):
        check_strategy(trainer)
