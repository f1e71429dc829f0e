"""Batches made by worker processes while the steps before them run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from cascade.utils.workers import end_with_parent, usable_cores
from stages import InputError

Made = TypeVar("Made")
MOST = 4  # workers, where a run does not say how many
PRELOADED = ["__main__", "cascade.data.batches"]  # what workers need, imported once for all
CUT_OFF = (EOFError, ConnectionError, FileNotFoundError)  # by a worker that ends while it sends
STOPPING = {signal.SIGINT, signal.SIGTERM}


def workers_by_default(device: torch.device) -> int:
    """None on a CPU, whose cores the step has; else up to 4 of this process's share of the cores.

    Of several processes on one machine, a launcher's ``LOCAL_WORLD_SIZE``, each has as large a one.
    """
    if device.type == "cpu":
        return 0
    return min(MOST, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def made_ahead(
    make: Callable[[int], Made], steps: range, workers: int, pinned: bool = False
) -> Generator[Made, None, None]:
    """``make(step)`` of all steps, in order; by so many processes, up to two ahead each.

    ``pinned`` results (which have ``pin_memory``) lie in memory that a GPU copies from by itself.
    Workers end when the iterator is closed, or when their parent is gone; signals to the parent's
    group do not reach them. Raises what ``make`` raises as `InputError`, and one where a worker is
    lost.
    """
    if not workers:
        yield from map(make, steps)
        return
    with _signals_held(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # it was asked to
        loader: Any = DataLoader(
            _Steps(make),
            sampler=steps,
            batch_size=None,
            num_workers=workers,
            pin_memory=pinned,
            worker_init_fn=_begin,
            multiprocessing_context=_context(),
            generator=torch.Generator(),  # in place of the global one, which it would draw from
        )
        results = iter(loader)
    coming, lost = None, False
    try:
        with ThreadPoolExecutor(1) as pool:  # takes the next one in while a step runs
            coming = pool.submit(next, results, None)
            while (result := coming.result()) is not None:
                coming = pool.submit(next, results, None)
                if isinstance(result, InputError):
                    raise result
                yield result
    except (RuntimeError, *CUT_OFF) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        lost = True
    finally:
        del coming, results  # nothing holds the workers any more: they end
    if lost:
        raise InputError(
            f"one of the {workers} processes that make batches was lost, perhaps to want of "
            "memory: lower train.workers; the same command continues"
        )


class _Steps(Dataset):  # type: ignore[type-arg]
    """A step's batch by the step, or the error that is its user's to know."""

    def __init__(self, make: Callable[[int], Any]):
        self.make = make

    def __getitem__(self, step: int) -> Any:
        try:
            return self.make(step)
        except InputError as error:
            return error


def _context() -> Any:
    """How workers start: not as forks of this process, whose threads and GPU they would share."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextmanager
def _signals_held() -> Iterator[None]:
    """Processes started inside hold back signals that ask to stop, until they leave the group.

    The tracker of their semaphores takes away what a killed run leaves, without a warning.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    resource_tracker.ensure_running()
    os.environ.pop("PYTHONWARNINGS")
    if before is not None:
        os.environ["PYTHONWARNINGS"] = before
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _begin(worker: int) -> None:
    """End with the parent, and with nothing else: Ctrl-C and SIGTERM for all are the parent's."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if not hasattr(signal, "pthread_sigmask"):
        return
    os.setsid()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # those that were held back are forgotten
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
