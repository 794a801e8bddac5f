"""Change entries of a zoo in a folder: replace files, write a new card, retire an entry."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diffmedseg.atomic import lock_folder, write_whole
from diffmedseg.errors import ZooError
from diffmedseg.files import file_sha256
from diffmedseg.zoo.card import write_card
from diffmedseg.zoo.registry import (
    PICTURE,
    REGISTRY,
    WEIGHTS,
    Entry,
    Retired,
    raise_version,
    read_retired,
    write_registry,
)
from diffmedseg.zoo.source import Source


def replace_files(source: Source, name: str, contents: Mapping[str, bytes], line: str) -> Path:
    """Replace or add files of an entry; raise its version, write its card again, and register the new hashes.

    The old files are kept as ``*.before`` until the registry is written. After an interruption the hashes do not fit,
    so the entry is refused.

    Args:
        source: The zoo, in a folder.
        name: Name of the entry.
        contents: Content of each file, by name.
        line: The change, for the changelog.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the zoo cannot be written to, or the entry is damaged.
    """
    _refuse_remote(source)
    folder, entry = source.verified(name)
    with lock_folder(source.folder, wait=math.inf):
        old = [folder / file for file in contents if (folder / file).is_file()]
        for path in old:
            path.with_name(f"{path.name}.before").write_bytes(path.read_bytes())
        for file, content in contents.items():
            write_whole(folder / file, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
            (folder / file).chmod(0o644)
        hashes = {file: file_sha256(folder / file) for file in contents}
        changed = replace(raise_version(entry, line), sha256=entry.sha256 | hashes)
        if PICTURE in contents:
            changed = replace(changed, unpictured="")
        if (folder / WEIGHTS).is_file():
            changed = replace(changed, bytes=(folder / WEIGHTS).stat().st_size)
        _register(source, folder.name, changed)
        for path in old:
            path.with_name(f"{path.name}.before").unlink()
    return folder


def rewrite_card(source: Source, name: str) -> Path:
    """Write the card of an entry again, with the current template, and return its folder.

    Raises:
        ZooError: If the zoo cannot be written to, or the entry is damaged.
    """
    _refuse_remote(source)
    folder, entry = source.verified(name)
    write_card(folder, folder.name, entry)
    return folder


def retire(source: Source, name: str, superseded_by: str, reason: str = "") -> None:
    """Remove an entry that another entry replaces. Loading the old name then fails with the new name.

    Args:
        source: The zoo, in a folder.
        name: The entry to remove.
        superseded_by: The entry that replaces it.
        reason: The reason, in one sentence.

    Raises:
        ZooError: If the zoo cannot be written to, there is no such entry, or the successor is a recipe, has other
            regions, or is the entry itself.
    """
    _refuse_remote(source)
    with lock_folder(source.folder, wait=math.inf):
        (name, old), (successor, new) = source.find(name), source.find(superseded_by)
        if successor == name or new.status == "recipe" or old.regions != new.regions:
            raise ZooError(
                f"{successor} ({new.status}, {', '.join(new.regions)}) cannot replace {name} "
                f"({', '.join(old.regions)}). Name another trained entry with the same regions."
            )
        retirement = Retired(successor, old.version, reason)
        retired = {
            earlier: replace(record, superseded_by=successor) if record.superseded_by == name else record
            for earlier, record in read_retired(source.folder / REGISTRY).items()
        } | dict.fromkeys([name, *old.formerly], retirement)
        remaining = {other: entry for other, entry in source.entries().items() if other != name}
        write_registry(source.folder / REGISTRY, remaining, retired)
        shutil.rmtree(source.entry_folder(name))


def _register(source: Source, name: str, entry: Entry) -> None:
    write_card(source.folder / name, name, entry)
    write_registry(source.folder / REGISTRY, source.entries() | {name: entry})


def _refuse_remote(source: Source) -> None:
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to. Set DIFFMEDSEG_ZOO to the folder of a zoo.")
