"""Add the familiarity of images to an existing entry of a zoo."""

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save

from diffmedseg.configurable import to_config
from diffmedseg.errors import ZooError
from diffmedseg.familiarity import Familiarity
from diffmedseg.zoo.changing import replace_files
from diffmedseg.zoo.registry import CONFIG, WEIGHTS
from diffmedseg.zoo.source import Source


def add_familiarity(source: Source, name: str, familiarity: Familiarity) -> Path:
    """Write a familiarity into an entry's weights and config; see :func:`~diffmedseg.zoo.changing.replace_files`.

    All other weights stay the same, bit for bit.

    Args:
        source: The zoo, in a folder.
        name: Name of the entry.
        familiarity: The familiarity, fitted with the entry's model.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the zoo cannot be written to, or the entry is damaged or has a familiarity already.
    """
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to. Set DIFFMEDSEG_ZOO to the folder of a zoo.")
    folder, _ = source.verified(name)
    config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text())
    if config["init_args"].get("familiarity"):
        raise ZooError(f"{folder.name} has a familiarity already. Export the run again to replace it.")
    config["init_args"]["familiarity"] = to_config(familiarity)
    weights = load_file(folder / WEIGHTS)
    # Its values are exact in float16.
    weights |= {f"familiarity.{key}": value.half().contiguous() for key, value in familiarity.state_dict().items()}
    contents = {CONFIG: yaml.safe_dump(config, sort_keys=False).encode(), WEIGHTS: save(weights)}
    return replace_files(
        source, folder.name, contents, f"Warning of images unlike {familiarity.cases} validation cases."
    )
