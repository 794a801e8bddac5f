"""The folders of runs: ``<runs>/<experiment>/version_<n>``, found again when a run resumes."""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path

from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from diffmedseg.atomic import lock_folder, remove_temporaries
from diffmedseg.checkpoints import TO_RESUME, TO_TEST, CheckpointError, read_checkpoint
from diffmedseg.errors import NoRunError as NoRunError
from diffmedseg.files import expand_home

#: Environment variable with the run's folder, for the other processes of the run.
RUN_FOLDER = "DIFFMEDSEG_RUN_FOLDER"


def last_checkpoint(run: Path) -> Path:
    """Return the path of the checkpoint from which a run resumes."""
    return run / "checkpoints" / "last.ckpt"


def new_run(folder: Path, kind: str) -> Path:
    """Make the next free folder ``<folder>/<kind>_<n>``. No other run gets the same folder."""
    number = max((number for number, _ in _numbered(folder, kind)), default=-1) + 1
    while True:
        try:
            (folder / f"{kind}_{number}").mkdir(parents=True)
            return folder / f"{kind}_{number}"
        except FileExistsError:
            number += 1
        except FileNotFoundError:  # a failed start has just removed the empty parent folder
            continue


def newest_run(folder: Path) -> Path:
    """Return the newest training run of an experiment that has a checkpoint.

    Raises:
        NoRunError: If there is no such run.
    """
    numbered = [path for _, path in sorted(_numbered(folder, "version")) if last_checkpoint(path).is_file()]
    jobs = [path for path in folder.glob("version_job*") if last_checkpoint(path).is_file()]
    # Numbers are in the order of runs, ids of jobs are not.
    runs = sorted([*numbered[-1:], *jobs], key=lambda path: last_checkpoint(path).stat().st_mtime_ns)
    if not runs:
        raise NoRunError(
            f"There is no run to resume in {folder}: no version_*/checkpoints/last.ckpt. "
            "Train without --ckpt_path last first."
        )
    return runs[-1]


def _numbered(folder: Path, kind: str) -> list[tuple[int, Path]]:
    paths = folder.glob(f"{kind}_*") if folder.is_dir() else []
    return [(int(match[1]), path) for path in paths if (match := re.fullmatch(rf"{kind}_(\d+)", path.name))]


def experiment_folder(runs: str | Path, name: str) -> Path:
    """Return the folder of an experiment's runs.

    Args:
        runs: The folder of all runs.
        name: Name of the experiment; ``/`` groups experiments.

    Raises:
        NoRunError: If the name leads out of the folder of all runs.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
        raise NoRunError(
            f"{name!r} is no name of an experiment, since it leads out of {runs}. Choose another folder by --runs."
        )
    return Path(runs) / name


def shared_run(folder: Path, kind: str, command: Sequence[str]) -> Path:
    """Return the folder of a run. All its processes get the same folder, also after a restart.

    A requeued SLURM job and a torchrun that restarts its processes get their previous folder. Two commands of one job
    get two folders.

    Args:
        folder: Folder of the experiment.
        kind: Beginning of the folder's name.
        command: Arguments of the command line; they distinguish the commands of a job.

    Raises:
        NoRunError: If several processes cannot agree on a folder.
    """
    if RUN_FOLDER in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[RUN_FOLDER])
    digest = blake2b("\0".join(command).encode(), digest_size=4).hexdigest()
    if SLURMEnvironment.detect():  # not an interactive job
        run = folder / f"{kind}_job{slurm_job()}-{digest}"
        run.mkdir(parents=True, exist_ok=True)
    elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        run = _agreed_run(folder, kind, digest)
    elif "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise NoRunError(
            f"A launcher other than Lightning, srun and torchrun started {os.environ['WORLD_SIZE']} processes, which "
            f"cannot agree on a folder. Set {RUN_FOLDER} to one folder for all of them, or use torchrun."
        )
    else:
        run = new_run(folder, kind)
    os.environ[RUN_FOLDER] = str(run)
    return run


def slurm_job() -> str:
    """Return the id of the SLURM job (a requeued job keeps it); for a job array, the id of the task, such as 71_3."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _agreed_run(folder: Path, kind: str, digest: str) -> Path:
    """Let torchrun's first process make the folder. The agent keeps its name when it restarts the processes."""
    import torch.distributed as dist

    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, is_master=False)  # type: ignore[attr-defined]  # exported, not declared
    key = f"diffmedseg/{os.environ['TORCHELASTIC_RUN_ID']}/{kind}/{digest}"
    # The agents of several machines count restarts separately.
    restart = os.environ["TORCHELASTIC_RESTART_COUNT"] if os.environ.get("GROUP_WORLD_SIZE") == "1" else "0"
    if os.environ["RANK"] == "0":
        if not store.check([key]):
            store.set(key, str(new_run(folder, kind)))
        # The agent also keeps the addresses of ended processes, and new processes would try to connect to them
        # (https://github.com/pytorch/pytorch/issues/135712). Older versions of torch cannot list the keys.
        stale = store.list_keys() if hasattr(store, "list_keys") else []
        for name in stale:
            if name.startswith("default_pg/"):
                store.delete_key(name)
        store.set(f"{key}/{restart}", "ready")
    store.wait([f"{key}/{restart}"])
    return Path(store.get(key).decode())


def starting_checkpoint(ckpt_path: str | None, kind: str, experiment: Path) -> Path | None:
    """Return the checkpoint that a command names, after a check. ``last`` is the newest run's last checkpoint.

    Raises:
        NoRunError: If the experiment has no run to resume.
        CheckpointError: If the checkpoint is missing or damaged; the message has the remedy.
    """
    if ckpt_path is None or "://" in ckpt_path:
        return None
    is_last = ckpt_path == "last"
    path = last_checkpoint(newest_run(experiment)) if is_last else expand_home(ckpt_path)
    needs = TO_RESUME if kind == "fit" else TO_TEST
    try:
        read_checkpoint(path, needs)
    except CheckpointError as error:
        best = path.with_name("best.ckpt")
        if not is_last:
            raise
        remedy = f"Start from {best} in a new folder: --ckpt_path {best}. Or train" if best.is_file() else "Train"
        raise CheckpointError(f"{error} {remedy} again without --ckpt_path last.") from error
    return path


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies that do not support stopping, resuming and averaged weights.

    Forked or spawned processes do not report their progress to the first process, and signals do not reach them.
    Sharded weights have no average, and exact resuming needs checkpoints with complete weights.

    Raises:
        NoRunError: If the strategy is not supported; the message names a supported strategy.
    """
    method = getattr(trainer.strategy.launcher, "_start_method", None)
    if method is not None:
        raise NoRunError(
            f"A strategy that starts its processes by {method} cannot be stopped and resumed. Use --trainer.strategy "
            "ddp."
        )
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        raise NoRunError(
            f"{type(trainer.strategy).__name__} divides the weights between the GPUs. Averaged weights and exact "
            "resuming need complete weights, and the networks here fit on one GPU. Use --trainer.strategy ddp."
        )


_held: dict[Path, ExitStack] = {}  # the runs that this process writes to
_PATIENCE = 10  # seconds: workers of a killed process keep its lock for a while


@rank_zero_only
def hold_run(run: Path) -> None:
    """Lock a run's folder for training, until :func:`release_runs` or the end of this process.

    Raises:
        NoRunError: If another process trains in the folder.
    """
    run = run.resolve()
    if run in _held:
        return
    stack = ExitStack()
    try:
        stack.enter_context(lock_folder(run, _PATIENCE))
    except BlockingIOError as error:
        raise NoRunError(
            f"Another process is training in {run}. Wait for its end, or train in a new folder, without --ckpt_path "
            "last."
        ) from error
    _held[run] = stack


def release_runs() -> None:
    """Unlock all folders that this process locked."""
    while _held:
        _held.popitem()[1].close()


@rank_zero_only
def remove_leftovers(run: Path) -> None:
    """Remove the temporary files of killed processes from a run's folder."""
    remove_temporaries(run)
