"""The source of a zoo: the package, a folder, a URL or the Hugging Face Hub."""

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

    Remote files are fetched once into the cache. A file gets its name only when it is complete and has the hash of the
    registry.

    Args:
        location: A folder, or a URL that fsspec reads: ``https://...``, ``hf://<owner>/<repository>``.
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
        """Read the registry. If a remote zoo cannot be reached, read the registry that was fetched last.

        Raises:
            ZooError: If there is no registry, it is damaged, or it is remote and was never fetched.
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
                warnings.warn(f"{error} The last fetched registry is used.", stacklevel=3)
        return read_registry(path)

    def entry_folder(self, name: str) -> Path:
        """Return the folder of an entry.

        Raises:
            ZooError: If the name leads out of the zoo.
        """
        folder = self.folder / name
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or folder.resolve().parent != self.folder.resolve():
            raise ZooError(
                f"{name!r} is no name of an entry, or leads out of {self.folder}. Use letters, digits, ., - and _."
            )
        return folder

    def verified(self, name: str) -> tuple[Path, Entry]:
        """Check the hashes of all files of an entry, and return its folder and its facts.

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
                raise ZooError(f"{path} is missing. Restore the entry or export it again.")
            _check(str(path), file_sha256(path), expected)
        return folder, entry

    @contextmanager
    def _writing(self, folder: Path) -> Iterator[None]:
        """Lock a folder of the cache for writing.

        Raises:
            ZooError: If the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with lock_folder(folder, wait=math.inf):
                yield
        except OSError as error:
            raise ZooError(
                f"{self.location} cannot be stored in {folder} ({error.strerror}). Set DIFFMEDSEG_CACHE to a writable "
                "folder with room."
            ) from error

    def _fetch_missing(self, name: str, folder: Path, entry: Entry) -> None:
        """Fetch the files of an entry that are missing or incomplete."""
        for file, expected in entry.sha256.items():
            path = folder / file
            if not (path.is_file() and file_sha256(path) == expected):
                fetched = self._fetch(f"{name}/{file}")
                _check(f"{self.location}/{name}/{file}", sha256(fetched).hexdigest(), expected)
                write_alone(path, lambda temporary, content=fetched: temporary.write_bytes(content))  # type: ignore[misc]

    def has(self, name: str) -> bool:
        """Return whether a name is the present or former name of an entry, or of a retired entry."""
        entries = self.entries()
        former = {old for entry in entries.values() for old in entry.formerly}
        return name in entries or name in former or name in read_retired(self.folder / REGISTRY)

    def nothing_named(self, name: str) -> ZooError:
        """Return the error for a name that is no file, run or entry; it suggests entries."""
        if "/" in name or Path(name).suffix == ".ckpt":
            return ZooError(f"There is no run or checkpoint {name}.")
        suggestion = suggest(name, sorted(self.entries()))
        return ZooError(f"{name} is no file, no run's folder and no entry of the zoo. {suggestion}")

    def find(self, name: str) -> tuple[str, Entry]:
        """Return the present name and the facts of an entry, by its present or a former name.

        Raises:
            ZooError: If there is no such entry; the message suggests similar names.
        """
        entries = self.entries()
        if name in entries:
            return name, entries[name]
        for new_name, entry in entries.items():
            if name in entry.formerly:
                warnings.warn(
                    f"The entry {name} is called {new_name} now. `diffmedseg zoo show {new_name}` says whether its "
                    "weights changed.",
                    FutureWarning,
                    stacklevel=4,
                )
                return new_name, entry
        if retired := read_retired(self.folder / REGISTRY).get(name):
            reason = f": {retired.reason.rstrip('.')}" if retired.reason else ""
            raise ZooError(f"The entry {name} was superseded by {retired.superseded_by}{reason}. Load that entry.")
        raise ZooError(f"{unknown('entry', name, sorted(entries))} The zoo is {self.location}.")

    def card(self, name: str) -> str:
        """Return the card of an entry. Cards have no hash.

        Raises:
            ZooError: If there is no such entry, or it has no card.
        """
        name, _ = self.find(name)
        folder = self.entry_folder(name)
        if self.remote:
            return self._fetch(f"{name}/{CARD}").decode(errors="replace")
        if not (folder / CARD).is_file():
            raise ZooError(f"{folder / CARD} is missing. Export the entry again.")
        return (folder / CARD).read_text(encoding="utf-8")

    def _address(self, file: str) -> str:
        return f"{self.location.rstrip('/')}/{file}"

    def _fetch(self, file: str) -> bytes:
        import fsspec  # type: ignore[import-untyped]

        address = self._address(file)
        try:
            remote = fsspec.open(address, "rb")
            if file == REGISTRY:
                remote.fs.invalidate_cache()  # forget earlier listings
            with remote as opened:
                content: bytes = opened.read()
        except Exception as error:  # every protocol has its own errors
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ZooError(f"{address} cannot be fetched ({reason}). Check the address and the network.") from error
        return content


def _check(file: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise ZooError(
            f"{file} has sha256 {digest}; expected {expected}. The file is damaged, incomplete or changed. Restore it."
        )


def current_source() -> Source:
    """Return the zoo at ``$DIFFMEDSEG_ZOO``, else the zoo of the installed package or the repository."""
    if location := os.environ.get("DIFFMEDSEG_ZOO"):
        return Source(location)
    return Source(packaged_zoo())


def packaged_zoo() -> Path:
    """Return the folder of the zoo in the installed package or the repository."""
    package = Path(__file__).parents[1]
    installed = package / "_zoo"
    return installed if installed.is_dir() else package.parent / "zoo"


def list_pretrained() -> list[str]:
    """Return the names of the entries with weights."""
    return sorted(name for name, entry in current_source().entries().items() if entry.status == "trained")


def filter_entries(entries: Mapping[str, Entry], data: str | None = None, task: str | None = None) -> dict[str, Entry]:
    """Return the entries for a data set or a task.

    Args:
        entries: Entries by name.
        data: Part of the name or title of the data set, such as ``isic``; case, spaces and signs do not matter.
        task: Part of the name of a region of the entry, such as ``lesion``.

    Raises:
        ZooError: If no entry fits; the message lists the data sets or regions.
    """
    if not entries:
        return {}
    titles = {name: [entry.data, entry.dataset] for name, entry in entries.items()}
    regions = {name: entry.regions for name, entry in entries.items()}
    known_titles = {entry.data for entry in entries.values()}
    known_regions = {region for entry in entries.values() for region in entry.regions}
    matches = set(entries)
    for kind, wanted, names, known in (
        ("data set", data, titles, known_titles),
        ("task", task, regions, known_regions),
    ):
        if wanted is None:
            continue
        fitting = {name for name, labels in names.items() if any(_plain(wanted) in _plain(label) for label in labels)}
        if not fitting or not _plain(wanted):
            raise ZooError(f"No entry of the zoo is for the {kind} {wanted!r}. There are: {', '.join(sorted(known))}.")
        matches &= fitting
    if not matches:
        raise ZooError(f"No entry of the zoo is for the data set {data!r} and the task {task!r}.")
    return {name: entries[name] for name in sorted(matches)}


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())
