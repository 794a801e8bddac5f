"""Handlers of the page's buttons and sliders. Each handler takes the session of its user."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import gradio as gr
from PIL import Image

from diffmedseg.app import page
from diffmedseg.app.drawing import correct
from diffmedseg.app.running import STOPPED_EARLY, run
from diffmedseg.app.scene import Scene
from diffmedseg.app.session import Editing, Session
from diffmedseg.app.storage import sweep, zip_folder
from diffmedseg.app.views import MASK, SAMPLE, Look, draw_plane, largest_planes
from diffmedseg.errors import DataError
from diffmedseg.prediction.volumes.panel import PLANES
from diffmedseg.wording import count
from diffmedseg.zoo.shelf import Shelf

NO_SECOND = "no other model"
ALL_REGIONS = "all"
_LONGEST_UPLOAD = 900  # seconds: younger files may belong to another user's upload


class Handlers:
    """Handlers of the page's events.

    Args:
        shelf: The models.
        root: Folder of uploads and sessions.
        example: The example picture; None if there is no example.
    """

    def __init__(self, shelf: Shelf, root: Path, example: Path | None) -> None:
        self.shelf, self.root, self._example = shelf, root, example
        self._lock = Lock()
        self._sessions: dict[str, Session] = {}  # by the id of the browser's tab, and closed with it

    # Sessions.

    def _open(self, session: Session | None, request: gr.Request) -> Session:
        """Return the session of a browser's tab. Open a new session if there is none, or if it is closed.

        A tab has one session, even if two of its events arrive at the same time.
        """
        name = str(request.session_hash)
        with self._lock:
            session = self._sessions.get(name, session)
            if session is None or session.closed:
                session = Session(self.root)
            self._sessions[name] = session
            return session

    @staticmethod
    def end(session: Session | None) -> None:
        """Remove a session."""
        if session is not None:
            session.close()

    def begin(self, session: Session | None, request: gr.Request) -> Session:
        """Open a session for a browser's tab."""
        return self._open(session, request)

    def unload(self, request: gr.Request) -> None:
        """Remove the session of a closed tab, and files that no session needs."""
        self.end(self._sessions.pop(str(request.session_hash), None))
        sweep(self.root, _LONGEST_UPLOAD if self._sessions else 0)

    # Files and models.

    def upload(self, session: Session | None, files: Sequence[str] | None, request: gr.Request) -> tuple[Session, str]:
        """Move uploaded files into the session, and remove files that are no longer in the page's list."""
        session = self._open(session, request)
        if not files:  # the user removed the last file from the list
            return session, self.forget(session)
        try:
            session.take(files)
        except DataError as error:
            return session, page.status(session.plain(str(error)), failed=True)
        except OSError as error:  # such as a full disk
            reason = error.strerror or type(error).__name__
            return session, page.status(f"The files cannot be kept ({reason}): upload them again.", failed=True)
        return session, page.status(f"{count(len(files or []), 'file')} ready. Press Segment.")

    def example(self, session: Session | None, request: gr.Request) -> tuple[Session, str]:
        """Take the example into the session."""
        session = self._open(session, request)
        if self._example is None:
            return session, page.status("There is no example here.", failed=True)
        session.take([self._example], copy=True)
        return session, page.status("The example, a synthetic lesion (Apache-2.0), is ready. Press Segment.")

    def forget(self, session: Session | None) -> str:
        """Remove the uploaded files."""
        if session is not None and not session.closed:
            session.forget()
        return page.status("The files were removed.")

    def describe(self, name: str) -> tuple[str, str]:
        """Return a model's intended use and card."""
        return page.banner(self.shelf.intended_use(name)), self.shelf.card(name, pictures=True)

    def wait(self, session: Session | None, request: gr.Request) -> tuple[Session, str, gr.Button]:
        """Show that the session waits for its turn. From now on it can be stopped."""
        session = self._open(session, request)
        session.stop.clear()
        session.waiting = True
        return session, page.status("Waiting for its turn …"), gr.Button(interactive=False)

    @staticmethod
    def free() -> gr.Button:
        """Enable the button that starts a run."""
        return gr.Button(interactive=True)

    def segment(
        self, session: Session | None, name: str, second: str, request: gr.Request
    ) -> Iterator[tuple[Session, str]]:
        """Segment the session's files with one or two models, and report progress."""
        session = self._open(session, request)
        names = [name] if second in (NO_SECOND, name, None) else [name, second]
        for progress in run(session, self.shelf, names):
            share = None if progress.finished else progress.share
            session.waiting = session.running = not progress.finished
            yield session, page.status(progress.text, share, progress.failed)

    @staticmethod
    def stop(session: Session | None) -> str | dict[str, Any]:
        """Stop the session's prediction, whether it runs or waits.

        A running prediction says itself that it stops: this answer may arrive after the prediction's last message.
        """
        if session is None or not session.waiting:
            return page.status("Nothing is running.")
        session.stop.set()
        return gr.skip() if session.running else page.status(STOPPED_EARLY, failed=True)

    # Viewing.

    def prepare(self, session: Session | None) -> list[Any]:
        """Adjust the controls to the first result, and offer the files for download."""
        names = [] if session is None else session.image_names()
        archive = None if session is None else session.zip_outputs()
        download = gr.DownloadButton(value=None if archive is None else str(archive), interactive=archive is not None)
        return [*self.change_image(session, names[0] if names else None, names), download]

    def change_image(self, session: Session | None, image: str | None, names: Sequence[str] | None = None) -> list[Any]:
        """Adjust the controls to an image, in the order of the layout; hide them if there is no result.

        Hidden controls keep their choices, because Gradio refuses events that name another choice, and such an event
        may be on its way.
        """
        scene = self._first(session, image)
        if scene is None or session is None:
            return [*[gr.skip()] * 12, gr.Column(visible=False)]
        names = session.image_names() if names is None else names
        several, planes = len(scene.regions) > 1, largest_planes(scene)
        regions, channels = [ALL_REGIONS, *scene.regions], list(scene.images)
        most = len(scene.samples)
        return [
            gr.Dropdown(choices=list(names), value=image),
            gr.skip(),
            gr.Dropdown(choices=regions, value=ALL_REGIONS, visible=several),
            gr.Dropdown(choices=channels, value=channels[0], visible=len(channels) > 1),
            gr.skip(),
            gr.Slider(maximum=max(most, 2), value=1, interactive=most > 1),
            gr.Slider(value=round(scene.threshold, 2)),
            gr.Checkbox(interactive=any(one.inner is not None for one in self._scenes(session, image).values())),
            *(gr.Slider(maximum=max(scene.shape[axis], 2), value=planes[plane] + 1) for plane, axis in PLANES.items()),
            gr.Row(visible=scene.is_volume),
            gr.Column(visible=True),
        ]

    def look(self, session: Session | None, image: str | None, *controls: Any) -> tuple[str, str]:
        """Return the views and the sizes of an image, for each model."""
        scenes = self._scenes(session, image)
        if not scenes:
            return page.status("There is no result to show."), ""
        first = next(iter(scenes.values()))
        looks = {name: (scene, _look(first, scene, *controls)) for name, scene in scenes.items()}
        several, facts = len(looks) > 1, []
        for name, (scene, look) in looks.items():
            facts.append((page.heading(name) if several else "") + page.facts(scene, look.threshold))
        if several:
            facts.append(page.compare(list(scenes.values()), [look.threshold for _, look in looks.values()]))
        return page.views(looks, _positions(*controls)), "".join(facts)

    def look_at_sample(self, session: Session | None, image: str | None, _: str, *controls: Any) -> tuple[str, ...]:
        """Show the selected sample: return its layer, the views and the sizes."""
        return SAMPLE, *self.look(session, image, SAMPLE, *controls)

    @staticmethod
    def _scenes(session: Session | None, image: str | None) -> dict[str, Scene]:
        if session is None:
            return {}
        return {name: scenes[image] for name, scenes in session.scenes.items() if image in scenes}

    def _first(self, session: Session | None, image: str | None) -> Scene | None:
        return next(iter(self._scenes(session, image).values()), None)

    # Correcting.

    def load_mask(self, session: Session | None, image: str | None, *controls: Any) -> tuple[Any, str]:
        """Put the image with its mask into the editor."""
        scene = self._first(session, image)
        if session is None or scene is None or image is None:
            return gr.skip(), page.status("Segment an image first.", failed=True)
        look = _look(scene, scene, *controls)
        session.editing = Editing(image, look.region or 0, _positions(*controls)["axial"], look.channel)
        plane = f", axial plane {session.editing.axial + 1}" if scene.is_volume else ""
        return _paper(session, scene), page.status(
            f"Editing {scene.regions[session.editing.region]} of {image}{plane}."
        )

    def keep_mask(self, session: Session | None, value: dict[str, Any] | None) -> tuple[Any, str, Any]:
        """Save the image with its corrected mask, show both, and offer the data set for download."""
        editing = None if session is None else session.editing
        scene = None if editing is None else self._first(session, editing.image)
        if session is None or editing is None or scene is None or not value:
            return gr.skip(), page.status("Load a mask first.", failed=True), gr.skip()
        masks = session.edited(editing.image, scene)
        correct(masks[editing.region, editing.axial], value["layers"] or ())
        name = next(iter(session.scenes))
        model = self.shelf.get(name)
        pairs = session.corrected(model, scene)
        try:
            saved = session.save_correction(name, model, scene, masks)
        except DataError as error:
            return gr.skip(), page.status(session.plain(str(error)), failed=True), gr.skip()
        archive = zip_folder(pairs.folder, session.folder / "corrected.zip")
        said = f"Kept {saved}. The data set has {count(len(pairs), 'image')}. Unpack it into corrected, then:"
        download = gr.DownloadButton(value=str(archive), interactive=True)
        return _paper(session, scene), page.status(said, command=pairs.command(_command_name(name), name)), download


def _paper(session: Session, scene: Scene) -> dict[str, Any]:
    """Return the editor's background: the image with the mask of a region, as a file in the session's folder."""
    editing = session.editing
    assert editing is not None
    masks = session.edited(editing.image, scene)
    shown = replace(scene, mask=masks, inner=None, outer=None)
    look = Look(MASK, editing.channel, editing.region, threshold=scene.threshold)
    path = session.folder / f"editor-{uuid4().hex}.png"
    Image.fromarray(draw_plane(shown, look, "axial", editing.axial)).save(path)
    return {"background": str(path), "layers": [], "composite": None}


def _look(
    first: Scene,
    scene: Scene,
    layer: str,
    region: str | None,
    channel: str | None,
    opacity: float,
    sample: int,
    threshold: float,
    contours: bool,
    *_: Any,
) -> Look:
    """Read the controls. While the slider is at the first model's threshold, each model uses its own threshold."""
    own = abs(threshold - first.threshold) <= 0.0051
    number = scene.regions.index(region) if region in scene.regions else None
    level = scene.threshold if own else float(threshold)
    return Look(layer, channel or "", number, float(opacity), int(sample) - 1, level, bool(contours))


def _positions(*controls: Any) -> dict[str, int]:
    """Read the last three controls: the number of each plane, from 0."""
    return {plane: int(number) - 1 for plane, number in zip(PLANES, controls[-3:], strict=True)}


def _command_name(name: str) -> str:
    """Return the command line's name of a zoo entry's model; MODEL for a run, because its folder can have any name."""
    found = re.fullmatch(r"([a-z0-9-]+)_[\w.]+", name)
    return found[1] if found else "MODEL"
