"""Raw data sets of nnU-Net as the data modules of volumes and of pictures read them."""

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
        channels: Names of the channels, by their numbers.
        case: Regular expression of a case's whole name; its group ``patient``, if there is one, is the patient.
        modalities: The channels that are read, in order; None for all.
    """

    def __init__(self, channels: Sequence[str], case: str, modalities: Sequence[str] | None = None) -> None:
        self.case, self.modalities = re.compile(case), tuple(chosen("modalities", modalities, channels))
        self.order = [list(channels).index(name) for name in self.modalities]

    def find(self, root: Path) -> list[Case]:
        """Find the cases; see the base class."""
        return [
            Case(one.id, patient_of(self.case, one.id), tuple(one.images[n] for n in self.order), (one.label,))
            for one in find_files(read_description(root)).cases
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
        DataError: If there is a value that dataset.json does not name.
    """
    import SimpleITK as sitk

    values = whole_labels(sitk.GetArrayFromImage(volume))
    unknown = sorted(set(np.unique(values).tolist()) - allowed - {0})
    if unknown:
        raise DataError(
            f"{path} has labels {first_names([f'{value:g}' for value in unknown], 5)}; dataset.json names "
            f"{', '.join(map(str, sorted(allowed | {0})))}: name all labels there, or write the file again"
        )
    labels: NDArray[np.uint8] = values.astype(np.uint8)
    return labels


class NnUNetPictures(PictureLayout):
    """A picture per case in imagesTr, CASE_0000, with all its channels, and a label map per case in labelsTr.

    Args:
        labels: By region the values that belong to it.
        ignore: The value of pixels whose label is not known; None where all are known.
        case: As of :class:`NnUNetVolumes`.
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
        """What the masks depend on beside their files; see the base class."""
        return self.labels, self.ignore

    def raters(self, root: Path) -> int:
        """Return 1: nnU-Net's data sets have one label map per case."""
        return 1

    def search(self, root: Path) -> Found:
        """Find pictures and label maps; see the base class."""
        description = read_description(root)
        found, cases = find_files(description), []
        for one in found.cases:
            if len(one.images) > 1:
                raise DataError(
                    f"{one.id} has a picture for each of {len(one.images)} channels. One picture of 1 or 3 channels is "
                    f"read: join them into {one.images[0].name}.", [one.id],
                )  # fmt: skip
            masks = ((one.label,) * len(self.labels),)
            doubted = None if self.ignore is None else one.label
            cases.append(PictureCase(one.id, patient_of(self.case, one.id), one.images[0], masks, doubted, doubted))
        return Found(cases, [], [path.relative_to(root).as_posix() for path in found.labels_alone])

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return what reads the masks of these pictures."""
        return _LabelMaps(cases, self.labels, self.ignore)


class _LabelMaps(FileMasks):
    """Reads the regions of label maps, and where the ignore label lies."""

    def __init__(self, cases: Sequence[PictureCase], labels: Mapping[str, Sequence[int]], ignore: int | None) -> None:
        super().__init__(cases, labels, [0] if ignore is None else [0, ignore])
        self._ignore = ignore

    def field_of_view(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read where labels are known, (h, w): nothing else is scored."""
        return None if case.field_of_view is None else self._values_of(case.field_of_view) != self._ignore

    def unsure(self, case: PictureCase) -> NDArray[np.bool_] | None:
        """Read where labels are not known, (h, w): no training loss looks at it."""
        return None if case.unsure is None else self._values_of(case.unsure) == self._ignore

    @staticmethod
    def _values_of(path: Path) -> NDArray[np.int64]:
        values: NDArray[np.int64] = read_values(path).astype(np.int64)
        return values
