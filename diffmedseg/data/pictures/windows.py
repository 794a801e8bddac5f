"""Read and write windows of pictures as CSV files."""

import csv
from collections.abc import Mapping
from pathlib import Path

from diffmedseg.atomic import write_alone
from diffmedseg.errors import DataError
from diffmedseg.reading.names import composed
from diffmedseg.reading.windows import CropWindow, check_inside
from diffmedseg.wording import first_names

COLUMNS = ("id", *CropWindow._fields)


def read_windows(path: Path, sizes: Mapping[str, tuple[int, int]] | None = None) -> dict[str, CropWindow]:
    """Read the windows of pictures: lines of ``id,left,top,width,height``, in pixels of the file.

    Args:
        path: The file.
        sizes: Height and width of the pictures by id. Each picture needs exactly one window. None accepts any picture.

    Raises:
        DataError: If the file is damaged, names a picture twice, or does not fit the pictures. The message names the
            file and the line.
    """
    windows: dict[str, CropWindow] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != COLUMNS:
                raise DataError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}.")
            for row in filter(None, reader):
                line = f"{path}, line {reader.line_num}"
                window, row[0] = _window(row, line), composed(row[0])
                if row[0] in windows:
                    raise DataError(f"{line}: {row[0]} has two windows. Keep one of the lines.")
                if sizes is not None:
                    _check(row[0], window, sizes, line)
                windows[row[0]] = window
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV of windows ({error}).") from error
    if missing := [name for name in sizes or () if name not in windows]:
        raise DataError(f"{path} has no window for {len(missing)} pictures: {first_names(missing)}. Add them.", missing)
    return windows


def _window(row: list[str], line: str) -> CropWindow:
    try:
        name, *numbers = row
        window = CropWindow(*map(int, numbers))
    except (TypeError, ValueError) as error:
        raise DataError(f"{line}: found {','.join(row)!r}; expected {','.join(COLUMNS)} in whole pixels.") from error
    if not name or min(window.left, window.top) < 0 or min(window.size) < 1:
        raise DataError(f"{line}: {','.join(row)!r} has no id, or its window lies outside the picture.")
    return window


def _check(name: str, window: CropWindow, sizes: Mapping[str, tuple[int, int]], line: str) -> None:
    if name not in sizes:
        raise DataError(f"{line}: there is no picture {name}. There are {first_names(sizes.keys())}.", [name])
    check_inside(window, sizes[name], f"{line}: the window of {name}")


def write_windows(path: Path, windows: Mapping[str, CropWindow]) -> None:
    """Write windows in the format of :func:`read_windows`."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((name, *window) for name, window in windows.items())

    write_alone(path, save)
