"""Files that are written whole or not at all, and what JSON can hold."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(file: str | Path) -> Iterator[Path]:
    """A path aside to write to; on success it is flushed to disk and renamed to ``file``."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.stem}.{os.getpid()}.part{file.suffix}")
    try:
        yield aside
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        os.replace(aside, file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the new name may not outlast a power cut
        finally:
            os.close(folder)
    finally:
        aside.unlink(missing_ok=True)


def finite(value: object) -> object:
    """The same figures for JSON, which knows neither nan nor infinity: None in their place."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
