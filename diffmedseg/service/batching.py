"""Sampling for the requests, in one thread; pictures of several requests can be sampled together."""

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

_POLLING = 0.1  # seconds between checks whether a request has ended


@dataclass(frozen=True, eq=False)
class _Job:
    images: Tensor
    keys: list[str]
    settings: Settings
    samples: "Future[SampleSet]"


class Batcher:
    """Samples batches one after the other, in a thread of its own.

    Pictures that wait at the same time and have the same settings are sampled together. The noise of a picture is
    keyed, so its samples do not depend on other pictures, apart from rounding.

    Args:
        model: The model.
        most: Largest number of pictures in a batch; 1 samples each request alone.
        wait: Seconds that the first picture of a batch waits for others.

    Attributes:
        batches: Number of sampled batches.
        description: The model's description in ``predictions.yaml``.
    """

    def __init__(self, model: Segmenter, most: int, wait: float) -> None:
        self._model, self._most, self._wait = model, most, wait
        self._jobs: Queue[_Job | None] = Queue()
        self.batches: int = 0
        self.description = describe_model(model)  # only once: it hashes all weights
        self._thread = Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def draw(self, images: Tensor, keys: Sequence[str], settings: Settings, stop: Event | None = None) -> SampleSet:
        """Draw the samples of a request's images; see :func:`~diffmedseg.prediction.run.draw_samples`.

        Args:
            images: (B, C, H, W).
            keys: A key for each image.
            settings: Samples, steps and so on.
            stop: When it is set, this call ends; images that still wait are not sampled.

        Raises:
            Stopped: If ``stop`` was set.
        """
        job = _Job(images, list(keys), settings, Future())
        self._jobs.put(job)
        while True:
            try:
                return job.samples.result(timeout=_POLLING)
            except TimeoutError:  # of this wait, or of the model
                if job.samples.done():
                    raise
                if stop is not None and stop.is_set():
                    job.samples.cancel()
                    raise Stopped from None

    def close(self) -> None:
        """End the thread after the jobs that wait."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        waiting: list[_Job] = []
        while True:
            job = waiting.pop(0) if waiting else self._jobs.get()
            if job is None:
                return
            batch, waiting, closing = self._gather(job, waiting)
            self._draw(batch)
            if closing:
                self._jobs.put(None)

    def _gather(self, first: _Job, waiting: list[_Job]) -> tuple[list[_Job], list[_Job], bool]:
        """Return the jobs to sample together with the first, the jobs that still wait, and whether to close."""
        batch, left, closing, due = [first], list(waiting), False, monotonic() + self._wait
        if len(first.images) > 1 or self._model.depth:  # the slices of a volume are a batch already
            return batch, left, closing
        for job in waiting:
            if len(batch) < self._most and _fits(job, first):
                batch.append(job)
                left.remove(job)
        while len(batch) < self._most and not closing:
            try:
                new = self._jobs.get(timeout=max(due - monotonic(), 0))
            except Empty:
                break
            if new is None:
                closing = True
            else:
                (batch if _fits(new, first) else left).append(new)
        return batch, left, closing

    def _draw(self, batch: list[_Job]) -> None:
        batch = [job for job in batch if job.samples.set_running_or_notify_cancel()]  # without stopped requests
        if not batch:
            return
        self.batches += 1
        try:
            images, keys = torch.cat([job.images for job in batch]), [key for job in batch for key in job.keys]
            samples = draw_samples(images, keys, self._model, batch[0].settings)
        except Exception as error:  # every request of the batch reports it
            for job in batch:
                job.samples.set_exception(error)
            return
        for number, job in enumerate(batch):
            job.samples.set_result(samples if len(batch) == 1 else samples[number])


def _fits(job: _Job, first: _Job) -> bool:
    return len(job.images) == 1 and job.settings == first.settings
