"""Choose the logger of a run, and log a run to Weights & Biases from the run's folder."""

import importlib.util
import logging
import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from diffmedseg.atomic import write_whole

_log = logging.getLogger(__name__)

# Environment variables for W&B's own copies and logs; those that the user has set are left alone.
_FOLDER_VARIABLES = [name for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name not in os.environ]
_ID_FILE = "run_id.txt"  # in the folder wandb of the run


def default_logger() -> dict[str, Any] | None:
    """Return the config of the default logger: W&B if the user has set it up, otherwise None.

    W&B is set up if ``WANDB_MODE`` is set or an API key is configured. This asks neither the user nor a server.
    """
    mode = os.environ.get("WANDB_MODE")
    if importlib.util.find_spec("wandb") is None or mode == "disabled" or not (mode or logged_in()):
        return None
    return {"class_path": "diffmedseg.dashboards.WandbRunLogger"}


def logged_in() -> bool:
    """Return whether W&B has credentials, in the environment or in the netrc file for its server."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    import wandb

    file = Path(os.path.expanduser(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb"))) / "settings"
    settings = wandb.Settings(settings_system=str(file), silent=True)
    settings.update_from_system_settings()  # may name the user's own server
    settings.update_from_env_vars(dict(os.environ))
    return not hosts.keys().isdisjoint({urlsplit(settings.base_url).netloc, "api.wandb.ai"})


def wandb_id(folder: Path) -> str | None:
    """Return the id of the W&B run of a run's folder; None without a W&B run."""
    id_file = folder / "wandb" / _ID_FILE
    if id_file.is_file():
        return id_file.read_text(encoding="utf-8").strip()
    # Older runs did not store the id. W&B appends numbers to the names of folders, but not to the names of the files.
    files = (folder / "wandb").glob("*run-*/run-*.wandb")
    first = min(files, key=lambda path: path.parent.name.removeprefix("offline-"), default=None)
    return None if first is None else first.stem.removeprefix("run-")


class WandbRunLogger(WandbLogger):
    """Log to Weights & Biases from a run's folder. A resumed run continues the same W&B run.

    Without an API key the W&B run stays offline in the folder, and ``wandb sync`` can send it later. The user is never
    asked for a key. Facts of the machine that W&B would send (paths, the host's name, the console) are left out.

    Args:
        folder: The run's folder.
        project: The project; None for ``$WANDB_PROJECT``, else diffmedseg.
        entity: The user or team; None for ``$WANDB_ENTITY``, else the user's default.
        name: Name of the W&B run; None for ``$WANDB_NAME``, else the names of the experiment and the folder.
        group: Group of runs that W&B shows together, such as the seeds of one setting.
        tags: Tags of the W&B run.

    Raises:
        ModuleNotFoundError: If wandb is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError("W&B is not installed. Run pip install 'diffmedseg[wandb]', or use --logger csv.")
        self.folder = Path(folder)
        mode = os.environ.get("WANDB_MODE")
        self.is_kept = mode in {None, "online"} and not logged_in()
        super().__init__(
            name=name or os.environ.get("WANDB_NAME") or f"{self.folder.parent.name}/{self.folder.name}",
            save_dir=self.folder,
            version=wandb_id(self.folder),
            project=project or os.environ.get("WANDB_PROJECT") or "diffmedseg",
            entity=entity,
            group=group,
            tags=None if tags is None else list(tags),
            mode="offline" if self.is_kept else mode,
            settings={"console": "off", "host": "", "x_disable_meta": True, "disable_code": True},
        )
        self._wandb_init.pop("anonymous", None)  # Lightning always passes it, and W&B warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401  wandb's Run; wandb may not be installed
        """The W&B run, started at the first access. W&B writes all its files to the run's folder."""
        if self._experiment is None:
            for name in _FOLDER_VARIABLES:
                os.environ[name] = str((self.folder / "wandb").absolute())
            if self.is_kept:
                _log.info("No W&B API key: the W&B run stays in %s. To send it: wandb sync <folder>", self.folder)
            started = super().experiment
            if not started.disabled:
                path, run_id = self.folder / "wandb" / _ID_FILE, str(started.id)
                write_whole(path, lambda temporary: temporary.write_text(run_id, encoding="utf-8"))
        return super().experiment

    @rank_zero_only
    def finish(self) -> None:
        """End the W&B run. Later logs of this process go to another W&B run."""
        if self._experiment is not None:
            self._experiment.finish()
            self._experiment = None
