"""The file that records which supervision pseudo masks needed."""

from pathlib import Path

from diffmedseg.errors import DataError

#: Name of the file, in a folder of pseudo masks. It describes the supervision in words.
SUPERVISION = "supervision.txt"


def read_supervision(folder: Path) -> str | None:
    """Return the supervision of the pseudo masks of a folder; None if the folder has no record (true masks).

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    path = folder / SUPERVISION
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): make the pseudo masks again, in a new folder.") from error
    if not text:
        raise DataError(f"{path} is empty: it has to name the supervision. Make the masks again, in a new folder.")
    return text
