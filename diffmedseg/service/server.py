"""The HTTP interface: FastAPI's application of a model."""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
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
from diffmedseg.service.answers import RequestWatcher, Wish, as_json, as_zip, segment, without_folder
from diffmedseg.service.batching import Batcher
from diffmedseg.service.limits import BodyLimit, Limits, Refusal, Slots

_MOST_SAMPLES = 64
_MOST_STEPS = 100


class Service:
    """A model that answers requests.

    Args:
        model: The model, on its device.
        name: What it is called.
        card: Its card, as Markdown.
        intended_use: What it is for, and what it is not for.
        limits: The limits.
    """

    def __init__(self, model: Segmenter, name: str, card: str, intended_use: str, limits: Limits) -> None:
        self.model, self.name, self.card, self.intended_use, self.limits = model, name, card, intended_use, limits
        self.batcher = Batcher(model, limits.batch, limits.batch_wait)
        self.workers = ThreadPoolExecutor(limits.requests, "request")
        self.slots = Slots(limits)
        self.answered, self.start = 0, time.monotonic()

    def close(self) -> None:
        """End the threads."""
        self.workers.shutdown(wait=True, cancel_futures=True)
        self.batcher.close()

    def describe(self) -> dict[str, Any]:
        """Return what there is to know of the model."""
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

    async def answer(self, files: list[UploadFile], wish: Wish) -> bytes:
        """Segment files.

        Raises:
            Refusal: With 4xx where the files or the wish are wrong, 503 where there is too much to do, 504 where the
                time is up.
        """
        stop = Event()
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.slots.take()
                work = asyncio.get_running_loop().run_in_executor(self.workers, self._work, files, wish, stop)
                work.add_done_callback(self._end)
                return await asyncio.shield(work)
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            stop.set()

    def _end(self, work: "asyncio.Future[bytes]") -> None:
        """Give a request's slot back when its thread is done, which may be later than its answer."""
        self.slots.give_back()
        if not work.cancelled():
            work.exception()  # was answered

    def _too_late(self) -> Refusal:
        return Refusal(
            504, f"It was not done within {self.limits.seconds:g} seconds: ask for fewer samples or slices, or later."
        )

    def _work(self, files: list[UploadFile], wish: Wish, stop: Event) -> bytes:
        folder = Path(tempfile.mkdtemp(prefix="diffmedseg-request-"))
        try:
            _store(files, folder / "in")
            out = segment(self.model, folder, wish, RequestWatcher(self.batcher, stop))
            content = as_json(out) if wish.as_json else as_zip(out)
            self.answered += 1
            return content
        except Stopped as error:
            raise self._too_late() from error
        except (DataError, ValueError) as error:
            raise Refusal(422, without_folder(folder, str(error))) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _store(files: list[UploadFile], folder: Path) -> None:
    """Write uploaded files into a folder of the server's choice, under cleaned names."""
    folder.mkdir()
    for file in files:
        target, number = folder / clean_name(file.filename or "image"), 1
        while target.exists():
            number += 1
            target = folder / f"{number}_{target.name}"
        with target.open("xb") as written:
            shutil.copyfileobj(file.file, written)


def create_app(service: Service) -> FastAPI:
    """Make the application; it takes the service over, and closes it at its end.

    Args:
        service: Answers its requests.
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
        docs_url=None,  # its page fetches scripts from elsewhere; /openapi.json stays
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, megabytes=service.limits.megabytes)
    _handle_errors(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Say that the service is alive."""
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
        """Return the model's card, and what it takes and gives."""
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
        content = await service.answer(files, Wish(settings, samples, answer == "json"))
        return Response(content, media_type=f"application/{answer}")

    return app


def _handle_errors(app: FastAPI) -> None:
    """Answer every error that a client can bring about with a status and a sentence."""

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
    """Return text in which what cannot be encoded is escaped."""
    return re.sub(r"[\ud800-\udfff]", "?", text)
