"""Where a run is logged besides its CSV, and a logger that keeps a W&B run in the run's folder."""

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

# Where W&B keeps copies of artifacts and logs of its own, unless the user said another place.
_PLACES = [name for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name not in os.environ]
_ID_FILE = "run_id.txt"  # beside them in the run's folder


def default_logger() -> dict[str, Any] | None:
    """Return the config of the logger of a run that says nothing: W&B where the user has set it up, else none.

    That is, where ``WANDB_MODE`` is set or an API key is configured. Nobody is asked, and no server.
    """
    mode = os.environ.get("WANDB_MODE")
    if importlib.util.find_spec("wandb") is None or mode == "disabled" or not (mode or logged_in()):
        return None
    return {"class_path": "diffmedseg.dashboards.WandbRunLogger"}


def logged_in() -> bool:
    """Tell whether W&B has credentials: in the environment, or in the netrc file for its server."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    import wandb

    file = Path(os.path.expanduser(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb"))) / "settings"
    settings = wandb.Settings(settings_system=str(file), silent=True)
    settings.update_from_system_settings()  # may name a server of one's own
    settings.update_from_env_vars(dict(os.environ))
    return not known.keys().isdisjoint({urlsplit(settings.base_url).netloc, "api.wandb.ai"})


def wandb_id(folder: Path) -> str | None:
    """Return the id of the W&B run that a run's folder is logged to; None where there is none yet."""
    stored = folder / "wandb" / _ID_FILE
    if stored.is_file():
        return stored.read_text(encoding="utf-8").strip()
    # Runs from before the id was stored. W&B appends numbers to names of folders, not to those of the files in them.
    files = (folder / "wandb").glob("*run-*/run-*.wandb")
    first = min(files, key=lambda path: path.parent.name.removeprefix("offline-"), default=None)
    return None if first is None else first.stem.removeprefix("run-")


class WandbRunLogger(WandbLogger):
    """Logs to Weights & Biases from a run's folder, to the same W&B run where the run goes on.

    Without an API key the run is kept offline, in the folder, to be sent by ``wandb sync``; nobody is asked for one.
    What W&B would tell of the machine by itself (paths, the host's name, the console) is left out.

    Args:
        folder: The run's folder.
        project: The project; None for ``$WANDB_PROJECT``, else diffmedseg.
        entity: The user or team; None for ``$WANDB_ENTITY``, else the user's default.
        name: Name of the W&B run; None for ``$WANDB_NAME``, else that of the experiment and the folder.
        group: Shows runs together, such as the seeds of one setting.
        tags: To find it by.

    Raises:
        ModuleNotFoundError: If wandb is not installed; the message says what to do.
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
            raise ModuleNotFoundError("W&B is not installed: pip install 'diffmedseg[wandb]', or say --logger csv.")
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
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, and Lightning gives it always

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401  wandb's Run, which is imported where there is one
        """The W&B run, begun when first asked for; all that W&B writes is in the run's folder."""
        if self._experiment is None:
            for name in _PLACES:
                os.environ[name] = str((self.folder / "wandb").absolute())
            if self.is_kept:
                _log.info("No W&B API key: the run is kept in %s. Send it by: wandb sync <folder>", self.folder)
            started = super().experiment
            if not started.disabled:
                path, run_id = self.folder / "wandb" / _ID_FILE, str(started.id)
                write_whole(path, lambda temporary: temporary.write_text(run_id, encoding="utf-8"))
        return super().experiment

    @rank_zero_only
    def finish(self) -> None:
        """End the W&B run: what comes after it in this process is another."""
        if self._experiment is not None:
            self._experiment.finish()
            self._experiment = None
