"""Helpers of all layouts of pictures: find files below a folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.reading.names import PICTURES, comparable, composed, listing
from diffmedseg.wording import first_names, plain_pattern


def named_files(root: Path, paths: Sequence[Path], suffixes: tuple[str, ...] = PICTURES) -> list[tuple[str, Path]]:
    """Return the files with these suffixes. Each has its path relative to the root, without suffix and with ``/``."""
    files = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if suffix := next((end for end in suffixes if name.lower().endswith(end)), None):
            files.append((composed(name[: -len(suffix)]), path))
    return files


class Names:
    """Refuses two pictures of the same name."""

    def __init__(self) -> None:
        self._seen: dict[str, Path] = {}

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._seen)

    def add(self, name: str, path: Path) -> None:
        """Add a picture.

        Raises:
            DataError: If another picture has the same name; the message names both files.
        """
        if earlier := self._seen.get(comparable(name)):
            raise DataError(f"Two pictures have the name {name}: {earlier} and {path}. Keep one of them.")
        self._seen[comparable(name)] = path


def nothing_found(
    root: Path, pictures: int, image: str, masks: Sequence[str], paths: Sequence[Path], suffixes: Sequence[str]
) -> DataError:
    """Return the error for a folder without a picture that has a mask.

    Args:
        root: The folder.
        pictures: Number of pictures in it.
        image: Regular expression of the path of a picture.
        masks: The expected paths of masks.
        paths: All files below the folder.
        suffixes: Suffixes of the files that are read.
    """
    content = listing(root) if root.is_dir() else "no such folder"
    endings = Counter(path.suffix.lower() for path in paths if path.suffix)
    unread = [
        f"{ending} ({count})"
        for ending, count in endings.most_common()
        if not any(s.endswith(ending) for s in suffixes)
    ]
    hint = f" Not read: {', '.join(unread[:4])}. These are read: {', '.join(suffixes)}." if unread else ""
    if ".nii" not in suffixes and any(path.name.endswith((".nii", ".nii.gz")) for path in paths):
        hint += " For NIfTI volumes use the data set volumes."
    if pictures:
        return DataError(f"None of the {pictures} pictures in {root} has a mask; expected {first_names(masks)}.{hint}")
    return DataError(f"No picture in {root}: expected {plain_pattern(image)}; there is {content}.{hint}")
