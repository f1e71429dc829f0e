"""The folder of a stage in training: one writer, nothing of anyone else's, nothing half written."""

from __future__ import annotations

import shutil
from pathlib import Path

from cascade.utils.lock import Lock
from stages import InputError

FILES = (
    "model.safetensors",
    "best.safetensors",
    "metrics.jsonl",
    "README.md",
    "config.yaml",
    "record.json",
)


def is_stage(folder: Path) -> bool:
    """Whether training has written into a folder."""
    return any((folder / name).exists() for name in (".lock", *FILES[:1], "record.json"))


class StageFolder:
    """A stage's folder, which one process at a time may `take`."""

    def __init__(self, path: Path):
        self.path = path
        self.lock: Lock | None = None
        self.created = False

    def take(self, restart: bool) -> None:
        """Lock the folder, remove what a killed run left, and, if ``restart``, all of the stage.

        Raises `InputError` where another process holds it, or where it holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"out={self.path} is a file; name a folder")
        self.created = not self.path.exists()
        if not self.created and any(self.path.iterdir()) and not is_stage(self.path):
            raise InputError(f"{self.path} holds files that are not a stage's; use another out=")
        self.lock = Lock(self.path)
        for place in (".", "state", "samples"):
            for half_written in (self.path / place).glob(".*.part*"):
                half_written.unlink()
        if restart:
            self._clear()

    def _clear(self) -> None:
        """Remove what training wrote, states first: without them nothing is continued."""
        for file in [*self.path.glob("state/step-*"), *self.path.glob("samples/step-*.png")]:
            file.unlink()
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "logs", ignore_errors=True)

    def release(self, discard: bool = False) -> None:
        """Let others have it; with ``discard``, it is gone if there was none before."""
        if self.lock:
            self.lock.release()  # Windows removes no file that is open
            if discard and self.created:
                shutil.rmtree(self.path)
            self.lock = None
