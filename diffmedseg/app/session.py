"""Session of one user: a private folder, the uploaded files, results and corrections."""

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
from diffmedseg.app.uploads import NO_FILE, Uploads, lay_out, sort_series
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
from diffmedseg.prediction.volumes.files import VolumeCase
from diffmedseg.reading.names import clean_name

_LONGEST = 1024  # px: longer side of the shown picture


class Editing(NamedTuple):
    """Content of the editor: name of the image, numbers of the region and of the axial plane, and the channel."""

    image: str
    region: int
    axial: int
    channel: str


class SessionWatcher(Watcher):
    """Keep the scenes of a prediction, note its progress, and stop it if the session is stopped.

    Args:
        session: The session.
        model: The model.
    """

    longest = _LONGEST

    def __init__(self, session: "Session", model: Segmenter) -> None:
        self.session, self.model, self.share = session, model, 0.0
        self.scenes: dict[str, Scene] = {}

    def report(self, share: float) -> None:
        """Note the finished share. Raise :class:`Stopped` if the session is stopped."""
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
    """Files and results of one user. :meth:`close` removes them.

    Args:
        root: Folder of all sessions. Each session makes its own folder in it, with a name that cannot be guessed.

    Attributes:
        folder: The session's folder.
        stop: Set to stop the running prediction.
        scenes: Scenes by model, in the order of prediction, and then by image.
        inputs: Folder of the uploaded files. A volume of several files has the folder's name.
        series: Folders of the DICOM series, if there are several.
        editing: Content of the editor; None if it is empty.
        waiting: Whether the page waits for a prediction, or for its turn.
        running: Whether its turn has come.
        unused: Names of files that the last prediction did not use.
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
        self.unused: list[str] = []
        self.waiting = self.running = False
        self.closed = False
        self._uploads = Uploads(self._root, self.folder / "uploads")
        self._busy, self._changing = Lock(), Lock()  # while a prediction writes; while files come or go
        self._refusal = ""  # why the last upload was refused
        self._edited: dict[str, NDArray[np.bool_]] = {}
        self._corrected: dict[object, CorrectedSet] = {}

    def close(self) -> None:
        """Stop the prediction, and remove the folder and all results."""
        self.closed = True
        self.stop.set()
        self.scenes = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def outputs(self, model: str) -> Path:
        """Return the folder of a model's result files."""
        return self.folder / "out" / clean_name(model)

    def take(self, uploads: Sequence[str | Path], copy: bool = False) -> None:
        """Move uploaded files into the session, and remove earlier files.

        ZIP files are unpacked, and DICOM files sorted by their series.

        Args:
            uploads: Files below the root, where uploads arrive. Files that were moved from there before count, too.
            copy: Copy files from elsewhere, such as the example, and leave them there.

        Raises:
            DataError: If there is no file, there are too many, one lies outside the root, or a ZIP or DICOM file is
                damaged. The session then has no files.
        """
        with self._changing:
            self._begin()
            try:
                files = self._uploads.take(uploads, copy)
                self.inputs = lay_out(files, self.folder / "in", self.folder / "unpacked")
                self.series = sort_series(self.inputs)
            except DataError as error:
                self._begin()  # keep no part of an upload
                self._refusal = str(error)
                raise

    def forget(self) -> None:
        """Remove the uploaded files and their results."""
        with self._changing:
            self._begin()
            self._uploads.forget()

    def _begin(self) -> None:
        """Stop the prediction, and remove files and results."""
        self.stop.set()
        self.drop_results()
        self.series, self._refusal = [], ""
        shutil.rmtree(self.folder / "in", ignore_errors=True)
        (self.folder / "in").mkdir(parents=True)
        self.stop.clear()

    def drop_results(self) -> None:
        """Remove results, and edits that were not kept."""
        with self._busy:
            self.scenes, self._edited, self.editing, self.unused = {}, {}, None, []
            shutil.rmtree(self.folder / "out", ignore_errors=True)

    def predict(self, name: str, model: Segmenter, watcher: SessionWatcher) -> Report:
        """Segment the files as ``diffmedseg predict`` does, and keep the scenes.

        Args:
            name: The model's name.
            model: The model.
            watcher: Follows the prediction.

        Raises:
            DataError: If the model does not take such files.
            Stopped: If the session was stopped.
        """
        with self._busy:
            return self._predict(name, model, watcher)

    def _predict(self, name: str, model: Segmenter, watcher: SessionWatcher) -> Report:
        sources, out = self._sources(model), self.outputs(name)
        try:
            if takes_pictures(model):
                pictures = find_pictures(sources)
                self.unused = self._find_unused([one.path for one in pictures])
                report = predict_pictures(model, pictures, out, batch_size=1, overwrite=True, watcher=watcher)
            else:
                cases = find_cases(sources, Naming(model.channels, {}))
                self.unused = self._find_unused([part for case in cases for part in _parts(case)])
                report = predict_volumes(model, cases, out, overwrite=True, watcher=watcher)
        finally:
            if self.closed:  # the prediction wrote after the folder was removed
                self.close()
        if not self.closed:
            self.scenes[name] = watcher.scenes
        return report

    def _sources(self, model: Segmenter) -> list[Path]:
        """Return the inputs of the prediction. If the model has one channel, each series is a case.

        Raises:
            DataError: If there is no file.
        """
        files = sorted(self.inputs.iterdir()) if self.inputs.is_dir() else []
        if not files:
            raise DataError(self._refusal or NO_FILE)
        if self.series and len(model.channels) == 1:
            return self.series
        return files if len(files) == 1 else [self.inputs]

    def _find_unused(self, used: Sequence[Path]) -> list[str]:
        """Return the names of files that are not used, and are in no folder that is used."""
        files = [path for path in sorted(self.inputs.rglob("*")) if path.is_file()]
        return [file.name for file in files if not {file, file.parent} & set(used)]

    def image_names(self) -> list[str]:
        """Return the names of all images that any model segmented."""
        return list(dict.fromkeys(name for scenes in self.scenes.values() for name in scenes))

    def edited(self, image: str, scene: Scene) -> NDArray[np.bool_]:
        """Return the masks (K, D, H, W) of an image with all corrections. The caller edits them in place."""
        return self._edited.setdefault(image, scene.mask.copy())

    def corrected(self, model: Segmenter, scene: Scene) -> CorrectedSet:
        """Return the data set of corrected images. Models with different regions have different data sets."""
        regions = tuple(model.regions)
        kind = regions, model.nested, tuple(model.channels) if scene.is_volume else None
        folder = self.folder / f"corrected-{len(self._corrected) + 1}"
        return self._corrected.setdefault(kind, CorrectedSet(folder, regions, model.nested))

    def save_correction(self, name: str, model: Segmenter, scene: Scene, edited: NDArray[np.bool_]) -> str:
        """Save an image with its corrected mask into the data set of :meth:`corrected`, and return its id.

        Raises:
            DataError: If a file cannot be read, or overlapping regions cannot be saved.
        """
        pairs = self.corrected(model, scene)
        sources = self._sources(model)
        if scene.is_volume:
            return pairs.add_volume(scene, sources, model.channels, edited)
        [picture] = [one.path for one in find_pictures(sources) if one.name == scene.name]
        folder, several = self.outputs(name), len(model.regions) > 1
        masks = {
            region: folder / file_name(scene.name, "mask", ".png", region if several else None)
            for region in model.regions
        }
        return pairs.add_picture(scene, picture, masks, edited[:, 0])

    def plain(self, message: str) -> str:
        """Return a message without the path of the session's folder."""
        return message.replace(f"{self.inputs}/", "").replace(str(self.inputs), "the upload")

    def zip_outputs(self) -> Path | None:
        """Pack all results, a folder for each model. Return None if there are none."""
        return zip_folder(self.folder / "out", self.folder / "predictions.zip")


def _parts(case: VolumeCase) -> list[Path]:
    """Return the files and the folders of series of a case; the case itself if it is not complete."""
    try:
        mask = case.brain_mask()
        return [*case.channels(), *([] if mask is None else [mask])]
    except DataError:
        return [case.path]
