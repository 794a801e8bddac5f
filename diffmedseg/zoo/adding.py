"""Add an entry to a zoo in a folder: completely, or not at all."""

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
    """Yield a temporary folder, and a function that writes its card and moves it into the zoo and the registry.

    Args:
        name: Name of the entry.
        zoo: Folder of the zoo; None for the current zoo.
        version: Version of the entry. It replaces an entry of this name with a lower version; empty replaces none.

    Raises:
        ZooError: If the name is taken, or the zoo is not a folder.
    """
    if version and not VERSION.fullmatch(version):
        raise ZooError(f"{version!r} is no version. Give three numbers, such as 1.0.0.")
    source = current_source() if zoo is None else Source(zoo)
    if source.remote:
        raise ZooError(f"{source.location} cannot be written to. Name a folder by --folder.")
    target = source.entry_folder(name)
    if not re.fullmatch(r"[^_.]+_[^.]+\..+", name):
        raise ZooError(
            f"{name!r} is no name of an entry; expected model_data.tag, such as medsegdiff-lite_isic2017.mine."
        )

    def entries() -> dict[str, Entry]:
        return source.entries() if (source.folder / REGISTRY).is_file() else {}

    def refuse_taken() -> None:
        foreign = [path for path in target.glob("*") if path.name not in _FILES]
        old = entries().get(name)
        if foreign or target.is_file() or (old and not version):
            raise ZooError(f"{source.folder} has an entry {name!r} already. Choose another tag.")
        if (source.folder / REGISTRY).is_file() and name in read_retired(source.folder / REGISTRY):
            raise ZooError(f"{source.folder} had an entry {name!r}, which is retired. Choose another tag.")
        if old and version_key(version) <= version_key(old.version):
            raise ZooError(
                f"{source.folder} has an entry {name!r} already, of version {old.version}. Choose another tag, or "
                "replace the entry by a higher --version."
            )

    refuse_taken()
    source.folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target) as folder:
        folder.mkdir()

        def register(entry: Entry) -> Path:
            with lock_folder(source.folder, wait=math.inf):  # another process may export at the same time
                refuse_taken()
                if old := entries().get(name):
                    entry = replace(entry, changelog=[*entry.changelog, *old.changelog], formerly=old.formerly)
                write_card(folder, name, entry)
                for path in folder.iterdir():
                    path.chmod(0o644)  # safetensors gives access to the owner alone
                if target.is_dir():  # a lower version, or the rest of a killed export
                    shutil.rmtree(target)
                os.replace(folder, target)
                write_registry(source.folder / REGISTRY, entries() | {name: entry})
            return target

        yield folder, register
