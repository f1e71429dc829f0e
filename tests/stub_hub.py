"""A hub on this machine: as much of the protocol as downloads and uploads of models take."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repositories in memory: files of each commit by SHA, branches of each; what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, Files] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, repository: str, files: Files, branch: str = "main") -> str:
        """Make a commit that holds ``files``; its SHA."""
        content = repr((repository, branch, sorted(files.items()), len(self.commits)))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = files
        self.branches.setdefault(repository, {})[branch] = sha
        return sha

    def put_folder(self, repository: str, folder: Path, branch: str = "main") -> str:
        files = [file for file in folder.rglob("*") if file.is_file()]
        return self.put(
            repository, {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}, branch
        )


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""

    def answer(self, content: object = None, status: int = 200, **headers: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: str, status: int = 404) -> None:
        self.answer({"error": code}, status, X_Error_Code=code)

    def commit_of(self, repository: str, revision: str) -> str | None:
        """The SHA of a revision; None where it was refused."""
        branches = self.server.branches.get(repository)
        if branches is None:
            self.refuse("RepoNotFound", 401)
            return None
        sha = branches.get(revision, revision)
        if sha not in self.server.commits:
            self.refuse("RevisionNotFound")
            return None
        return sha

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if asked := re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/revision/(.+))?", path):
            if sha := self.commit_of(asked[1], asked[2] or "main"):
                siblings = [{"rfilename": name} for name in self.server.commits[sha]]
                self.answer({"id": asked[1], "sha": sha, "siblings": siblings})
        elif asked := re.fullmatch(r"/api/models/(\w+/[\w-]+)/tree/([^/]+)", path):
            if sha := self.commit_of(asked[1], asked[2]):
                files = self.server.commits[sha].items()
                self.answer(
                    [
                        {"type": "file", "path": n, "size": len(c), "oid": digest(c)}
                        for n, c in files
                    ]
                )
        elif asked := re.fullmatch(r"/(\w+/[\w-]+)/resolve/([^/]+)/(.+)", path):
            if sha := self.commit_of(asked[1], asked[2]):
                content = self.server.commits[sha].get(asked[3])
                if content is None:
                    self.refuse("EntryNotFound")
                else:
                    self.answer(content, ETag=f'"{digest(content)}"', X_Repo_Commit=sha)
        else:
            self.refuse("NotFound")

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "Bearer" not in self.headers.get("Authorization", ""):
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.branches:
                self.answer({"error": "it exists", "url": f"{self.server.address}/{name}"}, 409)
                return
            if asked.get("private") or asked.get("visibility") == "private":
                self.server.private.add(name)
            self.server.put(name, {})
            self.answer({"url": f"{self.server.address}/{name}"})
        elif asked := re.fullmatch(r"/api/models/(\w+/[\w-]+)/branch/(.+)", path):
            branches = self.server.branches[asked[1]]
            branches.setdefault(asked[2], branches["main"])
            self.answer({})
        elif asked := re.fullmatch(r"/api/models/(\w+/[\w-]+)/preupload/(.+)", path):
            self.answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in json.loads(body)["files"]
                    ]
                }
            )
        elif asked := re.fullmatch(r"/api/models/(\w+/[\w-]+)/commit/(.+)", path):
            header, *lines = [json.loads(line) for line in body.splitlines()]
            files = dict(self.server.commits[self.server.branches[asked[1]][asked[2]]])
            for line in lines:
                assert line["key"] == "file" and line["value"]["encoding"] == "base64"
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.server.messages.append(header["value"]["summary"])
            sha = self.server.put(asked[1], files, asked[2])
            address = f"{self.server.address}/{asked[1]}/commit/{sha}"
            self.answer({"success": True, "commitOid": sha, "commitUrl": address})
        else:
            self.refuse("NotFound")


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the end."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
