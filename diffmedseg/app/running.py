"""Segment in the background, with progress, a way to stop, and each error in a sentence."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from diffmedseg.app.session import Session, SessionWatcher
from diffmedseg.errors import DataError, PluginError, ZooError
from diffmedseg.prediction import Report, Stopped
from diffmedseg.wording import count, first_names
from diffmedseg.zoo.shelf import Shelf

STOPPED_EARLY = "Stopped before it began."
_BETWEEN = 0.3  # seconds between two reports of progress
_TOLD = 3  # failures that are reported in full
_NAMED = 6  # unused files that are named


@dataclass(frozen=True)
class Progress:
    """Progress of a prediction.

    Attributes:
        text: Message for the user, in a sentence or a few.
        share: Finished share, in [0, 1].
        failed: Whether something went wrong.
        finished: Whether this is the last report.
    """

    text: str
    share: float
    failed: bool = False
    finished: bool = False


def run(session: Session, shelf: Shelf, names: Sequence[str]) -> Iterator[Progress]:
    """Segment a session's files with each model. Yield progress several times a second, and at the end.

    Results of an earlier run are dropped. If the iterator is closed early, because the browser's tab was closed, the
    prediction is stopped.

    Args:
        session: The session with the files.
        shelf: The models.
        names: Names of the models.
    """
    if session.stop.is_set():  # while it waited for its turn
        session.stop.clear()
        yield Progress(STOPPED_EARLY, 0, True, True)
        return
    session.drop_results()
    notes: list[str] = []
    unused: list[str] | None = None
    failed = False
    with ThreadPoolExecutor(1, "segment") as worker:
        try:
            for number, name in enumerate(names):
                yield Progress(f"Loading {name} …", number / len(names))
                watcher = SessionWatcher(session, shelf.get(name))
                job = worker.submit(_predict, session, name, watcher)
                while not job.done():
                    wait([job], _BETWEEN)
                    share = (number + watcher.share) / len(names)
                    stopping = session.stop.is_set()
                    yield Progress("Stopping …" if stopping else f"Segmenting with {name}: {watcher.share:.0%}", share)
                report = job.result()
                notes += _failures(session, report)
                unused = [one for one in unused or session.unused if one in session.unused]
                failed = failed or bool(report.failed)
            done = max((len(scenes) for scenes in session.scenes.values()), default=0)
            said = [f"Segmented {count(done, 'image')}."] if done else []
            notes += [f"Left out: {first_names(unused, _NAMED)}."] if unused else []
            yield Progress(" ".join([*said, *notes]), 1, failed, True)
        except Stopped:
            session.drop_results()
            session.stop.clear()
            yield Progress("Stopped. Nothing is kept.", 0, True, True)
        except (DataError, ZooError, PluginError, OSError, ValueError, RuntimeError) as error:
            yield Progress(session.plain(_sentence(str(error))), 0, True, True)
        except GeneratorExit:
            session.stop.set()
            raise


def _predict(session: Session, name: str, watcher: SessionWatcher) -> Report:
    return session.predict(name, watcher.model, watcher)


def _failures(session: Session, report: Report) -> list[str]:
    told = [_sentence(session.plain(f"{path}: {why}")) for path, why in list(report.failed.items())[:_TOLD]]
    more = len(report.failed) - len(told)
    return [*told, f"{more} more failed."] if more > 0 else told


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
