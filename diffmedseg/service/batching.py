"""Segmenting the pictures of several requests together."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic

import torch
from torch import Tensor

from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction import Stopped
from diffmedseg.prediction.run import Settings, describe_model, draw_samples
from diffmedseg.segmentation import SampleSet

_BETWEEN_LOOKS = 0.1  # seconds, at whether a request is over


@dataclass(frozen=True, eq=False)
class _Job:
    images: Tensor
    keys: list[str]
    settings: Settings
    drawn: "Future[SampleSet]"


class Batcher:
    """Draws samples for requests, one batch after the other, in a thread of its own.

    Pictures that wait at the same time and have the same settings are drawn together. The noise of a picture is keyed,
    so that its samples do not depend on the others.

    Args:
        model: The model.
        most: Pictures that are drawn together.
        wait: Seconds that the first picture of a batch waits for others.

    Attributes:
        batches: How many were drawn.
        description: What ``predictions.yaml`` says of the model.
    """

    def __init__(self, model: Segmenter, most: int, wait: float) -> None:
        self._model, self._most, self._wait = model, most, wait
        self._jobs: Queue[_Job | None] = Queue()
        self.batches: int = 0
        self.description = describe_model(model)  # once: it digests all weights
        self._thread = Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def draw(self, images: Tensor, keys: Sequence[str], settings: Settings, stop: Event | None = None) -> SampleSet:
        """Draw the samples of a request's images; see :func:`~diffmedseg.prediction.run.draw_samples`.

        Args:
            images: (B, C, H, W).
            keys: A key for each image.
            settings: Samples, steps and so on.
            stop: Ends the waiting when it is set; images whose turn has not come are then not drawn.

        Raises:
            Stopped: If it was set.
        """
        job = _Job(images, list(keys), settings, Future())
        self._jobs.put(job)
        while True:
            try:
                return job.drawn.result(timeout=_BETWEEN_LOOKS)
            except TimeoutError:  # of the wait, or of the model
                if job.drawn.done():
                    raise
                if stop is not None and stop.is_set():
                    job.drawn.cancel()
                    raise Stopped from None

    def close(self) -> None:
        """End the thread when what waits is done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        waiting: list[_Job] = []
        while True:
            job = waiting.pop(0) if waiting else self._jobs.get()
            if job is None:
                return
            batch, waiting, ended = self._gather(job, waiting)
            self._draw(batch)
            if ended:
                self._jobs.put(None)

    def _gather(self, first: _Job, waiting: list[_Job]) -> tuple[list[_Job], list[_Job], bool]:
        """Return what is drawn together with a job, what has to wait, and whether the end was announced."""
        batch, left, ended, due = [first], list(waiting), False, monotonic() + self._wait
        if len(first.images) > 1 or self._model.depth:  # the slices of a volume are a batch already
            return batch, left, ended
        for job in waiting:
            if len(batch) < self._most and _fits(job, first):
                batch.append(job)
                left.remove(job)
        while len(batch) < self._most and not ended:
            try:
                new = self._jobs.get(timeout=max(due - monotonic(), 0))
            except Empty:
                break
            if new is None:
                ended = True
            else:
                (batch if _fits(new, first) else left).append(new)
        return batch, left, ended

    def _draw(self, batch: list[_Job]) -> None:
        batch = [job for job in batch if job.drawn.set_running_or_notify_cancel()]  # whose request is not over
        if not batch:
            return
        self.batches += 1
        try:
            images, keys = torch.cat([job.images for job in batch]), [key for job in batch for key in job.keys]
            drawn = draw_samples(images, keys, self._model, batch[0].settings)
        except Exception as error:  # each request says so
            for job in batch:
                job.drawn.set_exception(error)
            return
        for number, job in enumerate(batch):
            job.drawn.set_result(drawn if len(batch) == 1 else drawn[number])


def _fits(job: _Job, first: _Job) -> bool:
    return len(job.images) == 1 and job.settings == first.settings
