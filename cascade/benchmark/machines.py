"""Seconds from work: how long a training takes on machines that nobody has to have.

A step takes as long as its products and its bytes, one after the other; a GPU's operators are
launched meanwhile, so that it waits for whichever takes longer, while a core does one thing after
the other. Then processes exchange gradients. Nothing overlaps beyond that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cascade.benchmark.cost import FLOAT, OPERANDS, PASSES, Cost, Work


@dataclass(frozen=True)
class Machine:
    """What of a machine decides how long a step takes.

    Args:
        name: what it is called.
        flops: floating-point operations a second that nets reach.
        bandwidth: bytes a second that are read and written.
        launch: seconds that an operator takes before it computes anything.
        lists: whether an operator over lists of tensors is one launch, or one for each tensor.
        ahead: whether operators are launched while others compute.
        processes: how many there are, each with a share of the batch.
        link: bytes a second that a process sends while gradients are exchanged.
        latency: seconds that an exchange takes however little is sent.
    """

    name: str
    flops: float
    bandwidth: float
    launch: float
    lists: bool = True
    ahead: bool = True
    processes: int = 1
    link: float = 1.0
    latency: float = 0.0


GPU = Machine("1 GPU", flops=60e12, bandwidth=2e12, launch=8e-6)
GPUS = (
    GPU,
    replace(GPU, name="8 GPUs", processes=8, link=300e9, latency=50e-6),
    replace(GPU, name="64 GPUs", processes=64, link=40e9, latency=200e-6),
)
REACHED = 0.6  # of the peak, what convolutions reach on a core
BESIDE = 2.8  # what an operator takes with its share of Python and autograd, of itself alone
SIDE = 1024  # of matrices whose product shows the peak
USUAL = 2**18  # values of a tensor as large as most are
TURNS = 5


def this_core() -> Machine:
    """One core of this machine, measured in a second or two of its time, whoever else uses it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        square, usual, small = torch.ones(SIDE, SIDE), torch.ones(USUAL), torch.ones(16)
        small.requires_grad_()
        product = least_seconds(lambda: square @ square, 1)
        moved = least_seconds(lambda: usual.mul(2.0), 100)
        launched = least_seconds(lambda: small.mul(2.0), 1000)
    finally:
        torch.set_num_threads(threads)
    flops, bandwidth = REACHED * 2 * SIDE**3 / product, 2 * usual.nbytes / moved
    return Machine("this core", flops, bandwidth, BESIDE * launched, lists=False, ahead=False)


def least_seconds(operation: Callable[[], object], times: int) -> float:
    """Of an operation, on this process's clock: the least of some turns of so many times."""
    turns = []
    for _ in range(TURNS):
        start = time.process_time()
        for _ in range(times):
            operation()
        turns.append((time.process_time() - start) / times)
    return min(turns)


def step_seconds(work: Work, cost: Cost, machine: Machine) -> float:
    """Of a training step whose passes are this ``work``."""
    passes = PASSES * (1 if machine.lists else cost.tensors)
    moved = work.bytes + PASSES * OPERANDS * FLOAT * cost.weights
    computed = work.flops / machine.flops + moved / machine.bandwidth
    launched = (work.launches + passes) * machine.launch
    alone = max(computed, launched) if machine.ahead else computed + launched
    return alone + exchange_seconds(cost, machine)


def exchange_seconds(cost: Cost, machine: Machine) -> float:
    """Of summing the gradients over all processes, each sending 2·(n − 1)/n of their bytes."""
    n = machine.processes
    if n == 1:
        return 0.0
    return machine.latency + 2 * (n - 1) / n * FLOAT * cost.weights / machine.link


def training_seconds(cost: Cost, machine: Machine) -> tuple[float, float] | None:
    """Of a step of the last phase, and of all steps of all phases; None where the batch does not
    divide among the processes. ``train.seconds`` may end the steps before."""
    train = cost.config.train
    if train.batch_size % (machine.processes * train.accumulate):
        return None
    each = train.batch_size / machine.processes
    by_phase = [(steps, step_seconds(work(each), cost, machine)) for steps, work in cost.phases]
    total = sum(steps * seconds for steps, seconds in by_phase)
    return by_phase[-1][1], min(total, train.seconds or total)
