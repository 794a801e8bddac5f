"""Clients that leave, send slowly or send nothing cost the service no more than their connection."""

import asyncio
import json
import threading
import time

import pytest
from helpers.dark_disc import dark_segmenter
from service_load import SAMPLE, whole_body

from diffmedseg.prediction import Stopped
from diffmedseg.service.limits import Limits
from diffmedseg.service.server import Service, create_app

SCOPE = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
    "path": "/segment", "raw_path": b"/segment", "query_string": b"", "root_path": "",
    "headers": [(b"content-type", b"multipart/form-data; boundary=diffmedseg-boundary")],
    "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
}  # fmt: skip


class Connection:
    """A connection of ASGI. When the messages are used up, nothing more comes."""

    def __init__(self, *messages):
        self.messages, self.sent = list(messages), []

    async def receive(self):
        if not self.messages:
            await asyncio.sleep(3600)
        return self.messages.pop(0)

    async def send(self, message):
        self.sent.append(message)

    @property
    def answer(self):
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["detail"]


def body(content, more=False):
    return {"type": "http.request", "body": content, "more_body": more}


@pytest.fixture
def service():
    service = Service(dark_segmenter(), "dark", "", "", Limits(seconds=0.3))
    yield service
    service.close()


def test_the_work_ends_when_the_client_has_gone(service):
    started, ended = threading.Event(), threading.Event()

    def endless(images, keys, settings, stop):
        started.set()
        while not stop.is_set():
            time.sleep(0.01)
        ended.set()
        raise Stopped

    service.batcher.draw = endless
    service.limits = Limits(seconds=60)
    connection = Connection(body(whole_body(SAMPLE.read_bytes())))

    async def run():
        gone = asyncio.Event()

        async def receive():
            if connection.messages:
                return connection.messages.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        waiting = asyncio.create_task(create_app(service)(SCOPE, receive, connection.send))
        while not started.is_set():
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(waiting, 10)
        while service.slots.inside:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert ended.wait(10)
    assert list(service.folder.iterdir()) == []


@pytest.mark.parametrize("start", [[], [body(b"--diffmedseg-boundary\r\n", more=True)]])
def test_a_body_that_does_not_come_gets_408(start, service):
    connection = Connection(*start)
    asyncio.run(asyncio.wait_for(create_app(service)(SCOPE, connection.receive, connection.send), 30))
    status, detail = connection.answer
    assert status == 408
    assert detail == "The body did not arrive within 0.3 seconds: send it again."
    assert service.slots.inside == 0
