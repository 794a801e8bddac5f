"""Masks as outlines in XML files."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.pictures.cases import CaseMasks, Found, PictureCase, PictureLayout
from diffmedseg.data.pictures.finding import Names, named_files, nothing_found
from diffmedseg.errors import DataError
from diffmedseg.reading.names import PICTURES, comparable, composed, files_below
from diffmedseg.reading.opening import image_size
from diffmedseg.reading.outlines import Outline, fill_outlines, read_outlines
from diffmedseg.wording import count


class XMLOutlines(PictureLayout):
    """Find pictures and, beside them, an XML file for each patient with the outlines in each picture, as in DDTI.

    All outlines of a picture make one mask. A picture without an outline is left out, because its file does not say
    whether the picture shows nothing or was not outlined.

    Args:
        image: Regular expression of a picture's file name without suffix. Group ``id`` is the picture's name,
            ``patient`` the patient, and ``number`` the picture's number in the XML file.
        outlines: Name of the XML file without suffix, with groups of ``image`` in braces.
        region: Name of the outlined region.
    """

    def __init__(self, image: str, outlines: str, region: str) -> None:
        self.image, self.outlines, self.region = re.compile(image, re.IGNORECASE), outlines, region
        if missing := {"id", "patient", "number"} - set(self.image.groupindex):
            raise ValueError(f"{image!r} has no group {', '.join(sorted(missing))}.")

    @property
    def regions(self) -> tuple[str, ...]:
        """The one region."""
        return (self.region,)

    def raters(self, root: Path) -> int:
        """Return 1."""
        return 1

    def search(self, root: Path) -> Found:
        """Find pictures and outlines; see the base class."""
        paths, names = files_below(root), Names()
        files = {comparable(name): path for name, path in named_files(root, paths, (".xml",))}
        outlined = _read_all(list(files.values()))
        cases, without_outlines = [], []
        for name, path in named_files(root, paths):
            folder, slash, last = name.rpartition("/")
            if match := self.image.fullmatch(last):
                groups = match.groupdict()
                names.add(groups["id"], path)
                file = files.get(comparable(folder + slash + self.outlines.format(**groups)))
                if file is not None and outlined[file].pop(int(groups["number"]), []):
                    cases.append(PictureCase(groups["id"], groups["patient"], path, ((file,),)))
                else:
                    without_outlines.append(groups["id"])
        if not cases:
            raise nothing_found(root, len(names), self.image.pattern, [f"{self.outlines}.xml"], paths, PICTURES)
        unpaired = [
            f"{file.relative_to(root).as_posix()} (picture {number})"
            for file, remaining in outlined.items()
            for number, outlines in remaining.items()
            if outlines
        ]
        return Found(sorted(cases, key=lambda case: case.id), without_outlines, unpaired)

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return OutlineMasks(self.image)


def _read_all(files: Sequence[Path]) -> dict[Path, dict[int, list[Outline]]]:
    """Read all files. The error names all damaged files."""
    outlines, damaged = {}, {}
    for file in files:
        try:
            outlines[file] = read_outlines(file)
        except DataError as error:
            damaged[file.name] = str(error)
    if damaged:
        reasons = "; ".join(list(damaged.values())[:3])
        more = f"; and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise DataError(
            f"{count(len(damaged), 'file')} of outlines cannot be used: {reasons}{more}. Correct each file, or remove "
            "it from the folder. Its pictures are then left out.",
            damaged,
        )
    return outlines


class OutlineMasks(CaseMasks):
    """Read the masks of pictures from their outlines.

    Args:
        image: See :class:`XMLOutlines`.
    """

    def __init__(self, image: re.Pattern[str]) -> None:
        self._image = image

    def read_rater(self, case: PictureCase, rater: int) -> list[NDArray[np.uint8]]:
        """Fill the outlines of a picture; see the base class."""
        [file] = case.masks[rater] or ()
        match = self._image.fullmatch(composed(case.image.stem))
        assert match is not None  # the pattern found this picture
        return [fill_outlines(read_outlines(file)[int(match["number"])], image_size(case.image), file)]
