"""How `bench.py` measures: interleaved, in medians, against this machine's own peak."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

Operation = Callable[[], object]
LONG_ENOUGH = 0.02  # seconds: a product of matrices that takes as long shows the machine's peak


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def interleaved(
    operations: Mapping[str, Operation], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each operation, ``repeats`` times in turn after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    for turn in range(repeats + 1):
        for name, operation in operations.items():
            wait(device)
            start = time.perf_counter()
            operation()
            wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def matmul(device: torch.device, dtype: torch.dtype) -> tuple[Operation, int]:
    """A product of two square matrices, large enough to be timed, and its operations."""
    side = 128
    while True:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        product = partial(torch.matmul, a, b)
        (seconds,) = interleaved({"": product}, device, 1)[""]
        if seconds > LONG_ENOUGH:
            return product, 2 * side**3
        side *= 2


def flops(operation: Operation) -> int:
    """Floating-point operations of an operation's convolutions and matrix products, every time."""
    operation()  # what it keeps from then on is not counted
    with FlopCounterMode(display=False) as counter:
        operation()
    return counter.get_total_flops()


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times faster ours is: the median of the ratios of neighbouring runs."""
    return median(t / o for t, o in zip(theirs, ours, strict=True))


def peak_memory(operation: Operation, device: torch.device) -> int:
    """Bytes that an operation needs beyond what is there after it has run before.

    On a CPU it is the growth of the process's size, as Linux keeps count of it.
    """
    operation()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        operation()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)  # give back what is free already
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest size so far
    before = _status("VmRSS")
    operation()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
