"""What all layouts of pictures need to find files below a folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.reading.names import PICTURES, comparable, composed, listing
from diffmedseg.wording import first_names


def named_files(root: Path, paths: Sequence[Path], suffixes: tuple[str, ...] = PICTURES) -> list[tuple[str, Path]]:
    """Return the files of these suffixes, each with its path below the root, without suffix and with ``/``."""
    found = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if suffix := next((one for one in suffixes if name.lower().endswith(one)), None):
            found.append((composed(name[: -len(suffix)]), path))
    return found


class Names:
    """Refuses two pictures of the same name."""

    def __init__(self) -> None:
        self._seen: dict[str, Path] = {}

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._seen)

    def add(self, name: str, path: Path) -> None:
        """Take a picture.

        Raises:
            DataError: If another one has its name; names both files.
        """
        if other := self._seen.get(comparable(name)):
            raise DataError(f"Two pictures are called {name}: {other} and {path}. Keep one.")
        self._seen[comparable(name)] = path


def nothing_found(
    root: Path, pictures: int, image: str, masks: Sequence[str], paths: Sequence[Path], suffixes: Sequence[str]
) -> DataError:
    """Return the error of a folder that has no picture with a mask.

    Args:
        root: The folder.
        pictures: How many pictures it has.
        image: What the paths of pictures should be like.
        masks: What the paths of masks should be like.
        paths: All files below the folder.
        suffixes: Those of the files that are read.
    """
    there = listing(root) if root.is_dir() else "no such folder"
    endings = Counter(path.suffix.lower() for path in paths if path.suffix)
    unread = [
        f"{ending} ({count})"
        for ending, count in endings.most_common()
        if not any(s.endswith(ending) for s in suffixes)
    ]
    hint = f" Files in {', '.join(unread[:4])} are not read; {', '.join(suffixes)} are." if unread else ""
    if ".nii" not in suffixes and any(path.name.endswith((".nii", ".nii.gz")) for path in paths):
        hint += " NIfTI volumes are: the data set volumes takes them."
    if pictures:
        return DataError(f"None of the {pictures} pictures in {root} has a mask; expected {first_names(masks)}.{hint}")
    return DataError(f"No picture in {root}: expected {image}; there is {there}.{hint}")
