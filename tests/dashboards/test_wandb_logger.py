import contextlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.composing import instantiate
from helpers.tiny_run import EXPERIMENTS, tiny_data, tiny_model, tiny_trainer
from helpers.wandb_offline import records
from lightning.pytorch.loggers import TensorBoardLogger

from diffmedseg.callbacks import WandbDashboard
from diffmedseg.dashboards import WandbRunLogger, default_logger
from diffmedseg.dashboards.logger import wandb_id
from diffmedseg.recipes import recipe

PAIR = recipe("medsegdiff-lite", "synthetic").files
CONFIG = {"class_path": "diffmedseg.dashboards.WandbRunLogger"}


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user who has never heard of W&B; returns their home."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def log_in(home, host="api.wandb.ai"):
    path = home / ".netrc"
    path.write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    path.chmod(stat.S_IRUSR)


def test_the_csv_alone_is_the_default_of_who_has_not_set_w_and_b_up(nobody):
    assert default_logger() is None
    log_in(nobody, "example.org")
    assert default_logger() is None


def test_w_and_b_is_the_default_where_it_is_set_up(nobody, monkeypatch):
    log_in(nobody)
    assert default_logger() == CONFIG
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert default_logger() is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    (nobody / ".netrc").unlink()
    assert default_logger() == CONFIG
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert default_logger() == CONFIG


def test_a_server_of_ones_own_is_known(nobody):
    log_in(nobody, "wandb.hospital.example")
    assert default_logger() is None
    (nobody / "config").mkdir()
    (nobody / "config" / "settings").write_text("[default]\nbase_url = https://wandb.hospital.example\n")
    assert default_logger() == CONFIG


def test_without_w_and_b_installed_the_default_is_the_csv_and_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert default_logger() is None
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'diffmedseg\[wandb\]'.*--logger csv"):
        WandbRunLogger(tmp_path)


@pytest.mark.parametrize("mode", [None, "online"])
def test_without_a_key_the_run_is_kept_and_nobody_is_asked(mode, nobody, monkeypatch):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    logger = WandbRunLogger(nobody / "run")
    logger.log_metrics({"a": 1.0}, 0)
    logger.finish()
    assert len(list((nobody / "run" / "wandb").glob("offline-run-*"))) == 1


def test_the_overlays_choose_the_logger(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    default = instantiate(PAIR).config_init.logger(tmp_path)
    assert isinstance(default, WandbRunLogger)
    assert instantiate([*PAIR, EXPERIMENTS / "logger" / "csv.yaml"]).config_init.logger is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert instantiate(PAIR).config_init.logger is None
    overlay = [*PAIR, EXPERIMENTS / "logger" / "wandb.yaml"]
    made = instantiate(overlay, "--logger.project=mine", "--logger.tags=[a]").config_init.logger(tmp_path)
    assert (made.name, made.save_dir, made._wandb_init["tags"]) == ("mine", str(tmp_path), ["a"])
    chosen = instantiate([*PAIR, EXPERIMENTS / "logger" / "tensorboard.yaml"]).config.logger
    assert chosen.class_path == "lightning.pytorch.loggers.TensorBoardLogger"
    assert instantiate(PAIR, "--logger=TensorBoardLogger").config.logger.class_path == chosen.class_path
    with contextlib.suppress(ModuleNotFoundError):  # TensorBoard is the user's to install
        assert Path(TensorBoardLogger(tmp_path, **chosen.init_args.as_dict()).log_dir) == tmp_path


def test_a_runs_id_is_that_of_its_first_w_and_b_run(tmp_path):
    assert wandb_id(tmp_path) is None
    for name, run_id in (("run-20260102_000000-b", "b"), ("offline-run-20260101_000000-a-1-1", "a-1"), ("run-x", None)):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        if run_id:
            (tmp_path / "wandb" / name / f"run-{run_id}.wandb").touch()
    (tmp_path / "wandb" / "latest-run").symlink_to("run-20260102_000000-b")
    assert wandb_id(tmp_path) == "a-1"
    assert WandbRunLogger(tmp_path).version == "a-1"


def test_a_run_that_goes_on_within_a_second_is_the_same_w_and_b_run(nobody, monkeypatch):
    """W&B then numbers its folders, and users delete the folders that were sent."""
    monkeypatch.setattr("wandb.Settings._start_datetime", "20260101_000000")
    kept = nobody / "run" / "wandb"

    def log(step):
        before = set(kept.glob("offline-run-*"))
        logger = WandbRunLogger(nobody / "run")
        logger.log_metrics({"a": 1.0}, step)
        logger.finish()
        [new] = set(kept.glob("offline-run-*")) - before
        [record] = records(new, "run")
        return new, record["run_id"]

    first, run_id = log(0)
    second, second_id = log(1)
    assert second.name == f"{first.name}-1"
    shutil.rmtree(first)
    _, third_id = log(2)
    assert {second_id, third_id} == {run_id}
    shutil.rmtree(first)
    (kept / "run_id.txt").unlink()  # as an earlier version left it
    assert wandb_id(nobody / "run") == run_id


@pytest.mark.parametrize("disabled", [False, True], ids=["no logger", "disabled"])
def test_the_dashboard_does_nothing_where_nothing_is_logged(disabled, tmp_path, monkeypatch):
    monkeypatch.setattr("diffmedseg.callbacks.wandb.overlay", lambda *_: pytest.fail("drew"))
    dashboard, logger = WandbDashboard(), WandbRunLogger(tmp_path) if disabled else False
    trainer = tiny_trainer(tmp_path, callbacks=[dashboard], logger=logger)
    trainer.test(tiny_model(), tiny_data(), verbose=False)
    assert not dashboard.shown.chosen()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_command_line_starts_without_w_and_b_installed():
    hidden = "import sys; sys.modules |= {'wandb': None, 'wandb_workspaces': None}"
    command = [sys.executable, "-c", f"{hidden}; import diffmedseg.cli.training"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
