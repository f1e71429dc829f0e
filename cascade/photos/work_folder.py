"""What an enlargement has made so far, so that one that was interrupted can be continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cascade.utils.files import whole
from cascade.utils.lock import Lock
from stages import InputError

SETTINGS = "settings.json"
LOCK = {".lock", ".holder"}


def interrupted(folder: Path) -> bool:
    """Whether a folder holds what an interrupted run has made."""
    return (folder / SETTINGS).exists()


@contextmanager
def work_folder(
    folder: Path, settings: Mapping[str, Any], resume: bool, restart: bool
) -> Iterator[None]:
    """A folder for what ``settings`` make, which is there for as long as it takes.

    It stays where the work inside is interrupted, so that ``resume`` finds it, and goes where
    nothing is done yet, all is, or it can never be (`InputError`). Raises `InputError` where
    another process has it, where it is there and neither ``resume`` nor ``restart`` is asked for,
    or where it is of other settings.
    """
    if interrupted(folder) and not (resume or restart):
        raise InputError(
            f"{folder} holds what an interrupted run has made: --resume continues it, --force "
            "starts over"
        )
    lock = Lock(folder, "written")
    try:
        if interrupted(folder) and not restart:
            _check(folder, settings)
        else:
            _clear(folder)
            with whole(folder / SETTINGS) as aside:
                aside.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    except BaseException:
        lock.release()
        raise
    done = False
    try:
        yield
        done = True
    except InputError:
        done = True
        raise
    finally:
        lock.release()
        if done or not any(file.name not in {*LOCK, SETTINGS} for file in folder.iterdir()):
            shutil.rmtree(folder)


def _check(folder: Path, settings: Mapping[str, Any]) -> None:
    try:
        kept = json.loads((folder / SETTINGS).read_text("utf-8"))
        other = next((key for key in settings if kept[key] != settings[key]), None)
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{folder / SETTINGS} is damaged: --force starts over") from None
    if other is not None:
        raise InputError(
            f"{folder} was made with {other}={kept[other]}, not {settings[other]}: --force starts "
            "over"
        )


def _clear(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name not in LOCK:
            file.unlink() if file.is_file() else shutil.rmtree(file)
