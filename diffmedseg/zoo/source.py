"""Where a zoo lies: in the package, in a folder, at a URL or on the Hugging Face Hub."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from diffmedseg.atomic import lock_folder, write_alone
from diffmedseg.errors import ZooError, suggest, unknown
from diffmedseg.files import cache_folder, expand_home, file_sha256
from diffmedseg.zoo.registry import CARD, REGISTRY, Entry, read_registry, read_retired


class Source:
    """A zoo, and the files of its entries.

    Files from elsewhere are fetched once, into the cache, and have their own names only when they are whole and have
    the hash that the registry says.

    Args:
        location: A folder, or a URL of one that fsspec reads: ``https://...``, ``hf://<owner>/<repository>``.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self.remote = "://" in self.location
        if self.remote:
            digest = sha256(self.location.encode()).hexdigest()[:16]
            self.folder = cache_folder() / "zoo" / digest
        else:
            self.folder = expand_home(self.location)

    def entries(self) -> dict[str, Entry]:
        """Read the registry; of a zoo elsewhere the newest, or the last one fetched where it cannot be reached.

        Raises:
            ZooError: If there is no registry, it is damaged, or it is elsewhere and was never fetched.
        """
        path = self.folder / REGISTRY
        if self.remote:
            try:
                fetched, address = self._fetch(REGISTRY), self._address(REGISTRY)
                with self._writing(self.folder):
                    write_alone(path, lambda copy: (copy.write_bytes(fetched), read_registry(copy, address)))
            except ZooError as error:
                if not path.is_file():
                    raise
                warnings.warn(f"{error} The registry that was fetched last is taken.", stacklevel=3)
        return read_registry(path)

    def entry_folder(self, name: str) -> Path:
        """Return the folder of an entry.

        Raises:
            ZooError: If its name would leave the zoo.
        """
        folder = self.folder / name
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or folder.resolve().parent != self.folder.resolve():
            raise ZooError(
                f"{name!r} is no name of an entry, or leaves {self.folder}: use letters, digits, ., - and _."
            )
        return folder

    def verified(self, name: str) -> tuple[Path, Entry]:
        """Return an entry's folder, all of whose files have the hashes of the registry, and what that says of it.

        Raises:
            ZooError: If there is no such entry, a file is missing or its hash is wrong.
        """
        name, entry = self.find(name)
        folder = self.entry_folder(name)
        if self.remote:
            with self._writing(folder):
                self._fetch_missing(name, folder, entry)
        for file, expected in entry.sha256.items():
            path = folder / file
            if not path.is_file():
                raise ZooError(f"{path} is missing: restore the entry or export it again.")
            _check(str(path), file_sha256(path), expected)
        return folder, entry

    @contextmanager
    def _writing(self, folder: Path) -> Iterator[None]:
        """Let one process at a time write to a folder of the cache.

        Raises:
            ZooError: If it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with lock_folder(folder, wait=math.inf):
                yield
        except OSError as error:
            raise ZooError(
                f"{self.location} cannot be kept in {folder} ({error.strerror}). Set DIFFMEDSEG_CACHE to a folder with "
                "room that may be written."
            ) from error

    def _fetch_missing(self, name: str, folder: Path, entry: Entry) -> None:
        """Fetch the files of an entry that are not there, or not whole."""
        for file, expected in entry.sha256.items():
            path = folder / file
            if not (path.is_file() and file_sha256(path) == expected):
                fetched = self._fetch(f"{name}/{file}")
                _check(f"{self.location}/{name}/{file}", sha256(fetched).hexdigest(), expected)
                write_alone(path, lambda temporary, content=fetched: temporary.write_bytes(content))  # type: ignore[misc]

    def has(self, name: str) -> bool:
        """Whether there is an entry of this name, or one that had it before, or a retired one."""
        entries = self.entries()
        former = {old for entry in entries.values() for old in entry.formerly}
        return name in entries or name in former or name in read_retired(self.folder / REGISTRY)

    def nothing_named(self, name: str) -> ZooError:
        """Return the error for a name that is no file, no run and no entry; it suggests entries."""
        if "/" in name or Path(name).suffix == ".ckpt":
            return ZooError(f"There is no run or checkpoint {name}.")
        said = suggest(name, sorted(self.entries()))
        return ZooError(f"{name} is no file, no run's folder and no entry of the zoo. {said}")

    def find(self, name: str) -> tuple[str, Entry]:
        """Return an entry by its name, or by one that it had before, with the name that it has now.

        Raises:
            ZooError: If there is none; the message suggests what is alike.
        """
        entries = self.entries()
        if name in entries:
            return name, entries[name]
        for now, entry in entries.items():
            if name in entry.formerly:
                warnings.warn(f"The entry {name} is called {now} now.", FutureWarning, stacklevel=4)
                return now, entry
        if retired := read_retired(self.folder / REGISTRY).get(name):
            reason = f": {retired.reason.rstrip('.')}" if retired.reason else ""
            raise ZooError(f"The entry {name} was superseded by {retired.superseded_by}{reason}. Load that entry.")
        raise ZooError(f"{unknown('entry', name, sorted(entries))} The zoo is {self.location}.")

    def card(self, name: str) -> str:
        """Return the card of an entry; it is for people, and has no hash.

        Raises:
            ZooError: If there is no such entry, or it has no card.
        """
        name, _ = self.find(name)
        folder = self.entry_folder(name)
        if self.remote:
            return self._fetch(f"{name}/{CARD}").decode(errors="replace")
        if not (folder / CARD).is_file():
            raise ZooError(f"{folder / CARD} is missing: export the entry again.")
        return (folder / CARD).read_text(encoding="utf-8")

    def _address(self, file: str) -> str:
        return f"{self.location.rstrip('/')}/{file}"

    def _fetch(self, file: str) -> bytes:
        import fsspec  # type: ignore[import-untyped]

        address = self._address(file)
        try:
            remote = fsspec.open(address, "rb")
            if file == REGISTRY:
                remote.fs.invalidate_cache()  # of what was there or missing when it was asked last
            with remote as opened:
                content: bytes = opened.read()
        except Exception as error:  # every protocol has its own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ZooError(f"{address} cannot be fetched ({reason}): check the address and the network.") from error
        return content


def _check(file: str, found: str, expected: str) -> None:
    if found != expected:
        raise ZooError(
            f"{file} has sha256 {found}, the registry says {expected}: the file is damaged, was cut off or was "
            "changed. Restore it."
        )


def current_source() -> Source:
    """Return the zoo: ``$DIFFMEDSEG_ZOO``, else the one in the installed package or in the repository."""
    if location := os.environ.get("DIFFMEDSEG_ZOO"):
        return Source(location)
    return Source(packaged_zoo())


def packaged_zoo() -> Path:
    """Return the folder of the zoo in the installed package or in the repository."""
    package = Path(__file__).parents[1]
    installed = package / "_zoo"
    return installed if installed.is_dir() else package.parent / "zoo"


def list_pretrained() -> list[str]:
    """Return the names of the entries that have weights."""
    return sorted(name for name, entry in current_source().entries().items() if entry.status == "trained")


def filter_entries(entries: Mapping[str, Entry], data: str | None = None, task: str | None = None) -> dict[str, Entry]:
    """Return the entries for a data set or a task.

    Args:
        entries: By name.
        data: Part of the name or title of the data set, such as ``isic``; case, spaces and signs do not matter.
        task: Part of the name of a region that the entry finds, such as ``lesion``.

    Raises:
        ZooError: If no entry fits; the message says which data sets and regions there are.
    """
    if not entries:
        return {}
    titles = {name: [entry.data, entry.dataset] for name, entry in entries.items()}
    regions = {name: entry.regions for name, entry in entries.items()}
    known_titles = {entry.data for entry in entries.values()}
    known_regions = {region for entry in entries.values() for region in entry.regions}
    found = set(entries)
    for kind, wanted, names, known in (
        ("data set", data, titles, known_titles),
        ("task", task, regions, known_regions),
    ):
        if wanted is None:
            continue
        fitting = {name for name, labels in names.items() if any(_plain(wanted) in _plain(one) for one in labels)}
        if not fitting or not _plain(wanted):
            raise ZooError(f"No entry of the zoo is for the {kind} {wanted!r}. There are: {', '.join(sorted(known))}.")
        found &= fitting
    if not found:
        raise ZooError(f"No entry of the zoo is for the data set {data!r} and the task {task!r}.")
    return {name: entries[name] for name in sorted(found)}


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())
