"""The served app over HTTP: whole runs, two users, and nothing outside of the uploads."""

import io
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from helpers.dark_disc import dark_segmenter, picture
from helpers.served import Shelf, served

from diffmedseg.app.handlers import NO_SECOND

client = pytest.importorskip("gradio_client")
SAMPLE = Path(__file__).parents[2] / "zoo" / "sample.png"
CONTROLS = ["Mask", "all", "colours", 0.4, 1, 0.5, True, 1, 1, 1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("app") / "root"
        with served(root, patch, SAMPLE) as address:
            yield address, root


def user(address, tmp_path):
    settings = {"timeout": 300}  # a busy machine is no failure
    return client.Client(address, verbose=False, download_files=str(tmp_path), httpx_kwargs=settings)


def offline_handlers(root):
    """The handlers without a server, and the request of a tab."""
    from diffmedseg.app.handlers import Handlers

    return Handlers(Shelf(dark=dark_segmenter()), root, SAMPLE), SimpleNamespace(session_hash="a")


def uploaded(user, path):
    return user.predict([client.handle_file(str(path))], api_name="/upload")


def test_two_users_each_see_their_own_picture(address, tmp_path):
    address, root = address
    users = {}
    for name in ("anna", "bo"):
        picture().save(tmp_path / f"{name}.png")
        users[name] = user(address, tmp_path)
        assert "1 file ready" in uploaded(users[name], tmp_path / f"{name}.png")
    jobs = {name: one.submit("dark", NO_SECOND, api_name="/segment") for name, one in users.items()}
    assert all("Segmented 1 image." in job.result(120) for job in jobs.values())
    for name, one in users.items():
        one.predict(api_name="/prepare")  # as the page does: it offers the images of this user alone
        views, facts = one.predict(name, *CONTROLS, api_name="/look")
        assert views.count("<img") == 2
        assert f">{name}<" in views
        assert "px" in facts
        [other] = set(users) - {name}
        with pytest.raises(Exception, match="not in the list of choices"):
            one.predict(other, *CONTROLS, api_name="/look")
    assert len([path for path in root.iterdir() if path.name.startswith("session-")]) >= 2


def test_a_late_answer_of_stop_does_not_replace_the_last_message(tmp_path):
    """The answer of Stop and the messages of the prediction arrive on two connections, in any order."""
    handlers, request = offline_handlers(tmp_path)
    session = handlers.begin(None, request)
    assert "Nothing is running." in handlers.stop(session)
    handlers.example(session, request)
    handlers.wait(session, request)
    waiting = handlers.stop(session)
    *_, (_, last) = handlers.segment(session, "dark", NO_SECOND, request)
    assert waiting == last
    assert "Stopped before it began." in last
    handlers.wait(session, request)
    steps = handlers.segment(session, "dark", NO_SECOND, request)
    next(steps)
    assert "value" not in handlers.stop(session)  # changes nothing on the page
    *_, (_, last) = steps
    assert "Stopped. Nothing is kept." in last
    assert "Nothing is running." in handlers.stop(session)
    handlers.end(session)


def test_a_broken_upload_and_a_model_that_is_not_offered_are_one_sentence(address, tmp_path):
    one = user(address[0], tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    uploaded(one, tmp_path / "a.png")
    said = one.predict("dark", NO_SECOND, api_name="/segment")
    assert "dms-error" in said
    assert "a.png: it cannot be decoded" in said
    assert str(address[1]) not in said
    with pytest.raises(Exception, match="not in the list of choices"):
        one.predict("../../etc/passwd", NO_SECOND, api_name="/segment")


def test_no_path_outside_of_the_uploads_is_readable(address, tmp_path):
    address, root = address
    (tmp_path / "secret.png").write_bytes(b"of nobody else")
    tries = [str(tmp_path / "secret.png"), "/etc/passwd", str(root / ".." / "secret.png"), str(root), "pyproject.toml",
             str(Path.cwd() / "pyproject.toml")]  # fmt: skip
    for path in tries:
        for prefix in ("gradio_api/file=", "file=", "gradio_api/file/"):
            answer = httpx.get(f"{address}{prefix}{path}")
            assert answer.status_code >= 400 or "<html" in answer.text[:200].lower(), path
            assert b"of nobody else" not in answer.content
            assert b"root:" not in answer.content
            assert b"[project]" not in answer.content
    data = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    named = {"data": [[data]], "session_hash": "s1"}
    started = httpx.post(f"{address}gradio_api/call/upload", json=named).json()
    answer = httpx.get(f"{address}gradio_api/call/upload/{started['event_id']}", timeout=60)
    assert "event: error" in answer.text
    assert not list(root.rglob("passwd"))


def test_a_file_above_the_limit_is_refused(address):
    files = {"files": ("large.png", io.BytesIO(b"0" * (2**20 + 1)))}
    answer = httpx.post(f"{address[0]}gradio_api/upload", files=files)
    assert answer.status_code == 413


def test_the_page_names_nothing_outside(address):
    page = httpx.get(address[0]).text
    for host in ("fonts.googleapis", "fonts.gstatic", "cdn.", "unpkg.com", "jsdelivr"):
        assert f"https://{host}" not in page
    config = httpx.get(f"{address[0]}config").json()
    assert config["analytics_enabled"] is False


def test_uploads_go_with_the_session(tmp_path):
    handlers, first = offline_handlers(tmp_path)
    second = SimpleNamespace(session_hash="b")
    sessions = [handlers.begin(None, request) for request in (first, second)]
    assert handlers.begin(None, first) is sessions[0]  # two events of a tab that just opened
    handlers.example(sessions[0], first)
    *_, (_, said) = handlers.segment(sessions[0], "dark", NO_SECOND, first)
    assert "Segmented 1 image." in said
    stray = tmp_path / "0123" / "layer_0.png"
    stray.parent.mkdir()
    stray.write_bytes(b"strokes")
    handlers.unload(first)
    assert not sessions[0].folder.exists()
    assert sessions[1].folder.exists()
    assert stray.exists()  # it may be on its way to the other user
    time.sleep(0.01)
    handlers.unload(second)
    assert list(tmp_path.iterdir()) == []
    assert SAMPLE.exists()
    reopened = handlers.begin(sessions[0], first)
    assert reopened is not sessions[0]


def test_an_event_that_was_on_its_way_when_the_results_went_is_no_error(address, tmp_path):
    picture().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    one = user(address[0], tmp_path)
    for name in ("a.png", "b.png"):
        uploaded(one, tmp_path / name)
        one.predict("dark", NO_SECOND, api_name="/segment")
        one.predict(api_name="/prepare")
    assert "There is no result to show." in one.predict("a", *CONTROLS, api_name="/look")[0]
