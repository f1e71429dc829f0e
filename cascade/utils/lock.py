"""One writer a folder, on every system."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stages import InputError


class Lock:
    """A folder taken for this process, until `release` or the process's end, however it ends.

    ``doing`` says what the folder is taken for. Raises `InputError` where another process holds it,
    and says which.
    """

    def __init__(self, folder: Path, doing: str = "trained"):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._holder = FileLock(folder / ".lock"), folder / ".holder"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{folder} is being {doing} by {self._held_by()}; wait for it, stop it, or write "
                "elsewhere"
            ) from None
        self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")

    def _held_by(self) -> str:
        with suppress(OSError):  # it has just been taken, or given back
            return self._holder.read_text("utf-8", errors="replace")[:200] or "another process"
        return "another process"

    def release(self) -> None:
        """Let others have the folder."""
        self._holder.unlink(missing_ok=True)
        self._lock.release()
