"""What a request may ask for: how large it is, how long it takes, and how many there are at a time."""

import asyncio
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
        megabytes: Of a request's body.
        seconds: From the arrival of a request to its answer; what is not done then is stopped.
        requests: Requests that are worked on at the same time.
        waiting: Requests that may wait beyond these; more are refused.
        batch: Pictures of different requests that are segmented together.
        batch_wait: Seconds that a picture waits for others.
    """

    megabytes: int = 256
    seconds: float = 120
    requests: int = 8
    waiting: int = 32
    batch: int = 8
    batch_wait: float = 0.01


class Refusal(Exception):
    """A request that is not answered as it wished.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: What was found, what was expected, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Slots:
    """Lets a number of requests in at a time, and a number wait.

    Args:
        limits: The limits.

    Attributes:
        inside: Requests that are worked on, or wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._free, self.inside = limits, asyncio.Semaphore(limits.requests), 0

    async def take(self) -> None:
        """Wait for a slot, which the caller has to give back.

        Raises:
            Refusal: With 503, if too many wait already.
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
        """Let the next request in."""
        self.inside -= 1
        self._free.release()


class BodyLimit:
    """Refuses bodies that are too large, with 413, as soon as they are: before they fill memory or disk.

    Args:
        app: The application behind it.
        megabytes: Largest body.
    """

    def __init__(self, app: Application, megabytes: int) -> None:
        self._app, self._megabytes = app, megabytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left = self._megabytes * 2**20
        said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if said.isdigit() and int(said) > left:
            await self._refuse(send)
            return
        started = False

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLarge:
            if not started:
                await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        text = f'{{"detail": "The body is larger than {self._megabytes} MB: send a smaller file."}}'
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})


class _TooLarge(BaseException):
    """Raised inside of the application, which must not answer it by itself."""
