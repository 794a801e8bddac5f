"""Assignment of a case's files to channels, by the names of the files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.reading.dicom import is_dicom
from diffmedseg.reading.names import is_hidden, stem, volume_files

# Words for the modalities in file names: BraTS of all years, MSD and BIDS.
_WORDS = {
    "t1": {"t1", "t1n", "t1w"},
    "t1ce": {"t1ce", "t1c", "t1gd", "t1post", "cet1w"},
    "t2": {"t2", "t2w"},
    "flair": {"flair", "t2f", "t2flair"},
}
_CONTRAST = {"ce", "gd", "gad", "gadolinium", "post", "postcontrast", "contrast"}
# Words in the names of masks and maps. Such a file is no image, even if its name has a modality.
_NO_IMAGE = {
    "seg", "segm", "segmentation", "mask", "brainmask", "label", "labels", "lesion", "prediction", "pred",
    "probability", "disagreement",
}  # fmt: skip


def words(name: str) -> list[str]:
    """Return the words of a name, in lower case, without the ``space-...`` part of BIDS, which is no modality."""
    return re.findall("[a-z0-9]+", re.sub(r"(?i)space-[a-z0-9]+", "", name.lower()))


def modality(name: str) -> str | None:
    """Return the modality of BraTS in a name; None if the name has none of the four, or more than one."""
    name_words = set(words(name))
    modalities = {known for known, names in _WORDS.items() if name_words & names}
    if "t1" in modalities and name_words & _CONTRAST:
        modalities = modalities - {"t1"} | {"t1ce"}
    if "flair" in modalities:  # often called T2 FLAIR
        modalities.discard("t2")
    return modalities.pop() if len(modalities) == 1 else None


def remainder(name: str) -> str:
    """Return a name without the words of modalities. The files of a case should have the same remainder."""
    modality_words = set().union(*_WORDS.values(), _CONTRAST)
    return "_".join(word for word in words(name) if word not in modality_words)


@dataclass(frozen=True)
class Naming:
    """Assignment of a case's files to channels, by name.

    A file, or a folder with a DICOM series, belongs to a channel if its name has a common word for the channel, such as
    ``flair`` in ``sub-01_FLAIR.nii.gz``, and no other modality.

    Attributes:
        channels: The model's channels, in order.
        names: By channel, the name of its file (without suffix) or folder, if it has another name. Wildcards are
            allowed.
        volumes: Names of the volumes in four-dimensional files, in order.
        brain_mask: Name of the brain mask; None for a file with ``brainmask`` in its name, if there is one.
    """

    channels: tuple[str, ...]
    names: Mapping[str, str]
    volumes: tuple[str, ...] | None = None
    brain_mask: str | None = None

    def __post_init__(self) -> None:
        """Refuse unknown channels, volumes that lack a channel or occur twice, and names together with volumes.

        Raises:
            DataError: If the names or volumes do not fit the model.
        """
        takes = f"This model takes {', '.join(self.channels)}"
        unknown = [name for name in self.names if name not in self.channels]
        if unknown:
            raise DataError(f"{takes}. It has no channel {unknown[0]}.")
        if self.volumes is None:
            return
        missing = [name for name in self.channels if name not in self.volumes]
        if missing:
            raise DataError(f"{takes}. The volumes {', '.join(self.volumes)} lack {', '.join(missing)}.")
        if self.names or len(set(self.volumes)) < len(self.volumes):
            raise DataError(
                "--volumes does not go with --modality, and needs a different name for each volume of a file."
            )

    def is_channel(self, name: str, channel: str) -> bool:
        """Return whether a name, without suffix, belongs to a channel."""
        wanted = self.names.get(channel)
        if wanted is not None:
            return name == wanted or fnmatch(name, wanted)
        name_words = set(words(name))
        if name_words & _NO_IMAGE:
            return False
        return modality(name) == channel if channel in _WORDS else channel.lower() in name_words

    def entries(self, folder: Path, channel: str) -> list[Path]:
        """Return the files and series in a folder that may belong to a channel."""
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
        matches = [path for path in [*volume_files(folder), *below] if self.is_channel(stem(path), channel)]
        return [path for path in matches if path.is_file() or is_dicom(path)]

    def is_case(self, folder: Path) -> bool:
        """Return whether a folder has a file or series of any channel."""
        return any(self.entries(folder, channel) for channel in self.channels)

    def cases_among(self, folder: Path) -> list[Path]:
        """Return the files and series in a folder that are a whole case each, because they have all channels."""
        if self.volumes is not None:
            return volume_files(folder)
        entries = self.entries(folder, self.channels[0]) if len(self.channels) == 1 else []
        return entries if len(entries) > 1 else []

    def says_nothing(self, name: str) -> bool:
        """Return whether a name, without suffix, has no modality, and is no name of a mask or map."""
        masks = self.brain_mask is not None and fnmatch(name, self.brain_mask)
        return modality(name) is None and not _NO_IMAGE & set(words(name)) and not masks
