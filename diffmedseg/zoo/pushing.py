"""Publishing an entry as a repository of the Hugging Face Hub, which is a zoo of this one entry."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffmedseg.errors import ZooError
from diffmedseg.zoo.registry import CARD, PICTURE, REGISTRY, Entry, read_registry, version_key, write_registry
from diffmedseg.zoo.source import Source

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TARGET = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)", re.ASCII)
_OF_THE_HUB = {".gitattributes"}  # files that the hub makes


def push(source: Source, name: str, target: str, dry_run: bool = False, private: bool = False) -> dict[str, int]:
    """Publish an entry: create the repository where there is none, and upload a zoo that holds this entry alone.

    ``DIFFMEDSEG_ZOO=hf://owner/name`` then loads it. The token is that of huggingface_hub: ``HF_TOKEN`` in the
    environment, or of its log-in.

    Args:
        source: The zoo that has the entry.
        name: Name of the entry.
        target: The repository, ``hf://owner/name``.
        dry_run: Upload nothing, and do not ask the hub.
        private: Whether a new repository is private.

    Returns:
        The size in bytes of each file of the repository.

    Raises:
        ZooError: If there is no such entry, the repository has other files or a newer version of the entry, there is no
            token, or the hub refuses or cannot be reached.
    """
    if not (found := _TARGET.fullmatch(target)):
        raise ZooError(f"{target!r} is no repository of the Hugging Face Hub: give hf://owner/name.")
    with _repository(source, name, target) as (folder, name, entry):
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        if not dry_run:
            _upload(folder, name, entry, found["repository"], private)
        return dict(sorted(sizes.items()))


@contextmanager
def _repository(source: Source, name: str, target: str) -> Iterator[tuple[Path, str, Entry]]:
    """Give a folder with all files of the repository, and the entry by its present name."""
    place, entry = source.verified(name)
    name, card = place.name, source.card(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / name).mkdir()
        for file in entry.sha256:
            shutil.copyfile(place / file, folder / name / file)
        (folder / name / CARD).write_text(card, encoding="utf-8")
        (folder / CARD).write_text(_front_page(card, name, target), encoding="utf-8")
        write_registry(folder / REGISTRY, {name: entry}, {})
        yield folder, name, entry


def _front_page(card: str, name: str, target: str) -> str:
    """Return the card as it is shown on the repository's page."""
    use = f"## From the Hub\n\n    DIFFMEDSEG_ZOO={target} diffmedseg predict {name} image.png --out masks\n"
    return f"{card.replace(f']({PICTURE})', f']({name}/{PICTURE})')}\n{use}"


def _upload(folder: Path, name: str, entry: Entry, repository: str, private: bool) -> None:
    """Create the repository where needed, and upload the folder in one commit."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if (token := get_token()) is None:
        raise ZooError("There is no token of the Hugging Face Hub: set HF_TOKEN to one that may write.")
    api = HfApi(token=token)
    try:
        if not _is_for(api, repository, name, entry):
            api.create_repo(repository, private=private)
        # Files that the entry no longer has are deleted.
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"{name} {entry.version}",
            delete_patterns=f"{name}/*",
        )
    except ZooError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        refused = "refuses the token" if status in {401, 403} else f"answers with status {status}"
        reason = _first_line(error.server_message or error)
        raise ZooError(f"The Hugging Face Hub {refused} for {repository} ({reason}): look at HF_TOKEN.") from error
    except Exception as error:  # the library of its network changes with its version
        raise ZooError(
            f"{repository} cannot be uploaded to {api.endpoint} ({_first_line(error)}): check the name and the network."
        ) from error


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")


def _is_for(api: "HfApi", repository: str, name: str, entry: Entry) -> bool:
    """Tell whether there is a repository; it holds this entry alone, of the same or a lower version, or nothing.

    Raises:
        ZooError: If the repository holds anything else.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        files = set(api.list_repo_files(repository)) - _OF_THE_HUB
    except RepositoryNotFoundError:
        return False
    foreign = sorted(file for file in files - {CARD, REGISTRY} if not file.startswith(f"{name}/"))
    if foreign or (CARD in files and REGISTRY not in files):
        raise ZooError(
            f"The repository {repository} has other files, such as {[*foreign, CARD][0]}: choose the name of a new "
            f"repository, or one that holds {name} alone."
        )
    there = _registry(api, repository).get(name) if REGISTRY in files else None
    if there and there != entry and version_key(entry.version) <= version_key(there.version):
        raise ZooError(
            f"The repository {repository} has version {there.version} of {name}, with other content: export this one "
            "with a higher --version."
        )
    return True


def _registry(api: "HfApi", repository: str) -> dict[str, Entry]:
    """Return the entries in a repository; its own cache is left out, which may be older."""
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repository, REGISTRY, local_dir=folder)
        return read_registry(Path(path), f"hf://{repository}/{REGISTRY}")
