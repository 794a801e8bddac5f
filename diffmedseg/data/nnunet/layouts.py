"""Layouts of raw data sets of nnU-Net, for the data modules of volumes and of pictures."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.mri.finding import chosen, patient_of
from diffmedseg.data.mri.layout import Case, Layout, RawCase, assemble
from diffmedseg.data.nnunet.description import read_description
from diffmedseg.data.nnunet.files import find_files
from diffmedseg.data.pictures.cases import CaseMasks, Found, PictureCase, PictureLayout
from diffmedseg.data.pictures.masks import FileMasks
from diffmedseg.errors import DataError
from diffmedseg.reading.masks import read_values, whole_labels
from diffmedseg.reading.volumes import read_volume
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk


class NnUNetVolumes(Layout):
    """A file per case and channel in imagesTr, and a label map per case in labelsTr.

    Args:
        channels: Names of the channels, in the order of their numbers.
        case: Regular expression of the whole name of a case. Group ``patient``, if there is one, is the patient.
        modalities: The channels to read, in order; None for all.
    """

    def __init__(self, channels: Sequence[str], case: str, modalities: Sequence[str] | None = None) -> None:
        self.case, self.modalities = re.compile(case), tuple(chosen("modalities", modalities, channels))
        self.order = [list(channels).index(name) for name in self.modalities]

    def find(self, root: Path) -> list[Case]:
        """Find the cases; see the base class."""
        return [
            Case(case.id, patient_of(self.case, case.id), tuple(case.images[n] for n in self.order), (case.label,))
            for case in find_files(read_description(root)).cases
        ]

    def masks_alone(self, root: Path) -> list[Path]:
        """Return the label maps without an image; see the base class."""
        return find_files(read_description(root)).labels_alone

    def read(self, case: Case, allowed: set[int]) -> RawCase:
        """Read a case; see the base class."""
        return assemble([read_volume(path) for path in case.images], case, allowed, _exact_labels)


def _exact_labels(volume: "sitk.Image", allowed: set[int], path: Path) -> NDArray[np.uint8]:
    """Return the values of a label map, (D, H, W).

    Raises:
        DataError: If a value is not in dataset.json; the message names the file.
    """
    import SimpleITK as sitk

    values = whole_labels(sitk.GetArrayFromImage(volume))
    unknown = sorted(set(np.unique(values).tolist()) - allowed - {0})
    if unknown:
        raise DataError(
            f"{path} has labels {first_names([f'{value:g}' for value in unknown], 5)}; dataset.json names "
            f"{', '.join(map(str, sorted(allowed | {0})))}. Name all labels there, or correct the file"
        )
    labels: NDArray[np.uint8] = values.astype(np.uint8)
    return labels


class NnUNetPictures(PictureLayout):
    """A picture per case in imagesTr, CASE_0000, with all its channels, and a label map per case in labelsTr.

    Args:
        labels: The values of each region.
        ignore: The value of pixels with an unknown label; None if all labels are known.
        case: See :class:`NnUNetVolumes`.
    """

    def __init__(self, labels: Mapping[str, Sequence[int]], ignore: int | None, case: str) -> None:
        self.labels, self.ignore = {name: list(values) for name, values in labels.items()}, ignore
        self.case = re.compile(case)

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(self.labels)

    @property
    def settings(self) -> object:
        """Settings besides the files that change the masks; see the base class."""
        return self.labels, self.ignore

    def raters(self, root: Path) -> int:
        """Return 1: nnU-Net's data sets have one label map per case."""
        return 1

    def search(self, root: Path) -> Found:
        """Find pictures and label maps; see the base class."""
        description = read_description(root)
        files, cases = find_files(description), []
        for case in files.cases:
            if len(case.images) > 1:
                raise DataError(
                    f"{case.id} has {len(case.images)} pictures, one for each channel; expected one picture of 1 or 3 "
                    f"channels. Join them into {case.images[0].name}.", [case.id],
                )  # fmt: skip
            masks = ((case.label,) * len(self.labels),)
            unsure = None if self.ignore is None else case.label
            cases.append(PictureCase(case.id, patient_of(self.case, case.id), case.images[0], masks, unsure, unsure))
        return Found(cases, [], [path.relative_to(root).as_posix() for path in files.labels_alone])

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return _LabelMaps(cases, self.labels, self.ignore)


class _LabelMaps(FileMasks):
    """Read the regions and the ignore label of label maps."""

    def __init__(self, cases: Sequence[PictureCase], labels: Mapping[str, Sequence[int]], ignore: int | None) -> None:
        super().__init__(cases, labels, [0] if ignore is None else [0, ignore])
        self._ignore = ignore

    def field_of_view(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the pixels with a known label, (h, w). No other pixel is scored."""
        return None if case.field_of_view is None else self._values_of(case.field_of_view) != self._ignore

    def unsure(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read the pixels with an unknown label, (h, w). No training loss counts them."""
        return None if case.unsure is None else self._values_of(case.unsure) == self._ignore

    @staticmethod
    def _values_of(path: Path) -> NDArray[np.int64]:
        values: NDArray[np.int64] = read_values(path).astype(np.int64)
        return values
