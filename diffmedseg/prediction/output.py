"""The folder that predictions are written to: whole files only, and a table that says what is there."""

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from PIL.ExifTags import Base

from diffmedseg.data.files import UNREADABLE
from diffmedseg.data.store import DataError
from diffmedseg.models.segmentation import Segmentation
from diffmedseg.prediction.pictures import PictureFile

MAPS = ("mask", "probability", "disagreement")


@dataclass(frozen=True)
class Row:
    """What is said of one region of one picture: a row of ``predictions.csv``.

    Attributes:
        image: The picture's name.
        region: The region.
        width: Width of the picture's file, in pixels.
        height: Height of the picture's file, in pixels.
        area: Pixels of the mask.
        area_fraction: The same as a fraction of the picture.
        uncertainty: 1 - soft Dice confidence, in [0, 1]: high where the model expects its mask to be wrong.
        seconds: Time to draw and fuse the samples; pictures of a batch share it.
    """

    image: str
    region: str
    width: int
    height: int
    area: int
    area_fraction: float
    uncertainty: float
    seconds: float


class PredictionFolder:
    """Writes maps and the table; every file appears whole or not at all.

    Args:
        folder: Where to write.
        regions: The model's regions.
        settings: What the results depend on; a folder never mixes results of different settings.
        resume: Go on with the results that are there.

    Raises:
        DataError: If there are results already and ``resume`` is not set, or they were made with other settings.
    """

    def __init__(self, folder: Path, regions: Sequence[str], settings: dict[str, Any], resume: bool) -> None:
        self.folder, self.regions = folder, tuple(regions)
        self.rows: dict[str, list[Row]] = {}
        settings = yaml.safe_load(yaml.safe_dump(settings))  # as it will be read again
        self._table, written = folder / "predictions.csv", folder / "predictions.yaml"
        if self._table.exists() or written.exists():
            if not resume:
                raise DataError(
                    f"{folder} holds predictions already: go on with them by --resume, or choose another folder."
                )
            self._check_settings(written, settings)
            self.rows = self._read_table()
        self._write(lambda temporary: temporary.write_text(yaml.safe_dump(settings, sort_keys=False)), written)

    def _check_settings(self, written: Path, settings: dict[str, Any]) -> None:
        try:
            before = yaml.safe_load(written.read_text())
            changed = [name for name in settings if before.get(name) != settings[name]]
        except (OSError, yaml.YAMLError, AttributeError) as error:
            raise DataError(f"{written} is missing or damaged ({error}): predict into another folder.") from error
        if changed:
            said = ", ".join(f"{name} {before.get(name)} then and {settings[name]} now" for name in changed)
            raise DataError(f"{self.folder} was predicted with other settings ({said}): choose another folder.")

    def _read_table(self) -> dict[str, list[Row]]:
        if not self._table.is_file():
            return {}
        types = {field.name: field.type for field in fields(Row)}
        rows: dict[str, list[Row]] = {}
        try:
            with self._table.open(newline="") as file:
                for line in csv.DictReader(file):
                    row = Row(**{name: kind(line[name]) for name, kind in types.items()})  # type: ignore[operator]
                    rows.setdefault(row.image, []).append(row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._table} is damaged ({error!r}): delete it, or predict into another folder."
            ) from error
        return rows

    def path(self, name: str, kind: str, region: str | None = None) -> Path:
        """Return where a map goes: ``<name>_<kind>.png``, or ``<name>_<region>_<kind>.png`` of several regions."""
        parts = [name, region, kind] if region is not None and len(self.regions) > 1 else [name, kind]
        return self.folder / f"{'_'.join(part for part in parts if part)}.png"

    def is_whole(self, picture: PictureFile, panel: bool) -> bool:
        """Whether all results of a picture are there, readable, of its size and newer than it."""
        rows = self.rows.get(picture.name, [])
        if [row.region for row in rows] != list(self.regions):
            return False
        paths = [self.path(picture.name, kind, region) for region in self.regions for kind in MAPS]
        try:
            changed = picture.path.stat().st_mtime_ns
            for path in paths + ([self.path(picture.name, "panel")] if panel else []):
                with Image.open(path) as image:
                    fits = path not in paths or image.size == (rows[0].width, rows[0].height)
                    image.verify()
                if not fits or path.stat().st_mtime_ns < changed:
                    return False
        except UNREADABLE:
            return False
        return True

    def write_maps(self, name: str, result: Segmentation, orientation: int) -> None:
        """Write mask (0 or 255), probability (0 to 255) and disagreement (255: an even split) of each region.

        Args:
            name: The picture's name.
            result: Its segmentation, laid out as its file.
            orientation: EXIF orientation of the file, handed on, so that viewers turn both alike.
        """
        exif = Image.Exif()
        if orientation != 1:
            exif[Base.Orientation] = orientation
        for k, region in enumerate(self.regions):
            maps = (result.mask[0, k], result.probability[0, k], 2 * result.uncertainty[0, k])
            for kind, values in zip(MAPS, maps, strict=True):
                levels = (values.float() * 255).round().byte().numpy()
                save = partial(Image.fromarray(levels).save, format="PNG", exif=exif)
                self._write(save, self.path(name, kind, region))

    @staticmethod
    def _write(save: Callable[[Path], object], path: Path) -> None:
        """Let ``save`` write to a temporary name, then give the file its own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            save(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def write_table(self, order: Sequence[str]) -> None:
        """Write ``predictions.csv``: the pictures of ``order`` first, then those of earlier calls."""
        names = [*dict.fromkeys([*order, *self.rows])]

        def save(temporary: Path) -> None:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Row)])
                writer.writeheader()
                writer.writerows(asdict(row) for name in names for row in self.rows.get(name, []))

        self._write(save, self._table)
