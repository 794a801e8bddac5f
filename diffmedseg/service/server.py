"""The HTTP interface: FastAPI's application of a model."""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from inspect import signature
from pathlib import Path
from threading import Event
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from diffmedseg import __version__
from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction import Settings, Stopped
from diffmedseg.reading.names import clean_name
from diffmedseg.scratch import scratch_folder
from diffmedseg.service.answers import (
    RequestOptions,
    RequestWatcher,
    as_json,
    as_zip,
    check_extent,
    segment,
    without_folder,
)
from diffmedseg.service.batching import Batcher
from diffmedseg.service.limits import BodyLimit, Limits, Refusal, Slots

_MOST_SAMPLES = 64
_MOST_STEPS = 100


class Service:
    """A model that answers requests.

    Args:
        model: The model, on its device.
        name: Name of the model.
        card: Its card, as Markdown.
        intended_use: Its intended use, and its limits.
        limits: The limits.

    Attributes:
        folder: Temporary folder of the requests that are being answered. :meth:`close` removes it; if the process is
            killed, the next service does.
        answered: Number of answers with results.
    """

    def __init__(self, model: Segmenter, name: str, card: str, intended_use: str, limits: Limits) -> None:
        self.model, self.name, self.card, self.intended_use, self.limits = model, name, card, intended_use, limits
        self.batcher = Batcher(model, limits.batch, limits.batch_wait)
        self.workers = ThreadPoolExecutor(limits.requests, "request")
        self.slots = Slots(limits)
        self.answered, self.start = 0, time.monotonic()
        self._at_end = ExitStack()
        self.folder = self._at_end.enter_context(scratch_folder("diffmedseg-serve-"))

    def close(self) -> None:
        """End the threads, and remove the temporary folder."""
        self.workers.shutdown(wait=True, cancel_futures=True)
        self.batcher.close()
        self._at_end.close()

    def describe(self) -> dict[str, Any]:
        """Describe the model: what it takes, what it finds, and its card."""
        model = self.model
        return {
            "name": self.name,
            "title": model.title,
            "intended_use": self.intended_use,
            "channels": list(model.channels),
            "regions": list(model.regions),
            "image_size": list(model.image_size),
            "threshold": model.threshold,
            "num_samples": model.count_samples(None, None),
            "num_steps": model.num_steps,
            "calibrated": model.conformal is not None,
            "learned_from": model.learned_from,
            "card": self.card,
        }

    async def answer(self, files: list[UploadFile], options: RequestOptions) -> bytes:
        """Segment files. When this is cancelled, the work is stopped.

        Raises:
            Refusal: With 4xx if the files or the options are wrong, 503 if too many requests wait, 504 if the time is
                up.
        """
        stop = Event()
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.slots.take()
                work = asyncio.get_running_loop().run_in_executor(self.workers, self._work, files, options, stop)
                work.add_done_callback(self._end)
                content = await asyncio.shield(work)
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            stop.set()
        self.answered += 1
        return content

    def _end(self, work: "asyncio.Future[bytes]") -> None:
        """Give a request's slot back when its thread is done, which may be later than its answer."""
        self.slots.give_back()
        if not work.cancelled():
            work.exception()  # the client has its answer: nobody else reads the error

    def _too_late(self) -> Refusal:
        return Refusal(
            504,
            f"It was not done within {self.limits.seconds:g} seconds: ask for fewer samples or slices, or try later.",
        )

    def _work(self, files: list[UploadFile], options: RequestOptions, stop: Event) -> bytes:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            _store(files, folder / "in")
            check_extent(folder / "in", self.limits.megapixels)
            out = segment(self.model, folder, options, RequestWatcher(self.batcher, stop))
            return as_json(out) if options.as_json else as_zip(out)
        except Stopped as error:
            raise self._too_late() from error
        except (DataError, ValueError) as error:
            raise Refusal(422, without_folder(folder, str(error))) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _store(files: list[UploadFile], folder: Path) -> None:
    """Write uploaded files into a folder, under cleaned names: a client cannot choose another place."""
    folder.mkdir()
    for file in files:
        target, number = folder / clean_name(file.filename or "image"), 1
        while target.exists():
            number += 1
            target = folder / f"{number}_{target.name}"
        with target.open("xb") as written:
            shutil.copyfileobj(file.file, written)


async def _while_connected(request: Request, answer: Coroutine[Any, Any, bytes]) -> bytes:
    """Wait for an answer, and cancel it when the client closes the connection.

    Raises:
        Refusal: With 499, which nobody receives, if the client has gone.
    """

    async def disconnection() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = work, gone = asyncio.create_task(answer), asyncio.create_task(disconnection())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Refusal(499, "The client closed the connection.")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if not work.cancelled():
            work.exception()
        if not gone.cancelled():
            gone.exception()


def create_app(service: Service) -> FastAPI:
    """Make the application. It closes the service at its end.

    Args:
        service: Answers the requests.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="diffmedseg",
        version=__version__,
        description="Research software. Not for diagnosis.",
        lifespan=lifespan,
        docs_url=None,  # this page loads scripts from the network; /openapi.json stays
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, limits=service.limits)
    _handle_errors(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Report that the service is running."""
        up = round(time.monotonic() - service.start, 1)
        return {
            "status": "ok",
            "version": __version__,
            "model": service.name,
            "answered": service.answered,
            "seconds": up,
        }

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """Describe the model, with its card."""
        return service.describe()

    @app.post("/segment", response_class=Response)
    async def segment_files(
        request: Request,
        files: Annotated[list[UploadFile], File(min_length=1)],
        answer: Annotated[Literal["zip", "json"], Form()] = "zip",
        samples: Annotated[bool, Form()] = False,
        num_samples: Annotated[int | None, Form(ge=1, le=_MOST_SAMPLES)] = None,
        num_steps: Annotated[int | None, Form(ge=1, le=_MOST_STEPS)] = None,
        threshold: Annotated[float | None, Form(gt=0, lt=1)] = None,
        seed: Annotated[int | None, Form(ge=0, lt=2**63)] = None,
    ) -> Response:
        """Segment a picture, or the files of a volume; the answer holds what ``diffmedseg predict`` writes."""
        fields = [name for name in signature(segment_files).parameters if name != "request"]
        if unknown := [name for name in await request.form() if name not in fields]:
            raise Refusal(422, f"There is no field {printable(unknown[0])}; expected {', '.join(fields)}.")
        settings = Settings(num_samples, num_steps, seed, threshold=threshold)
        options = RequestOptions(settings, samples, answer == "json")
        content = await _while_connected(request, service.answer(files, options))
        return Response(content, media_type=f"application/{answer}")

    return app


def _handle_errors(app: FastAPI) -> None:
    """Answer every error that a client can cause with a status and a sentence."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse({"detail": error.message}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = {str(one["loc"][1]) if len(one["loc"]) > 1 else "form": one["msg"] for one in error.errors()}
        if "files" in fields:
            fields["files"] = "expected a file or several, as curl -F files=@photo.jpg sends it"
        said = "; ".join(f"{name}: {message}" for name, message in fields.items())
        return JSONResponse({"detail": printable(said)}, 422)

    @app.exception_handler(HTTPException)
    async def refused_by_framework(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": printable(str(error.detail))}, error.status_code)

    @app.exception_handler(UnicodeDecodeError)
    async def not_text(_: Request, error: UnicodeDecodeError) -> JSONResponse:
        return JSONResponse({"detail": "The form holds text that is not UTF-8: send it as UTF-8."}, 400)


def printable(text: str) -> str:
    """Replace characters that cannot be encoded."""
    return re.sub(r"[\ud800-\udfff]", "?", text)
