"""Pictures with any number of mask files. The number of raters may differ between pictures."""

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
from diffmedseg.wording import count, first_names, plain_pattern

_log = logging.getLogger(__name__)


class RaterFiles(PictureLayout):
    """Find pictures and, for each picture, all files of masks with its name. Each file is a rater.

    Raters have no identity: the first masks of two pictures may be of different persons.

    Args:
        image: Regular expression of a picture's path, with ``/`` between folders and without suffix. Group ``id``
            finds the masks.
        masks: Regular expression of a mask's path, in the same form. Group ``id`` is the id of its picture. Group
            ``rater`` distinguishes the masks of a picture.
        region: Name of the outlined region.
        most: Largest number of raters of a picture. More raters are refused.
        name: Name of a picture, with groups of ``image`` in braces.
        patients: Name of a CSV file of patients with the columns ``patient_columns``. A picture that it does not name
            is its own patient. None without such a file.
        patient_columns: The column with the picture's name, then the columns with its patient. The first patient
            column that is not empty counts.
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
        """Return the largest number of raters of a picture."""
        return self.most

    def search(self, root: Path) -> Found:
        """Find pictures and masks; see the base class."""
        paths = files_below(root)
        files = named_files(root, paths, self.suffixes)
        masks = self._find_masks(files)
        patients, names, cases, without_mask = self._find_patients(paths), Names(), [], []
        for name, path in files:
            if not (match := self.image.fullmatch(name)):
                continue
            groups = {group: value or "" for group, value in match.groupdict().items()}
            case = self.name.format(**groups).replace("/", "_")
            names.add(case, path)
            by_rater = masks.pop(comparable(groups["id"]), {})
            if len(by_rater) > self.most:
                listed = first_names([mask.name for mask in by_rater.values()])
                raise DataError(
                    f"{path} has {len(by_rater)} masks; expected at most {self.most}: {listed}. Remove files that "
                    "belong to no rater, or set layout.most",
                    [case],
                )
            if by_rater:
                mask_files = tuple((mask,) for _, mask in sorted(by_rater.items()))
                cases.append(PictureCase(case, patients.get(case, groups.get("patient") or case), path, mask_files))
            else:
                without_mask.append(case)
        if not cases:
            raise nothing_found(
                root, len(names), self.image.pattern, [plain_pattern(self.masks.pattern)], paths, self.suffixes
            )
        unpaired = [mask.relative_to(root).as_posix() for by_rater in masks.values() for mask in by_rater.values()]
        return Found(_of_equal_length(sorted(cases, key=lambda case: case.id)), without_mask, sorted(unpaired))

    def _find_masks(self, files: Sequence[tuple[str, Path]]) -> dict[str, dict[str, Path]]:
        """Return the masks by id of the picture, then by rater."""
        masks: dict[str, dict[str, Path]] = defaultdict(dict)
        for name, path in files:
            if match := self.masks.fullmatch(name):
                of_picture, rater = masks[comparable(match["id"])], comparable(match["rater"])
                if rater in of_picture:
                    raise DataError(
                        f"Two files are the mask of the same rater: {of_picture[rater]} and {path}. Keep one."
                    )
                of_picture[rater] = path
        return masks

    def _find_patients(self, paths: Sequence[Path]) -> dict[str, str]:
        """Return the patients by picture, from the table of patients."""
        tables = [path for path in paths if path.name == self.patients]
        if self.patients is None:
            return {}
        if len(tables) != 1:
            fault = "is missing" if not tables else f"occurs {len(tables)} times"
            _log.warning("%s %s. Pictures of one patient may be in several splits.", self.patients, fault)
            return {}
        return read_patients(tables[0], self.patient_columns)

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return FileMasks(cases)


def _of_equal_length(cases: Sequence[PictureCase]) -> list[PictureCase]:
    """Give all cases the same number of raters; the added raters did not outline the picture."""
    most = max(len(case.masks) for case in cases)
    return [
        PictureCase(case.id, case.patient, case.image, case.masks + (None,) * (most - len(case.masks)))
        for case in cases
    ]


def read_patients(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """Read the patient of each picture.

    Args:
        path: A CSV file.
        columns: The column with the picture's name, then the columns with its patient. The first patient column that is
            not empty counts.

    Raises:
        DataError: If the file is damaged or lacks a column; the message names the file.
    """
    key, *patient_columns = columns
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = set(columns) - set(rows.fieldnames or ())
            if missing:
                raise DataError(f"{path} has no column {first_names(missing)}: download it again", [path.name])
            patients = {}
            for row in rows:
                patient = next((f"{column}:{row[column]}" for column in patient_columns if row[column]), None)
                if patient is not None:
                    patients[row[key]] = patient
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of patients ({error})", [path.name]) from error
    _log.info("%s names the patient of %s.", path.name, count(len(patients), "picture"))
    return patients
