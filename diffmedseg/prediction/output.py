"""The folder that predictions are written to: whole files only, and a table that says what is there."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from PIL.ExifTags import Base

from diffmedseg.atomic import write_whole
from diffmedseg.data.files import first_names
from diffmedseg.data.store import DataError
from diffmedseg.models.segmentation import Segmentation
from diffmedseg.prediction.pictures import PictureFile, open_picture

MAPS = ("mask", "probability", "disagreement")


@dataclass(frozen=True)
class Row:
    """What is said of one region of one picture: a row of ``predictions.csv``.

    Attributes:
        image: The picture's name.
        region: The region.
        width: Width of the maps, in pixels.
        height: Height of the maps, in pixels.
        area: Pixels of the mask.
        area_fraction: The same as a fraction of the picture.
        uncertainty: 1 - soft Dice confidence, in [0, 1]: high where the model expects a low Dice. An empty mask beside
            any probability has 1: whatever is there, it would miss.
        seconds: Time to read and segment the picture and to write its maps; pictures of a batch share the sampling.
        digest: Digest of the picture's file.
    """

    image: str
    region: str
    width: int
    height: int
    area: int
    area_fraction: float
    uncertainty: float
    seconds: float
    digest: str


def file_digest(path: Path) -> str:
    """Digest a file's content."""
    return blake2b(path.read_bytes(), digest_size=8).hexdigest()


class PredictionFolder:
    """Writes maps and the table; every file appears whole or not at all, and nothing foreign is overwritten.

    One process at a time may write to a folder.

    Args:
        folder: Where to write; new, empty, or holding earlier predictions.
        regions: The model's regions.
        settings: What the results depend on; a folder never mixes results of different settings.
        resume: Go on with the results that are there.

    Raises:
        DataError: If the folder holds anything else; if it holds results and ``resume`` is not set, or they were made
            with other settings.
    """

    def __init__(self, folder: Path, regions: Sequence[str], settings: dict[str, Any], resume: bool) -> None:
        self.folder, self.regions = folder, tuple(regions)
        self.rows: dict[str, list[Row]] = {}
        self._settings = yaml.safe_load(yaml.safe_dump(settings))  # as it will be read again
        self._table, self._written = folder / "predictions.csv", folder / "predictions.yaml"
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file: name a folder to write to.")
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if there and self._written.name not in there:
            raise DataError(
                f"{folder} holds files that are not predictions ({first_names(there)}), which might be overwritten: "
                "choose a new folder."
            )
        rows = self._read_table()
        if not rows and set(there) <= {self._written.name, self._table.name}:
            return  # a call that came to nothing
        if not resume:
            raise DataError(f"{folder} holds predictions already: go on with them by --resume, or choose a new folder.")
        self._check_settings()
        self.rows = rows

    def _check_settings(self) -> None:
        try:
            before = yaml.safe_load(self._written.read_text(encoding="utf-8"))
            changed = [name for name in self._settings if before.get(name) != self._settings[name]]
        except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
            raise DataError(f"{self._written} is damaged ({error}): predict into a new folder.") from error
        if changed:
            said = ", ".join(f"{name} {before.get(name)} then and {self._settings[name]} now" for name in changed)
            raise DataError(f"{self.folder} was predicted with other settings ({said}): choose a new folder.")

    def _read_table(self) -> dict[str, list[Row]]:
        if not self._table.is_file():
            return {}
        types = {field.name: field.type for field in fields(Row)}
        rows: dict[str, list[Row]] = {}
        try:
            with self._table.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    row = Row(**{name: kind(line[name]) for name, kind in types.items()})  # type: ignore[operator]
                    rows.setdefault(row.image, []).append(row)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{self._table} is damaged ({error!r}): predict into a new folder.") from error
        return rows

    def path(self, name: str, kind: str, region: str | None = None) -> Path:
        """Return where a map goes: ``<name>_<kind>.png``, or ``<name>_<region>_<kind>.png`` of several regions."""
        parts = [name, region, kind] if region is not None and len(self.regions) > 1 else [name, kind]
        return self.folder / f"{'_'.join(part for part in parts if part)}.png"

    def _maps(self, name: str) -> list[Path]:
        return [self.path(name, kind, region) for region in self.regions for kind in MAPS]

    def is_whole(self, picture: PictureFile, panel: bool) -> bool:
        """Whether the results of just this picture are there, readable and of its size."""
        rows = self.rows.get(picture.name, [])
        if [row.region for row in rows] != list(self.regions):
            return False
        try:
            if rows[0].digest != file_digest(picture.path):
                return False
            for path in self._maps(picture.name):
                with open_picture(path) as image:
                    if image.size != (rows[0].width, rows[0].height):
                        return False
                    image.verify()
            return not panel or self.path(picture.name, "panel").is_file()
        except (DataError, OSError):
            return False

    def forget(self, names: Sequence[str]) -> None:
        """Remove what is there of pictures that are done anew: should that fail, nothing old stands for them."""
        for name in names:
            if self.rows.pop(name, None) is not None:
                for path in [*self._maps(name), self.path(name, "panel")]:
                    path.unlink(missing_ok=True)
        if self._table.is_file():
            self.write_table(list(self.rows))

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
                levels = Image.fromarray((values.float() * 255).round().byte().numpy())
                write_whole(self.path(name, kind, region), partial(levels.save, format="PNG", exif=exif))

    def write_table(self, order: Sequence[str]) -> None:
        """Write ``predictions.csv``: the pictures of ``order`` first, then those of earlier calls."""
        names = [*dict.fromkeys([*order, *self.rows])]

        def save(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Row)])
                writer.writeheader()
                writer.writerows(asdict(row) for name in names for row in self.rows.get(name, []))

        write_whole(self._table, save)

    def begin(self) -> None:
        """Write ``predictions.yaml``, which marks the folder as one of predictions.

        Raises:
            DataError: If the folder cannot be written.
        """
        text = yaml.safe_dump(self._settings, sort_keys=False)
        try:
            write_whole(self._written, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise DataError(f"Cannot write to {self.folder} ({error}): choose another folder.") from error
