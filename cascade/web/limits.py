"""How much strangers may have a server store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cascade.web.uploads import FILES, MEGABYTES

REQUEST = (FILES * MEGABYTES + 1) * 2**20  # bytes of one upload
STORED = 4 * REQUEST  # bytes of all temporary files, about a gigabyte

Application = Callable[[Any, Any, Any], Awaitable[None]]


class UploadLimit:
    """Refuses uploads before they are read: too large ones, and those that there is no room for.

    A layer of an ASGI application (https://asgi.readthedocs.io), around all of it.

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
        if scope["type"] != "http" or not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            await _refuse(send, 411, "an upload must say how long it is")
        elif int(length) > self.request:
            most = f"at most {FILES} files of {MEGABYTES} MB at once"
            await _refuse(send, 413, f"these files are too large together: {most}")
        elif int(length) + self.coming + _size(self.folder) > self.stored:
            await _refuse(send, 507, "the server has no room for more files: come back in an hour")
        else:
            self.coming += int(length)
            try:
                await self.app(scope, receive, send)
            finally:
                self.coming -= int(length)


def _size(folder: Path) -> int:
    """Bytes of all files in a folder that others may be removing them from."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


async def _refuse(send: Any, status: int, why: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
