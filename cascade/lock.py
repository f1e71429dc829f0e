"""One writer a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from stages import InputError


class Lock:
    """A folder taken for this process, until `release` or the process's end, however it ends.

    Raises `InputError` where another process holds it, and says which.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 200).decode().strip() or "another process"
            self.release()
            raise InputError(
                f"{folder} is being trained by {holder}; wait for it, stop it, or use another out="
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Let others have the folder."""
        os.close(self._file)
