"""The service answers with what predict writes, keeps its limits, and says what is wrong in a sentence."""

import base64
import io
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from helpers.dark_disc import BrightSegmenter, DarkSegmenter, bright_segmenter, dark_segmenter, picture
from helpers.mri_files import modality, write_nifti
from PIL import Image

from diffmedseg.prediction import Settings, find_pictures, predict_pictures
from diffmedseg.service.batching import Batcher
from diffmedseg.service.limits import Limits
from diffmedseg.service.server import Service, create_app


def serving(model, **limits):
    service = Service(model, "dark", "# card", "Research. Not for diagnosis.", Limits(**limits))
    return TestClient(create_app(service), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client():
    with serving(dark_segmenter()) as client:
        yield client


def png(image=None):
    content = io.BytesIO()
    (image or picture()).save(content, "PNG")
    return content.getvalue()


def post(client, *files, **fields):
    return client.post("/segment", files=[("files", file) for file in files], data=fields)


def test_the_zip_holds_the_files_of_predict(client, tmp_path):
    answer = post(client, ("scan.png", png()))
    assert answer.status_code == 200, answer.text
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    (tmp_path / "scan.png").write_bytes(png())
    predict_pictures(dark_segmenter(), find_pictures([tmp_path / "scan.png"]), tmp_path / "out")
    assert set(archive.namelist()) == {path.name for path in (tmp_path / "out").iterdir()}
    for name in set(archive.namelist()) - {"predictions.csv"}:
        assert archive.read(name) == (tmp_path / "out" / name).read_bytes(), name


def test_json_has_rows_masks_probability_and_samples(client):
    answer = post(client, ("scan.png", png()), answer="json", samples="true", num_samples="2", threshold="0.7").json()
    [row] = answer["rows"]
    assert (row["image"], row["region"], row["width"], row["height"]) == ("scan", "lesion", 90, 60)
    assert set(answer["files"]) == {
        "scan_mask.png", "scan_probability.png", "scan_disagreement.png", "scan_samples.npz",
    }  # fmt: skip
    files = {name: io.BytesIO(base64.b64decode(text)) for name, text in answer["files"].items()}
    mask, probability = (np.asarray(Image.open(files[f"scan_{kind}.png"])) for kind in ("mask", "probability"))
    assert np.array_equal(mask > 0, probability > 0.7 * 255)
    assert (mask > 0).sum() == row["area"]
    assert np.load(files["scan_samples.npz"])["samples"].shape == (2, 1, 60, 90)


@pytest.mark.parametrize("name", ["007", "1e5", "nan", "infinity", "12e400"])
def test_names_that_look_like_numbers_stay_as_they_are(name, client):
    answer = post(client, (f"{name}.png", png()), answer="json")
    assert "NaN" not in answer.text
    assert "Infinity" not in answer.text
    [row] = answer.json()["rows"]
    assert row["image"] == name
    assert isinstance(row["digest"], str)
    assert isinstance(row["area"], int)


def test_a_nifti_file_is_answered_on_its_grid(tmp_path):
    write_nifti(tmp_path / "brain.nii.gz", modality(1), np.float32)
    with serving(bright_segmenter(("flair",))) as client:
        answer = post(client, ("brain.nii.gz", (tmp_path / "brain.nii.gz").read_bytes()))
        assert answer.status_code == 200, answer.text
        assert "brain_mask.nii.gz" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
        wrong = post(client, ("scan.png", png()))
        assert wrong.status_code == 422
        assert "takes volumes, not pictures" in wrong.json()["detail"]


def test_health_and_card(client):
    health, card = client.get("/health").json(), client.get("/model").json()
    assert (health["status"], health["model"]) == ("ok", "dark")
    assert card["intended_use"] == "Research. Not for diagnosis."
    assert (card["channels"], card["regions"], card["num_samples"]) == (["red", "green", "blue"], ["lesion"], 3)


@pytest.mark.parametrize(
    ("files", "fields", "status", "said"),
    [
        ([("a.png", b"no picture")], {}, 422, "a.png: it cannot be decoded"),
        ([("a.nii.gz", b"x")], {}, 422, "it is a volume"),
        ([], {}, 422, "files"),
        ([("../../etc/passwd", b"x")], {}, 422, "passwd: it cannot be decoded"),
        ([("a.png", None)], {"num_samples": "0"}, 422, "num_samples"),
        ([("a.png", None)], {"num_samples": "1000000"}, 422, "num_samples"),
        ([("a.png", None)], {"threshold": "nan"}, 422, "threshold"),
        ([("a.png", None)], {"answer": "exe"}, 422, "answer"),
        ([("a.png", None)], {"seed": "-1"}, 422, "seed"),
        ([("a.png", None)], {"num_sample": "16"}, 422, "There is no field num_sample; expected files, answer,"),
        ([("a.png", None), ("b", None), ("c.txt", b"text")], {}, 422, "b, c.txt: the ending of the name is not"),
        ([], {"files": "text"}, 422, "files: expected a file or several"),
    ],
)
def test_what_is_wrong_is_said_with_4xx(files, fields, status, said, client):
    answer = post(client, *[(name, png() if content is None else content) for name, content in files], **fields)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert "/tmp" not in answer.text
    assert "Traceback" not in answer.text


def test_no_file_is_written_where_the_client_says_and_none_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    service = Service(dark_segmenter(), "dark", "", "", Limits())
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        for name in ("../../../evil.png", "/evil.png", "..\\evil.png", ".hidden.png", "a\x00b.png"):
            assert post(client, (name, png())).status_code in {200, 400, 422}
            assert list(tmp_path.iterdir()) == [service.folder]
            assert list(service.folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_is_too_large_gets_413_with_and_without_its_length():
    with serving(dark_segmenter(), megabytes=1) as client:
        large = png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)))
        assert len(large) > 2**20
        answer = post(client, ("a.png", large))
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith("The body is larger than 1 MB")

        def chunks():
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            for _ in range(40):
                yield b"0" * 2**16

        answer = client.post("/segment", content=chunks(), headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 413
        assert post(client, ("a.png", png())).status_code == 200


def test_files_that_announce_too_much_get_413_before_they_are_decoded(tmp_path):
    blank = png(Image.new("L", (1100, 1000)))
    assert len(blank) < 10_000
    with serving(dark_segmenter(), megapixels=1) as client:
        assert post(client, ("a.png", png())).status_code == 200
        answer = post(client, ("a.png", blank))
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith("The files have 1.1 million pixels or voxels; at most 1 million")
        several = [(f"{number}.png", png(Image.new("L", (600, 600)))) for number in range(3)]
        assert post(client, *several).status_code == 413
    write_nifti(tmp_path / "brain.nii.gz", np.zeros((60, 140, 140)), np.uint8)
    with serving(bright_segmenter(("flair",)), megapixels=1) as client:
        assert post(client, ("brain.nii.gz", (tmp_path / "brain.nii.gz").read_bytes())).status_code == 413


class SlowSegmenter(DarkSegmenter):
    """Waits before it draws."""

    name = "slow"
    gate: threading.Event

    def draw_samples(self, image, generators, num_steps):
        self.gate.wait(30)
        return super().draw_samples(image, generators, num_steps)


def slow(cls=SlowSegmenter, **options):
    model = dark_segmenter(cls=cls, **options)
    model.gate = threading.Event()
    return model


def test_a_request_that_takes_too_long_gets_504_and_the_next_is_answered():
    model = slow()
    with serving(model, seconds=0.3) as client:
        assert post(client, ("a.png", png())).status_code == 504  # while the model still draws
        assert not model.gate.is_set()
        model.gate.set()
    with serving(model) as client:
        assert post(client, ("a.png", png())).status_code == 200


def test_requests_whose_time_is_up_are_neither_waited_for_nor_drawn():
    model = slow()
    service = Service(model, "dark", "", "", Limits(seconds=0.5, requests=2, waiting=4, batch=1))
    with TestClient(create_app(service)) as client, ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(post, client, ("a.png", png())) for _ in range(6)]
        assert {job.result().status_code for job in jobs} == {504}
        while service.slots.inside:  # their threads end although the model still draws
            time.sleep(0.01)
        model.gate.set()
        assert post(client, ("a.png", png())).status_code == 200
    assert service.batcher.batches == 2  # the first, which could not be stopped, and the last


def test_more_requests_than_may_wait_get_503():
    model = slow()
    with serving(model, requests=1, waiting=1) as client, ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(post, client, ("a.png", png())) for _ in range(6)]
        while sum(job.done() for job in jobs) < 4:
            time.sleep(0.02)
        model.gate.set()
        answers = [job.result() for job in jobs]
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "1"


def test_pictures_that_wait_together_are_drawn_together_and_each_gets_its_own():
    model = slow()
    batcher = Batcher(model, 4, 0.01)
    settings = [Settings(num_samples=2 + n % 2).filled_from(model) for n in range(6)]  # two kinds, in turns
    images = [torch.full((1, 3, 32, 32), value) for value in (-0.9, -0.3, 0.3, 0.9, -0.5, 0.5)]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(batcher.draw, image, [f"k{n}"], settings[n]) for n, image in enumerate(images)]
        time.sleep(0.3)
        model.gate.set()
        together = [job.result().samples for job in jobs]
    assert 2 <= batcher.batches < len(images)
    alone = [batcher.draw(image, [f"k{n}"], settings[n]).samples for n, image in enumerate(images)]
    batcher.close()
    for n, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert one.shape[1] == 2 + n % 2
        assert torch.allclose(one, other, atol=1e-6)


class CrowdSegmenter(SlowSegmenter):
    """Its samples depend on the size of the batch, as a convolution's rounding does."""

    name = "crowd"

    def draw_samples(self, image, generators, num_steps):
        samples = super().draw_samples(image, generators, num_steps)
        return replace(samples, samples=(samples.samples + 0.02 * len(image)).clamp(0, 1))


def test_an_answer_does_not_depend_on_other_requests():
    model = slow(cls=CrowdSegmenter)
    files = [(f"{number}.png", png(picture(60 + number, 50))) for number in range(5)]

    def maps(answer):
        assert answer.status_code == 200, answer.text
        return answer.json()["files"]

    with serving(model) as client, ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(post, client, file, answer="json") for file in files]
        time.sleep(0.3)  # all wait for the model
        model.gate.set()
        together = [maps(job.result()) for job in jobs]
        assert together == [maps(post(client, file, answer="json")) for file in files]


class FailingSegmenter(BrightSegmenter):
    """Never draws."""

    def draw_samples(self, image, generators, num_steps):
        raise RuntimeError("no luck")


def test_a_model_that_fails_fails_one_request_at_a_time():
    with serving(dark_segmenter(cls=FailingSegmenter)) as client:
        answers = [post(client, ("a.png", png())) for _ in range(2)]
        assert client.get("/health").json()["status"] == "ok"
    assert {answer.status_code for answer in answers} == {500}
    assert "RuntimeError: no luck" in answers[0].json()["detail"]
