"""When a run is asked to stop: by a signal, or because its launcher is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FLEET = "CSRFLOW_FLEET"  # set for stages that train side by side
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", FLEET)  # set by launchers alone
PARENT = os.getppid()


def launched() -> bool:
    """Whether a launcher started this process, or one that trains stages side by side."""
    return "WORLD_SIZE" in os.environ or any(name in os.environ for name in LAUNCHED)


def orphaned() -> bool:
    """Whether the launcher that started this process has ended.

    Also where it ended before this module was loaded: then process 1, of another session, has taken
    its place. (torchrun gives each process a session of its own, which tells nothing.)
    """
    if not any(name in os.environ for name in LAUNCHED):
        return False
    adopted = PARENT == 1 and os.getsid(0) != os.getsid(1)
    return os.getppid() != PARENT or (adopted and "TORCHELASTIC_RUN_ID" not in os.environ)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come since, or the launcher that started this process ended.

    A launcher that is killed does not always take its processes along. The signals' handlers are
    put back afterwards.
    """
    seen = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: seen.append(True)) for number in numbers]
    try:
        yield lambda: bool(seen) or orphaned()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
