"""What strangers may ask of a server, and how much they may have it store."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cascade.web.uploads import FILES, MEGABYTES

REQUEST = (FILES * MEGABYTES + 1) * 2**20  # bytes of one upload
STORED = 4 * REQUEST  # bytes of all temporary files, about a gigabyte
MESSAGE = 2**20  # bytes of what is sent beside uploads
FULL = "the server has no room for more files: come back in an hour"
SENT = re.compile(r".*/(upload|queue/join|cancel|reset|run/[^/]+)/?")  # by the page, no more
# what Gradio would fetch from other machines for whoever asks, or store without limit
CLOSED = re.compile(r"/proxy=|/file=\w\w+:|/deep_link")

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Limits:
    """Refuses what the page does not send, what names other machines, and what is too large.

    Uploads are refused before they are read. A layer of an ASGI application
    (https://asgi.readthedocs.io), around all of it.

    Args:
        app: the application.
        folder: where it stores files.
        request: bytes that one upload may have.
        stored: bytes that the folder may hold, uploads on their way included.
    """

    def __init__(
        self, app: Application, folder: str | Path, request: int = REQUEST, stored: int = STORED
    ):
        self.app, self.folder = app, Path(folder)
        self.request, self.stored = request, stored
        self.coming = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif CLOSED.search(scope["path"]):
            await _refuse(send, 403, "this page gives nothing of other machines")
        elif scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif sent := SENT.fullmatch(scope["path"]):
            await self._sent(scope, receive, send, sent[1] == "upload")
        else:
            await _refuse(send, 404, "this page has no such thing")

    async def _sent(self, scope: Any, receive: Any, send: Any, upload: bool) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"" if upload else b"0")
        if b"transfer-encoding" in headers or not length.isdigit():
            await _refuse(send, 411, "a request must say how long it is")
        elif upload and int(length) > self.request:
            most = f"at most {FILES} files of {MEGABYTES} MB at once"
            await _refuse(send, 413, f"these files are too large together: {most}")
        elif not upload and int(length) > MESSAGE:
            await _refuse(send, 413, f"a request has at most {MESSAGE} bytes")
        elif not upload:
            body = await _body(receive)
            if _names_other_machines(body):
                await _refuse(send, 403, "files are those that were uploaded here")
            else:
                await self.app(scope, _given(body, receive), send)
        elif int(length) + self.coming + size_of(self.folder) > self.stored:
            await _refuse(send, 507, FULL)
        else:
            self.coming += int(length)
            try:
                await self.app(scope, receive, send)
            finally:
                self.coming -= int(length)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder that others may be removing them from."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


async def _body(receive: Any) -> bytes:
    parts: list[bytes] = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


def _given(body: bytes, receive: Any) -> Callable[[], Awaitable[Any]]:
    """What receives a body that was read, then whatever follows it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return messages.pop() if messages else await receive()

    return again


def _names_other_machines(body: bytes) -> bool:
    """Whether a message has a file, ``{"path": ...}``, at an address; the server would fetch it."""

    def does(value: Any) -> bool:
        if isinstance(value, dict):
            return "://" in str(value.get("path", "")) or any(map(does, value.values()))
        return isinstance(value, list) and any(map(does, value))

    try:
        return does(json.loads(body))
    except RecursionError:
        return True
    except ValueError:  # no JSON: the application refuses it
        return False


async def _refuse(send: Any, status: int, why: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
