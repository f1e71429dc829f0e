"""One writer a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from stages import InputError


class Lock:
    """A folder taken for this process, until `release` or the process's end, however it ends.

    ``doing`` says what the folder is taken for. Raises `InputError` where another process holds it,
    and says which.
    """

    def __init__(self, folder: Path, doing: str = "trained"):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / ".lock", "a+b", buffering=0)  # noqa: SIM115 (held on to)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read(200).decode(errors="replace").strip() or "another process"
            self.release()
            raise InputError(
                f"{folder} is being {doing} by {holder}; wait for it, stop it, or write elsewhere"
            ) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Let others have the folder."""
        self._file.close()
