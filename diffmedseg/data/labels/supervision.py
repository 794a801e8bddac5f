"""What a folder of pseudo masks says of the supervision that they took."""

from pathlib import Path

from diffmedseg.errors import DataError

#: File of a folder of pseudo masks: the supervision, in words.
SUPERVISION = "supervision.txt"


def read_supervision(folder: Path) -> str | None:
    """Return the supervision that the masks of a folder took; None where the folder does not say, as of true masks.

    Raises:
        DataError: If the file is damaged; names it.
    """
    path = folder / SUPERVISION
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): make the pseudo masks again, in a new folder.") from error
    if not text:
        raise DataError(f"{path} is empty: it has to say where the masks came from. Make them again, in a new folder.")
    return text
