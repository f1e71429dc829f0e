"""Processes of this machine that share numbered work, each with one thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any

import torch

from stages import InputError

PROCESSES = "CSRFLOW_PROCESSES"  # how many where nobody says otherwise
AHEAD = 2  # tasks a worker that are handed out before the first result is taken
TERMINATED = 128 + signal.SIGTERM  # the exit code after SIGTERM


def usable_cores() -> int:
    """Cores that this process may use."""
    linux = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1


def usual_processes() -> int:
    """Processes that share work: ``CSRFLOW_PROCESSES``, or else one for each usable core.

    Raises `InputError` where the variable is no whole number above 0.
    """
    named = os.environ.get(PROCESSES)
    if not named:
        return usable_cores()
    if not (named.isascii() and named.isdigit()) or int(named) < 1:
        raise InputError(f"{PROCESSES} is a whole number above 0, got {named!r}")
    return int(named)


class Workers:
    """Processes that each make a function once, and apply it to what they are given.

    Tasks and results are pickled. Ctrl-C reaches the first process alone, which ends the others;
    should it be killed, they end by themselves.

    Args:
        count: how many processes.
        make: a function of a module, called in each process with ``arguments``; gives the function
            that is applied.
    """

    def __init__(self, count: int, make: Callable[..., Callable[[Any], Any]], *arguments: Any):
        self.ahead = AHEAD * count
        others = set(active_children())
        self.pool = ProcessPoolExecutor(
            count, get_context("spawn"), initializer=_begin, initargs=(make, arguments)
        )
        with _inheriting(signal.SIG_IGN):
            for _ in range(count):  # each starts a process, for none is idle so early
                self.pool.submit(os.getpid)
        self.processes = [child for child in active_children() if child not in others]

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the tasks, which are drawn as they are needed.

        What the function raises is raised here. Raises `ChildProcessError` where a process died.
        """
        waiting: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                waiting.append(self.pool.submit(_apply, task))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise ChildProcessError(
                "one of the processes died, for want of memory perhaps: fewer of them need less"
            ) from None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for process in self.processes:
                process.terminate()
        self.pool.shutdown(cancel_futures=True)


_function: Any = None  # of a worker, what it applies


def _begin(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _function
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _function = make(*arguments)


def _apply(task: Any) -> Any:
    return _function(task)


def end_with_parent() -> None:
    """End this process, a worker, as soon as its parent is gone, however that ended."""
    parent = parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


@contextmanager
def _inheriting(handler: Any) -> Iterator[None]:
    """Processes started inside have this handler of Ctrl-C from their first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def one_thread() -> Iterator[None]:
    """As workers compute: with more threads the last bits of a sum are others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the program inside as `sys.exit` does, with all that ``finally`` promises."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
