"""Limits of a service: size of a request, time for an answer, number of requests."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    Attributes:
        megabytes: Largest body of a request.
        megapixels: Largest number of pixels or voxels in a request, in millions. A small file can announce gigabytes.
        seconds: Longest time for the upload, and again for the answer.
        requests: Requests that are processed at the same time.
        waiting: Further requests that may wait. Any more are refused.
        batch: Pictures of different requests that are segmented together. With 1, an answer does not depend on other
            requests, to the bit. With more, rounding differs: a convolution's result depends on the size of its batch.
        batch_wait: Seconds that a picture waits for other pictures, if ``batch`` is more than 1.
    """

    megabytes: int = 256
    megapixels: int = 100
    seconds: float = 120
    requests: int = 8
    waiting: int = 32
    batch: int = 1
    batch_wait: float = 0.01


class Refusal(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: What was found, what was expected, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Slots:
    """Counts requests: some are processed, some wait, and any more are refused.

    Args:
        limits: The limits.

    Attributes:
        inside: Requests that are processed or wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._free, self.inside = limits, asyncio.Semaphore(limits.requests), 0

    async def take(self) -> None:
        """Wait for a slot. The caller has to give it back.

        Raises:
            Refusal: With 503, if too many requests wait already.
        """
        if self.inside >= self._limits.requests + self._limits.waiting:
            raise Refusal(503, f"{self.inside} requests are being answered. Try again in a moment.")
        self.inside += 1
        try:
            await self._free.acquire()
        except asyncio.CancelledError:
            self.inside -= 1
            raise

    def give_back(self) -> None:
        """Free a slot for the next request."""
        self.inside -= 1
        self._free.release()


class BodyLimit:
    """Middleware that refuses large bodies with 413 and slow bodies with 408, before they fill memory or disk.

    Args:
        app: The application.
        limits: The limits.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._too_large = _BodyRefusal(413, f"The body is larger than {limits.megabytes} MB: send a smaller file.")
        self._too_slow = _BodyRefusal(408, f"The body did not arrive within {limits.seconds:g} seconds: send it again.")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left, complete, started = self._limits.megabytes * 2**20, False, False
        due = asyncio.get_running_loop().time() + self._limits.seconds
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > left:
            await self._too_large.send(send)
            return

        async def receive_within_limits() -> Message:
            nonlocal left, complete
            if complete:  # the next message is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large
            complete = not message.get("more_body", False)
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive_within_limits, send_and_note)
        except _BodyRefusal as refusal:
            if not started:
                await refusal.send(send)


class _BodyRefusal(BaseException):
    """Raised inside the application. It is no Exception, so that the application does not answer it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    async def send(self, send: Send) -> None:
        """Send the answer, and close the connection."""
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": self.message}).encode()})
