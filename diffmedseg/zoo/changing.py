"""Changes to entries that a zoo in a folder already has: other files, a new card, retirement."""

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

    The old files lie beside the new ones until the registry is written: an interruption leaves an entry that is
    refused for its hashes, with the old files as ``*.before``.

    Args:
        source: The zoo, in a folder.
        name: Name of the entry.
        contents: By name of the file.
        line: What changed, for the changelog.

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
    """Write the card of an entry again, by today's template, and return its folder.

    Raises:
        ZooError: If the zoo cannot be written to, or the entry is damaged.
    """
    _refuse_remote(source)
    folder, entry = source.verified(name)
    write_card(folder, folder.name, entry)
    return folder


def retire(source: Source, name: str, superseded_by: str, reason: str = "") -> None:
    """Remove an entry that another one replaces; whoever loads the old name is told the new one.

    Args:
        source: The zoo, in a folder.
        name: The entry to remove.
        superseded_by: The entry that replaces it.
        reason: Why, in one sentence.

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
                f"({', '.join(old.regions)}): name another trained entry with the same regions."
            )
        now = Retired(successor, old.version, reason)
        retired = {
            one: replace(found, superseded_by=successor) if found.superseded_by == name else found
            for one, found in read_retired(source.folder / REGISTRY).items()
        } | dict.fromkeys([name, *old.formerly], now)
        kept = {other: entry for other, entry in source.entries().items() if other != name}
        write_registry(source.folder / REGISTRY, kept, retired)
        shutil.rmtree(source.entry_folder(name))


def _register(source: Source, name: str, entry: Entry) -> None:
    write_card(source.folder / name, name, entry)
    write_registry(source.folder / REGISTRY, source.entries() | {name: entry})


def _refuse_remote(source: Source) -> None:
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to. Set DIFFMEDSEG_ZOO to the folder of a zoo.")
