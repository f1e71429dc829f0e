"""What a step waits for its batch, and what a start takes: seconds and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

from cascade.config import StageConfig
from cascade.data.batches import Batches
from cascade.data.sources import ImageSource, fingerprint
from cascade.data.stage_images import open_stage_splits

MIB = 2**20


def waits(
    source: ImageSource, config: StageConfig, workers: int, step: float, steps: int
) -> dict[str, float]:
    """Milliseconds that steps of so many seconds wait for their batches: median, mean, worst.

    ``first`` is what the first one waits, while workers start. It and the next ones, as many as
    workers run ahead, are not among the others. ``workers_mib`` is the workers' share of memory.
    """
    waited, ahead = [], 1 + 2 * workers
    with closing(Batches(source, config).steps(0, ahead + steps, workers)) as made:
        for seconds in _waits(made, step):
            waited.append(1000 * seconds)
            if len(waited) == ahead + 1:
                share = _of_workers()
    first, counted = waited[0], waited[ahead:]
    result = {"first": first, "median": median(counted), "mean": mean(counted)}
    return {**result, "worst": max(counted), "workers_mib": share}


def _waits(made: Iterator[Any], step: float) -> Iterator[float]:
    """Seconds until each batch is there, with a step slept after each."""
    while True:
        started = time.perf_counter()
        if next(made, None) is None:
            return
        yield time.perf_counter() - started
        time.sleep(step)


def start(config: StageConfig) -> tuple[ImageSource, dict[str, float]]:
    """The training images of a stage, read as training does at its start: seconds, and memory.

    ``open`` are the seconds until both splits are open, ``digest`` those until what they hold is
    known by its digests; ``peak`` and ``pss`` this process's largest size and its share, in MiB.
    """
    began = time.perf_counter()
    splits = open_stage_splits(config)
    source, others = splits(config.data.split), splits("validation")
    opened = time.perf_counter()
    held_out = set(others.contents())
    held_out.intersection(source.contents())
    fingerprint(source)
    done = time.perf_counter()
    return source, {"open": opened - began, "digest": done - opened, **memory()}


def memory() -> dict[str, float]:
    """This process's largest size so far, and its share of memory as several processes have it.

    In MiB; where the system does not say, what the process holds now stands for both.
    """
    process = psutil.Process()
    now = process.memory_info().rss / MIB
    result = {"peak": now, "pss": now}
    if Path("/proc/self/smaps_rollup").is_file():
        result = {"peak": _kept("status", "VmHWM:"), "pss": _kept("smaps_rollup", "Pss:")}
    return result


def _of_workers() -> float:
    """The shares of memory of all processes below this one together, in MiB; 0 if not told."""
    if not Path("/proc/self/smaps_rollup").is_file():
        return 0.0
    children = psutil.Process(os.getpid()).children(recursive=True)
    return sum(_kept("smaps_rollup", "Pss:", child.pid) for child in children)


def _kept(file: str, name: str, process: int | str = "self") -> float:
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
