"""Pictures with as many masks as there are files of them: the number of raters may differ from picture to picture."""

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from diffmedseg.data.pictures.cases import CaseMasks, Found, PictureCase, PictureLayout
from diffmedseg.data.pictures.finding import Names, named_files, nothing_found
from diffmedseg.data.pictures.masks import FileMasks
from diffmedseg.errors import DataError
from diffmedseg.reading.names import PICTURES, comparable, files_below
from diffmedseg.wording import count, first_names

_log = logging.getLogger(__name__)


class RaterFiles(PictureLayout):
    """Finds pictures, and for each all files of masks that bear its name; each file is a rater.

    Raters have no identity: the first mask of one picture and that of another need not be of the same person.

    Args:
        image: Regular expression of a picture's path, with ``/`` between folders and without suffix. Its group ``id``
            is what masks are found by.
        masks: Regular expression of a mask's path, likewise; ``id`` is that of its picture, and ``rater`` tells the
            masks of a picture apart.
        region: Name of what is outlined.
        most: The most raters a picture has. More are refused.
        name: A picture's name; groups of ``image`` stand in braces.
        patients: Name of a CSV file that tells the patients; its columns are ``patient_columns``. Pictures that it does
            not name are patients of their own. None where nothing tells the patients.
        patient_columns: The column of a picture's name, and those of its patient: the first that is not empty counts.
    """

    suffixes: tuple[str, ...] = PICTURES

    def __init__(
        self,
        image: str,
        masks: str,
        region: str,
        most: int,
        name: str = "{id}",
        patients: str | None = None,
        patient_columns: Sequence[str] = ("isic_id", "patient_id", "lesion_id"),
    ) -> None:
        self.image, self.masks = (re.compile(pattern, re.IGNORECASE) for pattern in (image, masks))
        for pattern, groups in ((self.image, {"id"}), (self.masks, {"id", "rater"})):
            if missing := groups - set(pattern.groupindex):
                raise ValueError(f"{pattern.pattern!r} has no group {', '.join(sorted(missing))}.")
        if most < 1:
            raise ValueError(f"most is {most}; expected at least 1 rater.")
        self.region, self.most, self.name = region, most, name
        self.patients, self.patient_columns = patients, list(patient_columns)

    @property
    def regions(self) -> tuple[str, ...]:
        """The one region."""
        return (self.region,)

    def raters(self, root: Path) -> int:
        """Return the most raters that a picture has."""
        return self.most

    def search(self, root: Path) -> Found:
        """Find pictures and masks; see the base class."""
        paths = files_below(root)
        files = named_files(root, paths, self.suffixes)
        masks = self._find_masks(files)
        patients, names, cases, without = self._find_patients(paths), Names(), [], []
        for name, path in files:
            if not (match := self.image.fullmatch(name)):
                continue
            groups = {group: value or "" for group, value in match.groupdict().items()}
            case = self.name.format(**groups).replace("/", "_")
            names.add(case, path)
            found = masks.pop(comparable(groups["id"]), {})
            if len(found) > self.most:
                some = first_names([mask.name for mask in found.values()])
                raise DataError(
                    f"{path} has {len(found)} masks; expected at most {self.most}: {some}. Remove those of no rater, "
                    "or set layout.most",
                    [case],
                )
            if found:
                files_of = tuple((mask,) for _, mask in sorted(found.items()))
                cases.append(PictureCase(case, patients.get(case, groups.get("patient") or case), path, files_of))
            else:
                without.append(case)
        if not cases:
            raise nothing_found(root, len(names), self.image.pattern, [self.masks.pattern], paths, self.suffixes)
        alone = [mask.relative_to(root).as_posix() for found in masks.values() for mask in found.values()]
        return Found(_of_equal_length(sorted(cases, key=lambda case: case.id)), without, sorted(alone))

    def _find_masks(self, files: Sequence[tuple[str, Path]]) -> dict[str, dict[str, Path]]:
        """Return the masks of each picture, by its id and the rater."""
        masks: dict[str, dict[str, Path]] = defaultdict(dict)
        for name, path in files:
            if match := self.masks.fullmatch(name):
                of_picture, rater = masks[comparable(match["id"])], comparable(match["rater"])
                if rater in of_picture:
                    raise DataError(f"Two files are the same mask: {of_picture[rater]} and {path}. Keep one.")
                of_picture[rater] = path
        return masks

    def _find_patients(self, paths: Sequence[Path]) -> dict[str, str]:
        """Return the patient of each picture that the table of patients names."""
        tables = [path for path in paths if path.name == self.patients]
        if self.patients is None:
            return {}
        if len(tables) != 1:
            found = "is not there" if not tables else f"is there {len(tables)} times"
            _log.warning("%s %s: pictures of one patient may be in several splits.", self.patients, found)
            return {}
        return read_patients(tables[0], self.patient_columns)

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return what reads the masks of these pictures."""
        return FileMasks(cases)


def _of_equal_length(cases: Sequence[PictureCase]) -> list[PictureCase]:
    """Fill up the raters of each case with such as did not outline it."""
    most = max(len(case.masks) for case in cases)
    return [
        PictureCase(case.id, case.patient, case.image, case.masks + (None,) * (most - len(case.masks)))
        for case in cases
    ]


def read_patients(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """Read who the patient of each picture is.

    Args:
        path: A CSV file.
        columns: The column of a picture's name, and those of its patient: the first that is not empty counts.

    Raises:
        DataError: If the file is damaged, or has no such columns; names it.
    """
    key, *others = columns
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = set(columns) - set(rows.fieldnames or ())
            if missing:
                raise DataError(f"{path} has no column {first_names(missing)}: download it again", [path.name])
            found = {}
            for row in rows:
                known = next((f"{column}:{row[column]}" for column in others if row[column]), None)
                if known is not None:
                    found[row[key]] = known
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of patients ({error})", [path.name]) from error
    _log.info("%s tells the patient of %s.", path.name, count(len(found), "picture"))
    return found
