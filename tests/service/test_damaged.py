"""Damaged bodies get 4xx, unless what they hold is still whole."""

import random

import pytest
from fastapi.testclient import TestClient
from helpers.dark_disc import dark_segmenter
from service_load import SAMPLE, damage, holds_a_picture, whole_body

from diffmedseg.service.limits import Limits
from diffmedseg.service.server import Service, create_app

HEADERS = {"content-type": "multipart/form-data; boundary=diffmedseg-boundary"}


@pytest.fixture(scope="module")
def client():
    service = Service(dark_segmenter(), "dark", "", "", Limits())
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


def test_damaged_bodies_get_4xx(client):
    rng, body = random.Random(0), whole_body(SAMPLE.read_bytes())
    assert client.post("/segment", content=body, headers=HEADERS).status_code == 200
    refused = 0
    for _ in range(300):
        changed = damage(body, rng)
        status = client.post("/segment", content=changed, headers=HEADERS).status_code
        assert 400 <= status < 500 or (status == 200 and holds_a_picture(changed)), changed
        refused += status >= 400
    assert refused > 250
    assert client.post("/segment", content=body, headers=HEADERS).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b"{}", {"content-type": "application/json"}),
        (b"x", {"content-type": "multipart/form-data"}),
        (b"x", {"content-type": "multipart/form-data; boundary="}),
        (b"\xff" * 100, {"content-type": "text/plain; charset=utf-16"}),
        (b"files=a", {"content-type": "application/x-www-form-urlencoded"}),
    ],
)
def test_bodies_that_are_no_form_get_4xx(content, headers, client):
    answer = client.post("/segment", content=content, headers=headers)
    assert 400 <= answer.status_code < 500
    assert isinstance(answer.json()["detail"], str)
