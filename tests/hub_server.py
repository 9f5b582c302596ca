"""What `huggingface_hub` asks of the Hugging Face Hub's HTTP API, answered on loopback, or not, as it is told to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "loopbackloopback1234"
LARGE = (".safetensors", ".parquet", ".mp4")
"""Files that go to the large storage, as the Hub decides by name and size."""


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" holds `where`.

    status: of the answer. cut: instead, only these many bytes of the body are sent, and the connection ends; once
    `hold` is set, where there is one.
    """

    where: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    cut: int = 0
    hold: threading.Event | None = None


@dataclass
class Repository:
    """private: shown to who has the token alone. commits: files by commit, in order. tags: commits by tag."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = files
        return name

    def find(self, revision: str) -> str:
        """The commit of a revision; "" where there is none."""
        if revision == "main":
            return list(self.commits)[-1] if self.commits else ""
        name = self.tags.get(revision, revision)
        return name if name in self.commits else ""

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.find("main")]


class HubServer(ThreadingHTTPServer):
    """Serves from construction to `end`. asked: "METHOD path" of each request, with its Range where it had one.

    tokens: the Authorization headers that came. stored: the large storage, by SHA-256. faults: see `Fault`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.stored: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self._connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, files: dict[str, bytes], kind: str = "models", private: bool = False) -> Repository:
        """A new commit of a repository, which is made where it is missing."""
        repository = self.repositories.setdefault(f"{kind}/{name}", Repository(private))
        repository.commit(dict(files))
        return repository

    def count(self, where: str) -> int:
        """How many requests held this text."""
        return sum(where in line for line in self.asked)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of the server's business."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def end(self) -> None:
        """Go as a killed process goes: the port is closed, and so is every connection."""
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        self.cut, self.hold = 0, None
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        extra = f" {self.headers['Range']}" if self.headers.get("Range") else ""
        line = f"{self.command} {path}{extra}"
        self.server.asked.append(line)
        if self.headers.get("Authorization"):
            self.server.tokens.add(self.headers["Authorization"])
        for fault in self.server.faults:
            if fault.where in line and fault.times > 0:
                fault.times -= 1
                if fault.status:
                    return self._answer(fault.status, b"{}", fault.headers)
                self.cut, self.hold = fault.cut, fault.hold
                break
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return getattr(self, method)(**found.groupdict())
        return self._answer(404, b"{}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _answer(
        self, status: int, body: bytes | dict[str, Any] | list[Any], headers: dict[str, str] | None = None
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: self.cut] if self.cut else content)
        if self.cut:
            self.wfile.flush()
            if self.hold is not None:
                self.hold.wait(60.0)
            self.close_connection = True

    def _find(self, kind: str, name: str, revision: str = "") -> tuple[Repository, str] | None:
        """The repository and the commit; None once it was answered that there is none such, or none for strangers."""
        repository = self.server.repositories.get(f"{kind}/{name}")
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not known and (repository is None or repository.private or self.headers.get("Authorization")):
            wrong = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._answer(401, b"{}", wrong if self.headers.get("Authorization") else {"X-Error-Code": "RepoNotFound"})
            return None
        if repository is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.find(revision) if revision else ""
        if revision and not commit and (revision != "main" or self.command != "POST"):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def whoami(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self._answer(200 if known else 401, {"name": "owner", "type": "user", "orgs": []} if known else b"{}")

    def create(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, b"{}")
        wanted = json.loads(self.body)
        name = f"{wanted['type']}s/{wanted['organization']}/{wanted['name']}"
        known = name in self.server.repositories
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.server.repositories.setdefault(name, Repository(private)).commits.setdefault("0" * 40, {})
        return self._answer(409 if known else 200, {"url": f"{self.server.address}/{name}"})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        if found := self._find(kind, name, revision or "main"):
            repository, commit = found
            siblings = [{"rfilename": path, "size": len(data)} for path, data in repository.commits[commit].items()]
            self._answer(200, {"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str) -> None:
        if found := self._find(kind, name, revision):
            repository, commit = found
            self._answer(
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": blob(data)}
                    for path, data in repository.commits[commit].items()
                ],
            )

    def refs(self, kind: str, name: str) -> None:
        if found := self._find(kind, name):
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": to} for tag, to in found[0].tags.items()]
            self._answer(200, {"branches": [], "converts": [], "tags": tags})

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        if not (found := self._find(kind or "models", name, revision)):
            return None
        repository, commit = found
        data = repository.commits[commit].get(path)
        if data is None:
            return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self._answer(206, data[start:], headers)
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(data))
        return self._answer(200, data, headers)

    def validate(self) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if found := self._find(kind, name, revision):
            there = found[0].commits.get(found[1], {})
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": oid(there[file["path"]], file["path"]) if file["path"] in there else None,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._answer(200, {"files": files})

    def batch(self, name: str, kind: str | None = None) -> None:
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            known = {"oid": wanted["oid"], "size": wanted["size"]}
            upload = {"upload": {"href": f"{self.server.address}/lfs/{wanted['oid']}"}}
            objects.append(known if wanted["oid"] in self.server.stored else {**known, "actions": upload})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def store(self, digest: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != digest:
            return self._answer(400, b"{}")
        self.server.stored[digest] = self.body
        return self._answer(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        if not (found := self._find(kind, name, revision)):
            return None
        files = dict(found[0].commits.get(found[1], {}))
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.stored:
                    return self._answer(400, b"{}", {"X-Error-Message": "no such object"})
                files[value["path"]] = self.server.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        new = found[0].commit(files)
        return self._answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{new}", "commitOid": new})

    def tag(self, kind: str, name: str, revision: str) -> None:
        if found := self._find(kind, name, revision):
            wanted = json.loads(self.body)["tag"]
            taken = wanted in found[0].tags
            found[0].tags.setdefault(wanted, found[1])
            self._answer(409 if taken else 200, b"{}")

    def untag(self, kind: str, name: str, tag: str) -> None:
        if found := self._find(kind, name):
            gone = found[0].tags.pop(tag, None)
            self._answer(200 if gone else 404, b"{}", {} if gone else {"X-Error-Code": "RevisionNotFound"})


def blob(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def oid(data: bytes, path: str) -> str:
    """The Hub's name of a file's content."""
    return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else blob(data)


API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
PLAIN = r"/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)"
ROUTES = (
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"GET {API}", "info"),
    (rf"GET {API}/revision/(?P<revision>.+)", "info"),
    (rf"GET {API}/tree/(?P<revision>.+)", "tree"),
    (rf"GET {API}/refs", "refs"),
    (rf"POST {API}/preupload/(?P<revision>.+)", "preupload"),
    (rf"POST {API}/commit/(?P<revision>.+)", "commit"),
    (rf"POST {API}/tag/(?P<revision>.+)", "tag"),
    (rf"DELETE {API}/tag/(?P<tag>.+)", "untag"),
    (r"PUT /lfs/(?P<digest>\w+)", "store"),
    (rf"(?:GET|HEAD) {PLAIN}/resolve/(?P<revision>[^/]+|refs/pr/\d+)/(?P<path>.+)", "resolve"),
    (rf"POST {PLAIN}\.git/info/lfs/objects/batch", "batch"),
)
