"""As much of the Hugging Face Hub's API as uploads and downloads of model repositories need."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
_LARGE = (".safetensors", ".png")  # files that go by way of large file storage, as on the hub


class FakeHub:
    """Repositories by name, each a dict of files; ``address`` is where they are served."""

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    def commit(self, repository: str, lines: Iterable[bytes]) -> str:
        files, [header, *operations] = self.repositories[repository], [json.loads(line) for line in lines]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            else:
                del files[value["path"]]
        return str(header["value"]["summary"])


class _Server(http.server.ThreadingHTTPServer):
    hub: FakeHub


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def handle_any(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append((self.command, path))
        writes = self.command == "PUT" or path == "/api/repos/create" or "/commit/" in path or "/preupload/" in path
        if writes and not path.startswith("/storage/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(403, "Forbidden", "You have no right to write")
        for pattern, method in _ROUTES.items():
            if found := re.fullmatch(pattern, path):
                repository = found.groupdict().get("repository")
                if repository is not None and repository not in hub.repositories:
                    return self.refuse(404, "RepoNotFound", "Repository not found")
                return method(self, body, **found.groupdict())
        return self.refuse(404, "NotFound", f"no route {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.hub.repositories:
            return self.refuse(409, "Conflict", "You already created this model repo")
        self.server.hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs"}
        return self.answer(200, {"url": f"{self.server.hub.address}/{name}"})

    def validate(self, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def info(self, body: bytes, repository: str) -> None:
        files = [{"rfilename": name} for name in self.server.hub.repositories[repository]]
        facts = {"id": repository, "sha": "0" * 40, "private": False, "tags": [], "downloads": 0, "likes": 0}
        self.answer(200, facts | {"siblings": files})

    def tree(self, body: bytes, repository: str, folder: str | None) -> None:
        files, prefix = self.server.hub.repositories[repository], f"{(folder or '').strip('/')}/".lstrip("/")
        recursive, entries, folders = "recursive=" in self.path, list[dict[str, Any]](), set[str]()
        for name, content in files.items():
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if "/" in rest and not recursive:
                folders.add(prefix + rest.partition("/")[0])
            else:
                entries.append(_described(name, content))
        entries += [{"type": "directory", "path": name, "oid": "1" * 40, "size": 0} for name in sorted(folders)]
        self.answer(200, entries)

    def preupload(self, body: bytes, repository: str) -> None:
        files = [
            {"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False, "oid": None}
            for one in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, body: bytes, repository: str) -> None:
        address = self.server.hub.address
        objects = [
            {**one, "actions": {"upload": {"href": f"{address}/storage/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, "Bad", "another hash")
        self.server.hub.stored[oid] = body
        return self.answer(200)

    def commit(self, body: bytes, repository: str) -> None:
        self.server.hub.commit(repository, body.splitlines())
        self.answer(200, {"commitUrl": f"{self.server.hub.address}/{repository}/commit/0", "commitOid": "0" * 40})

    def resolve(self, body: bytes, repository: str, file: str) -> None:
        content = self.server.hub.repositories[repository].get(file)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        facts = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X_Repo_Commit": "0" * 40}
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            first, last = int(found[1]), int(found[2])
            facts["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.answer(206, content[first : last + 1], **facts)
        return self.answer(200, content, **facts)


_REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"
_ROUTES: dict[str, Callable[..., None]] = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": _Handler.validate,
    rf"/api/models/{_REPOSITORY}(?:/revision/main)?": _Handler.info,
    rf"/api/models/{_REPOSITORY}/tree/[^/]+(?P<folder>/.*)?": _Handler.tree,
    rf"/api/models/{_REPOSITORY}/preupload/main": _Handler.preupload,
    rf"/{_REPOSITORY}\.git/info/lfs/objects/batch": _Handler.batch,
    "/storage/(?P<oid>[0-9a-f]+)": _Handler.store,
    rf"/api/models/{_REPOSITORY}/commit/main": _Handler.commit,
    rf"/{_REPOSITORY}/resolve/[^/]+/(?P<file>.+)": _Handler.resolve,
}


def _mode(path: str) -> str:
    return "lfs" if path.endswith(_LARGE) else "regular"


def _described(name: str, content: bytes) -> dict[str, Any]:
    sha1, size = hashlib.sha1(content).hexdigest(), len(content)
    described: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": sha1}
    if _mode(name) == "lfs":
        described["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
    return described


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
    """Serve a hub without repositories."""
    hub = FakeHub()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub, hub.address = hub, f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
