"""How the page answers: one at a time, errors as messages, files in a folder that is removed."""

from __future__ import annotations

import html
import inspect
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
import torch

from cascade.web.limits import FULL, STORED, size_of
from stages import InputError

KEPT = 3600  # seconds that a file to download is there
TURNS = 4  # requests that take turns at the nets, step by step
# events that run nets; nothing but the page calls them
HEAVY: dict[str, Any] = {
    "concurrency_id": "nets",
    "concurrency_limit": TURNS,
    "api_visibility": "private",
}
LIGHT: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}


def answering(function: Callable[..., Any], lock: Lock | None = None) -> Callable[..., Any]:
    """The function, or generator, as an event calls it: bad input becomes a message on the page.

    It holds the ``lock``, if it needs one, while it runs; a generator lets go of it between any two
    steps, so that others take turns with it.
    """
    alone: Any = lock or nullcontext()

    @wraps(function)
    def answer(*args: Any) -> Any:
        _told(_check_room)
        with alone:
            return _told(lambda: function(*args))

    @wraps(function)
    def answers(*args: Any) -> Iterator[Any]:
        _told(_check_room)
        steps, end = function(*args), object()
        while True:
            with alone:
                step = _told(lambda: next(steps, end))
            if step is end:
                return
            yield step

    return answers if inspect.isgeneratorfunction(function) else answer


def _told(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except InputError as error:
        message = str(error)
    except (MemoryError, torch.OutOfMemoryError):
        message = "this takes more memory than there is: ask for less"
    raise gr.Error(html.escape(message), print_exception=False)


def _check_room() -> None:
    """Raise `InputError` where the server's temporary files are too many; pictures are some."""
    folder = os.environ.get("GRADIO_TEMP_DIR")  # see `cascade.web.page.alone`
    if folder and size_of(Path(folder)) > STORED:
        raise InputError(FULL)


def place_for(name: str) -> Path:
    """A new file's path among the server's temporary ones; those of an hour ago are removed."""
    home = Path(tempfile.gettempdir()) / "made"
    home.mkdir(exist_ok=True)
    for folder in home.iterdir():
        if time.time() - folder.stat().st_mtime > KEPT:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()
    return Path(tempfile.mkdtemp(dir=home)) / name
