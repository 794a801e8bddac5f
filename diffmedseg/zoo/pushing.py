"""Publish an entry as a repository of the Hugging Face Hub. The repository is a zoo with one entry."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffmedseg.errors import ZooError
from diffmedseg.hub import hub_is_unknown
from diffmedseg.zoo.registry import CARD, PICTURE, REGISTRY, Entry, read_registry, version_key, write_registry
from diffmedseg.zoo.source import Source

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TARGET = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)", re.ASCII)
_OF_THE_HUB = {".gitattributes"}  # files that the hub makes


def push(source: Source, name: str, target: str, dry_run: bool = False, private: bool = False) -> dict[str, int]:
    """Publish an entry: create the repository if needed, and upload a zoo with only this entry.

    ``DIFFMEDSEG_ZOO=hf://owner/name`` then loads it. The token is huggingface_hub's: ``HF_TOKEN`` in the environment,
    or the token of its log-in.

    Args:
        source: The zoo that has the entry.
        name: Name of the entry.
        target: The repository, ``hf://owner/name``.
        dry_run: Upload nothing, and do not contact the hub.
        private: Whether a new repository is private.

    Returns:
        The size in bytes of each file of the repository.

    Raises:
        ZooError: If there is no such entry, the repository has other files or a newer version of the entry, there is no
            token, or the hub refuses or cannot be reached.
    """
    if not (match := _TARGET.fullmatch(target)):
        raise ZooError(f"{target!r} is no repository of the Hugging Face Hub. Give hf://owner/name.")
    with _repository(source, name, target) as (folder, name, entry):
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        if not dry_run:
            _upload(folder, name, entry, match["repository"], private)
        return dict(sorted(sizes.items()))


@contextmanager
def _repository(source: Source, name: str, target: str) -> Iterator[tuple[Path, str, Entry]]:
    """Yield a folder with all files of the repository, the present name of the entry, and the entry."""
    entry_folder, entry = source.verified(name)
    name, card = entry_folder.name, source.card(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / name).mkdir()
        for file in entry.sha256:
            shutil.copyfile(entry_folder / file, folder / name / file)
        (folder / name / CARD).write_text(card, encoding="utf-8")
        (folder / CARD).write_text(_front_page(card, name, target), encoding="utf-8")
        write_registry(folder / REGISTRY, {name: entry}, {})
        yield folder, name, entry


def _front_page(card: str, name: str, target: str) -> str:
    """Return the card for the repository's page."""
    use = f"## From the Hub\n\n    DIFFMEDSEG_ZOO={target} diffmedseg predict {name} image.png --out masks\n"
    return f"{card.replace(f']({PICTURE})', f']({name}/{PICTURE})')}\n{use}"


def _upload(folder: Path, name: str, entry: Entry, repository: str, private: bool) -> None:
    """Create the repository if needed, and upload the folder in one commit."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if (token := get_token()) is None:
        raise ZooError("There is no token of the Hugging Face Hub. Set HF_TOKEN to a token with write access.")
    api = HfApi(token=token)
    if hub_is_unknown():
        raise ZooError(f"{repository} cannot be uploaded: the network does not know {api.endpoint}. Check the network.")
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
        raise ZooError(f"The Hugging Face Hub {refused} for {repository} ({reason}). Check HF_TOKEN.") from error
    except Exception as error:  # its network library differs between versions
        raise ZooError(
            f"{repository} cannot be uploaded to {api.endpoint} ({_first_line(error)}). Check the name and the network."
        ) from error


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")


def _is_for(api: "HfApi", repository: str, name: str, entry: Entry) -> bool:
    """Return whether the repository exists. It must be empty, or hold only this entry in the same or a lower version.

    Raises:
        ZooError: If the repository has other content.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        files = set(api.list_repo_files(repository)) - _OF_THE_HUB
    except RepositoryNotFoundError:
        return False
    foreign = sorted(file for file in files - {CARD, REGISTRY} if not file.startswith(f"{name}/"))
    if foreign or (CARD in files and REGISTRY not in files):
        raise ZooError(
            f"The repository {repository} has other files, such as {[*foreign, CARD][0]}. Choose the name of a new "
            f"repository, or a repository with only {name}."
        )
    published = _registry(api, repository).get(name) if REGISTRY in files else None
    if published and published != entry and version_key(entry.version) <= version_key(published.version):
        raise ZooError(
            f"The repository {repository} has version {published.version} of {name}, with other content. Export this "
            "entry with a higher --version."
        )
    return True


def _registry(api: "HfApi", repository: str) -> dict[str, Entry]:
    """Return the entries in a repository, without the hub's cache, which may be older."""
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repository, REGISTRY, local_dir=folder)
        return read_registry(Path(path), f"hf://{repository}/{REGISTRY}")
