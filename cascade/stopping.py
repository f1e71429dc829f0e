"""When a run is asked to stop: by a signal, or because its launcher is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # set by launchers alone


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come since, or the launcher that started this process ended.

    A launcher that is killed does not always take its processes along. The signals' handlers are
    put back afterwards.
    """
    seen = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: seen.append(True)) for number in numbers]
    launched = any(name in os.environ for name in LAUNCHED)
    parent = os.getppid()
    try:
        yield lambda: bool(seen) or (launched and os.getppid() != parent)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
