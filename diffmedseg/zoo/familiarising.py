"""Adding the familiarity of images to an entry of a zoo that was made without it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from diffmedseg.atomic import write_whole
from diffmedseg.configurable import to_config
from diffmedseg.errors import ZooError
from diffmedseg.familiarity import Familiarity
from diffmedseg.files import file_sha256
from diffmedseg.zoo.card import familiarity_note
from diffmedseg.zoo.registry import CARD, CONFIG, REGISTRY, WEIGHTS, write_registry
from diffmedseg.zoo.source import Source


def add_familiarity(source: Source, name: str, familiarity: Familiarity) -> Path:
    """Write a familiarity into an entry's weights and config, and their new hashes into the registry.

    All other weights stay as they are, bit for bit. The old files lie beside the new ones until the registry is
    written: an interruption leaves an entry that is refused for its hashes, with the old files as ``*.before``.

    Args:
        source: The zoo, in a folder.
        name: Name of the entry.
        familiarity: Fitted with the entry's model.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the zoo cannot be written to, or the entry is damaged or has a familiarity already.
    """
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to. Set DIFFMEDSEG_ZOO to the folder of a zoo.")
    folder, entry = source.verified(name)
    name = folder.name
    config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text())
    if config["init_args"].get("familiarity"):
        raise ZooError(f"{name} has a familiarity already. Export the run again to replace it.")
    config["init_args"]["familiarity"] = to_config(familiarity)
    weights = load_file(folder / WEIGHTS)
    # Its numbers are those of float16.
    weights |= {f"familiarity.{key}": value.half().contiguous() for key, value in familiarity.state_dict().items()}
    text = yaml.safe_dump(config, sort_keys=False)
    for file in (CONFIG, WEIGHTS):
        (folder / f"{file}.before").write_bytes((folder / file).read_bytes())
    write_whole(folder / CONFIG, lambda temporary: temporary.write_text(text))
    write_whole(folder / WEIGHTS, lambda temporary: save_file(weights, temporary))
    for file in (CONFIG, WEIGHTS):
        (folder / file).chmod(0o644)  # safetensors writes for the owner alone
    hashes = {file: file_sha256(folder / file) for file in (CONFIG, WEIGHTS)}
    changed = replace(entry, bytes=(folder / WEIGHTS).stat().st_size, sha256=entry.sha256 | hashes)
    write_registry(source.folder / REGISTRY, source.entries() | {name: changed})
    for file in (CONFIG, WEIGHTS):
        (folder / f"{file}.before").unlink()
    with (folder / CARD).open("a") as card:
        card.write(f"\n{familiarity_note(familiarity.cases)}")
    return folder
