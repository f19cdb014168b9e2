"""A loopback server that plays the Hub: the model API, file metadata and file bodies, and ways to go wrong."""

import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A repository: its files, and how its answers differ from good ones.

    api      (status, X-Error-Code) of the answer about the repository, None for a good one
    answer   the body of that answer, None for a good one
    gate     as api, for each of its files
    body     file name -> function from the true bytes to the bytes sent
    breaks   files whose connection closes before the body is complete
    commit   the commit of `main`
    others   branch or tag -> the repository as it is there, with a commit of its own
    """

    files: dict[str, bytes]
    api: tuple[int, str] | None = None
    answer: bytes | None = None
    gate: tuple[int, str] | None = None
    body: dict = field(default_factory=dict)
    breaks: frozenset = frozenset()
    commit: str = REVISION
    others: dict = field(default_factory=dict)

    def at(self, revision):
        """The repository at a branch, tag or commit, or None."""
        if revision in ("main", self.commit):
            return self
        by_commit = {other.commit: other for other in self.others.values()}
        return (self.others | by_commit).get(revision)


class Hub:
    """The repositories of a running server and the requests it has had."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.handle_error = lambda *_: None  # a client that hangs up is part of the play
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def fetched(self):
        """Names of the files whose bytes were asked for."""
        return [
            path.rsplit("/", 1)[1]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        ]


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def log_message(self, *_):
            pass

        def answer(self):
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append((self.command, path))
            if path.startswith("api/models/"):
                name, _, revision = path.removeprefix("api/models/").partition("/revision/")
                return self.model(name, revision or "main")
            if "/resolve/" in path:  # the app asks for files by commit, which has no slash
                name, _, rest = path.partition("/resolve/")
                commit, _, file = rest.partition("/")
                return self.file(name, commit, file)
            return self.refuse(404, "")

        def model(self, name, revision):
            repo = hub.repos.get(name)
            if repo is None:
                return self.refuse(404, "RepoNotFound")
            if repo.api:
                return self.refuse(*repo.api)
            if repo.answer is not None:
                return self.send(repo.answer)
            repo = repo.at(revision)
            if repo is None:
                return self.refuse(404, "RevisionNotFound")
            siblings = [_sibling(*item) for item in repo.files.items()]
            return self.send(json.dumps({"id": name, "sha": repo.commit, "siblings": siblings}).encode())

        def file(self, name, commit, file):
            repo = hub.repos[name].at(commit)
            if repo is None:
                return self.refuse(404, "RevisionNotFound")
            if repo.gate:
                return self.refuse(*repo.gate)
            if file not in repo.files:
                return self.refuse(404, "EntryNotFound")
            true = repo.files[file]
            sent = repo.body.get(file, bytes)(true) if self.command == "GET" else true
            return self.send(
                sent, {"ETag": f'"{_etag(file, true)}"', "X-Repo-Commit": repo.commit}, file in repo.breaks
            )

        def refuse(self, status, code):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()

        def send(self, body, headers=(), breaks=False):
            self.send_response(200)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if breaks else body)

    return Handler


def _large(file):
    return file.endswith((".safetensors", ".bin", ".gguf"))


def _etag(file, body):
    return hashlib.sha256(body).hexdigest() if _large(file) else _git_sha1(body)


def _git_sha1(body):
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()


def _sibling(file, body):
    entry = {"rfilename": file, "size": len(body), "blobId": _git_sha1(body)}
    if _large(file):
        entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return entry
