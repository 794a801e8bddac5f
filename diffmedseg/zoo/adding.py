"""Adding an entry to a zoo in a folder: whole, or not at all."""

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from diffmedseg.atomic import lock_folder, temporary_folder
from diffmedseg.errors import ZooError
from diffmedseg.zoo.card import write_card
from diffmedseg.zoo.registry import (
    CARD,
    CASES,
    CONFIG,
    EXAMPLE,
    METRICS,
    PICTURE,
    REGISTRY,
    ROBUSTNESS,
    RUN,
    VERSION,
    WEIGHTS,
    Entry,
    read_retired,
    version_key,
    write_registry,
)
from diffmedseg.zoo.source import Source, current_source

_FILES = {CARD, CASES, CONFIG, EXAMPLE, METRICS, PICTURE, ROBUSTNESS, RUN, WEIGHTS}  # of an entry


@contextmanager
def new_entry(name: str, zoo: Path | None, version: str = "") -> Iterator[tuple[Path, Callable[[Entry], Path]]]:
    """Give a folder to write into, and what writes its card and puts it, whole, into the zoo and the registry.

    Args:
        name: Name of the entry.
        zoo: The zoo's folder; None for the current one.
        version: An entry of this name is replaced where its version is lower; empty for no entry at all.

    Raises:
        ZooError: If the name is taken, or the zoo is not a folder.
    """
    if version and not VERSION.fullmatch(version):
        raise ZooError(f"{version!r} is no version: give three numbers, such as 1.0.0.")
    source = current_source() if zoo is None else Source(zoo)
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to: name a folder, with --folder.")
    place = source.entry_folder(name)
    if not re.fullmatch(r"[^_.]+_[^.]+\..+", name):
        raise ZooError(
            f"{name!r} does not say what the entry is: model_data.tag, such as medsegdiff-lite_isic2017.mine."
        )

    def entries() -> dict[str, Entry]:
        return source.entries() if (source.folder / REGISTRY).is_file() else {}

    def refuse_taken() -> None:
        foreign = [path for path in place.glob("*") if path.name not in _FILES]
        old = entries().get(name)
        if foreign or place.is_file() or (old and not version):
            raise ZooError(f"{source.folder} has an entry {name!r} already: choose another tag.")
        if (source.folder / REGISTRY).is_file() and name in read_retired(source.folder / REGISTRY):
            raise ZooError(f"{source.folder} had an entry {name!r}, which is retired: choose another tag.")
        if old and version_key(version) <= version_key(old.version):
            raise ZooError(
                f"{source.folder} has an entry {name!r} already, of version {old.version}: choose another tag, or "
                "replace the entry by a higher --version."
            )

    refuse_taken()
    source.folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(place) as folder:
        folder.mkdir()

        def register(entry: Entry) -> Path:
            with lock_folder(source.folder, wait=math.inf):  # others may export at the same time
                refuse_taken()
                if old := entries().get(name):
                    entry = replace(entry, changelog=[*entry.changelog, *old.changelog], formerly=old.formerly)
                write_card(folder, name, entry)
                for path in folder.iterdir():
                    path.chmod(0o644)  # safetensors writes for the owner alone
                if place.is_dir():  # of a lower version, or of an export that was killed before it was registered
                    shutil.rmtree(place)
                os.replace(folder, place)
                write_registry(source.folder / REGISTRY, entries() | {name: entry})
            return place

        yield folder, register
