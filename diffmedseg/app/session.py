"""What one user of the app holds: a folder of their own, the uploaded files, results and corrections."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from diffmedseg.app.saving import CorrectedSet
from diffmedseg.app.scene import Scene, picture_scene, volume_scene
from diffmedseg.app.storage import SESSION, zip_folder
from diffmedseg.app.uploads import MOST_FILES, sort_series, unpack
from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction import (
    Naming,
    PictureResult,
    Report,
    Stopped,
    VolumeResult,
    Watcher,
    find_cases,
    find_pictures,
    predict_pictures,
    predict_volumes,
    takes_pictures,
)
from diffmedseg.prediction.removing import file_name
from diffmedseg.reading.names import clean_name

_NO_FILE = "There is no file: drop a picture, a NIfTI file, or the files of a DICOM series first."
_LONGEST = 1024  # px, of the picture that is shown


class Editing(NamedTuple):
    """What is in the editor: an image's name, the number of the region, that of the axial plane, and the channel."""

    image: str
    region: int
    axial: int
    channel: str


class SessionWatcher(Watcher):
    """Keeps the scenes of a prediction, tells its progress, and stops it when the session says so.

    Args:
        session: The session.
        model: The model that predicts.
    """

    longest = _LONGEST

    def __init__(self, session: "Session", model: Segmenter) -> None:
        self.session, self.model, self.share = session, model, 0.0
        self.scenes: dict[str, Scene] = {}

    def report(self, share: float) -> None:
        """Take the share that is done, or stop."""
        if self.session.stop.is_set() or self.session.closed:
            raise Stopped
        self.share = share

    def keep_picture(self, result: PictureResult) -> None:
        """Keep a picture's scene."""
        self.scenes[result.name] = picture_scene(result, self.model)

    def keep_volume(self, result: VolumeResult) -> None:
        """Keep a volume's scene."""
        self.scenes[result.name] = volume_scene(result, self.model)


class Session:
    """One user's folder and results; :meth:`close` removes all of it.

    Args:
        root: Folder below which every session has a folder of its own, with a name that nobody can guess.

    Attributes:
        folder: The session's folder.
        stop: Set to stop the prediction that runs.
        scenes: By model, in the order of prediction, and then by image.
        inputs: The folder of the uploaded files; a volume of several files is called by it.
        series: The folders of DICOM series, where there are several.
        editing: What is in the editor; None where it is empty.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.folder = self._root / f"{SESSION}{uuid4().hex}"
        self.folder.mkdir(mode=0o700, parents=True)
        self.inputs = self.folder / "in" / "volume"
        self.series: list[Path] = []
        self.stop = Event()
        self.scenes: dict[str, dict[str, Scene]] = {}
        self.editing: Editing | None = None
        self.closed = False
        self._busy = Lock()  # while a prediction writes
        self._edited: dict[str, NDArray[np.bool_]] = {}
        self._corrected: CorrectedSet | None = None

    def close(self) -> None:
        """Stop what runs, and remove the folder and all results."""
        self.closed = True
        self.stop.set()
        self.scenes = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def outputs(self, model: str) -> Path:
        """Return the folder of the files that ``predict`` wrote for a model."""
        return self.folder / "out" / clean_name(model)

    def take(self, uploads: Sequence[str | Path], copy: bool = False) -> None:
        """Move uploaded files into the session, in place of those that were there.

        ZIP files are unpacked, and DICOM files sorted by their series.

        Args:
            uploads: Files below the root, where uploads are stored.
            copy: Copy files that lie elsewhere and stay there, such as an example of ours.

        Raises:
            DataError: If there is no file, there are too many, one lies outside the root, or a ZIP or DICOM file is
                damaged.
        """
        if not uploads:
            raise DataError(_NO_FILE)
        if len(uploads) > MOST_FILES:
            raise DataError(f"There are {len(uploads)} files; at most {MOST_FILES} are taken at once.")
        files = [Path(upload) for upload in uploads]
        if not copy and any(self._root not in file.resolve().parents or file.is_symlink() for file in files):
            raise DataError("This file was not uploaded here: upload it again.")
        self._begin()
        unpacked = self.folder / "in" / "unpacked"
        if not copy:
            files = [one for file in files for one in _contents(file, unpacked)]
        names = [clean_name(file.name) for file in files]
        self.inputs = self.folder / "in" / (_common_name(names) if len(names) > 1 else "volume")
        self.inputs.mkdir()
        for file, name in zip(files, names, strict=True):
            target = self._free_name(name)
            if copy:
                shutil.copyfile(file, target)
            else:
                shutil.move(file, target)
        shutil.rmtree(unpacked, ignore_errors=True)
        self.series = sort_series(self.inputs)

    def forget(self) -> None:
        """Remove the uploaded files and their results."""
        self._begin()

    def _begin(self) -> None:
        """Remove files and results; what runs is stopped first."""
        self.stop.set()
        with self._busy:
            self.scenes, self._edited, self.editing, self.series = {}, {}, None, []
            for folder in (self.folder / "in", self.folder / "out"):
                shutil.rmtree(folder, ignore_errors=True)
            (self.folder / "in").mkdir()
            self.stop.clear()

    def _free_name(self, name: str) -> Path:
        target, number = self.inputs / name, 1
        while target.exists():
            number += 1
            target = self.inputs / f"{number}_{name}"
        return target

    def predict(self, name: str, model: Segmenter, watcher: SessionWatcher) -> Report:
        """Segment the files as ``diffmedseg predict`` does, and keep the scenes.

        Args:
            name: The model's name, of which the results are.
            model: The model.
            watcher: Follows the prediction.

        Raises:
            DataError: If the files are nothing that the model takes.
            Stopped: If the session said so.
        """
        with self._busy:
            return self._predict(name, model, watcher)

    def _predict(self, name: str, model: Segmenter, watcher: SessionWatcher) -> Report:
        sources, out = self._sources(model), self.outputs(name)
        try:
            if takes_pictures(model):
                pictures = find_pictures(sources)
                report = predict_pictures(model, pictures, out, batch_size=1, overwrite=True, watcher=watcher)
            else:
                cases = find_cases(sources, Naming(model.channels, {}))
                report = predict_volumes(model, cases, out, overwrite=True, watcher=watcher)
        finally:
            if self.closed:  # what was written last came after the folder was removed
                self.close()
        if not self.closed:
            self.scenes[name] = watcher.scenes
        return report

    def _sources(self, model: Segmenter) -> list[Path]:
        """Return what ``predict`` is given: series are cases of their own where the model has one channel.

        Raises:
            DataError: If there is no file.
        """
        files = sorted(self.inputs.iterdir()) if self.inputs.is_dir() else []
        if not files:
            raise DataError(_NO_FILE)
        if self.series and len(model.channels) == 1:
            return self.series
        return files if len(files) == 1 else [self.inputs]

    def image_names(self) -> list[str]:
        """Return the names of all images that any model segmented."""
        return list(dict.fromkeys(name for scenes in self.scenes.values() for name in scenes))

    def edited(self, image: str, scene: Scene) -> NDArray[np.bool_]:
        """Return the masks (K, D, H, W) of an image with all corrections, to be changed in place."""
        return self._edited.setdefault(image, scene.mask.copy())

    def corrected(self, empty: CorrectedSet) -> CorrectedSet:
        """Return the data set of corrected images; ``empty`` becomes it where none of these regions was begun."""
        if self._corrected is None or self._corrected.regions != empty.regions:
            shutil.rmtree(empty.folder, ignore_errors=True)
            self._corrected = empty
        return self._corrected

    def save_correction(self, name: str, model: Segmenter, scene: Scene, edited: NDArray[np.bool_]) -> str:
        """Save an image with its corrected mask into the data set of :meth:`corrected`; return its id.

        Raises:
            DataError: If a file cannot be read, or overlapping regions cannot be saved.
        """
        assert self._corrected is not None
        sources = self._sources(model)
        if scene.is_volume:
            return self._corrected.add_volume(scene, sources, model.channels, edited)
        [picture] = [one.path for one in find_pictures(sources) if one.name == scene.name]
        folder, several = self.outputs(name), len(model.regions) > 1
        masks = {
            region: folder / file_name(scene.name, "mask", ".png", region if several else None)
            for region in model.regions
        }
        return self._corrected.add_picture(scene, picture, masks, edited[:, 0])

    def plain(self, message: str) -> str:
        """Return a message without the path of the session's folder, which is nobody's business."""
        return message.replace(f"{self.inputs}/", "").replace(str(self.inputs), "the upload")

    def zip_outputs(self) -> Path | None:
        """Pack all files that were predicted, a folder for each model; None where there are none."""
        return zip_folder(self.folder / "out", self.folder / "predictions.zip")


def _contents(file: Path, folder: Path) -> list[Path]:
    """Return what a ZIP file holds, unpacked below a folder; of any other file itself."""
    if file.suffix.lower() != ".zip":
        return [file]
    below = folder / str(len(list(folder.glob("*"))))
    below.mkdir(parents=True)
    found = list(unpack(file, below))
    file.unlink()
    return found


def _common_name(names: Sequence[str]) -> str:
    """Return what the names of a case's files begin with, such as a patient's; they differ in the modality."""
    return os.path.commonprefix(list(names)).rstrip("._-") or "volume"  # noqa: RUF071  names, not paths
