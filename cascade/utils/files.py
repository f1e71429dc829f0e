"""Files that are written whole or not at all, and what JSON can hold."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages import InputError

# how to open a table to write: the names of files in it may be any bytes
CSV: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}


@contextmanager
def whole(file: str | Path) -> Iterator[Path]:
    """A path aside to write to; on success it is flushed to disk and renamed to ``file``.

    Raises `OSError` that names ``file`` where it cannot be written, on a full disk for instance.
    """
    file = Path(file)
    aside = _aside(file)
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            with open(aside, "rb+") as written:  # Windows flushes only what may be written
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            aside.chmod(0o666 & ~umask)
            os.replace(aside, file)
            _flush_name(file.parent)
        finally:
            aside.unlink(missing_ok=True)


def _flush_name(folder: Path) -> None:
    """Flush a folder to disk, or a new name in it may not outlast a power cut."""
    if os.name == "nt":
        return  # Windows opens no folders, and writes their names at once
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """Errors of the operating system inside become one that says which file was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {file}: {error.strerror or error}") from error


def _aside(file: Path) -> Path:
    return file.with_name(f".{file.stem}.{os.getpid()}.part{file.suffix}")


def check_writable(file: str | Path) -> None:
    """Raise `InputError` unless `whole` can write ``file``; what it takes to know is removed."""
    file = Path(file).absolute()
    missing = [folder for folder in file.parents if not folder.exists()]  # innermost first
    there = next(folder for folder in file.parents if folder.exists())
    if not there.is_dir():
        raise InputError(f"cannot write {file}: {there} is not a folder")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _aside(file).touch()
        _aside(file).unlink()
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None
    finally:
        for folder in missing:
            with suppress(OSError):  # it was not made, or another process has used it since
                folder.rmdir()


def finite(value: object) -> object:
    """The same figures for JSON, which knows neither nan nor infinity: None in their place."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
