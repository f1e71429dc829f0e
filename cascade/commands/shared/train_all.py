"""`train.py --all`: every stage of a folder of configurations, side by side where there is room."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cascade.commands.shared import cli
from cascade.commands.shared.interrupt import INTERRUPTED
from cascade.config import StageConfig, load_config
from cascade.config.shipped import find_config
from cascade.training.signals import FLEET, stop_requests
from stages import InputError


@dataclass
class Job:
    """One stage to train: its file, with settings changed."""

    file: Path
    config: StageConfig
    settings: Sequence[str]

    @property
    def words(self) -> list[str]:
        return ["train", str(self.file), *self.settings]

    @property
    def waits_for(self) -> Path | None:
        previous = self.config.augment.previous
        return Path(previous).resolve() if previous else None

    @property
    def out(self) -> Path:
        return Path(self.config.out).resolve()


@dataclass(frozen=True)
class Slot:
    """What a stage has to itself while it trains: a GPU, or some of the cores."""

    name: str
    gpu: str | None = None
    cores: tuple[int, ...] | None = None


class Running:
    """A stage in training; beside others it prints to a file, and `relay` tells what is new."""

    def __init__(self, job: Job, slot: Slot, alone: bool):
        self.job, self.printed, self.rest = job, None, b""
        environment = {**os.environ, FLEET: "1"}
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
        bind = partial(os.sched_setaffinity, 0, slot.cores) if slot.cores else None
        command = [sys.executable, "-m", "cascade.commands", *job.words]
        start = partial(subprocess.Popen, command, env=environment, preexec_fn=bind)
        if alone:
            self.process = start()
            return
        log = Path(f"{Path(job.config.out)}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        cli.say(f"{job.config.out} on {slot.name}; it prints to {log}")
        with open(log, "ab") as printed:
            self.printed = open(log, "rb")  # noqa: SIM115 (for as long as the stage trains)
            self.printed.seek(0, os.SEEK_END)
            self.process = start(stdout=printed, stderr=printed)

    def relay(self, ended: bool) -> None:
        """Print the lines that came since, each after the stage's name."""
        if self.printed is None:
            return
        text = self.rest + self.printed.read()
        end = len(text) if ended else text.rfind(b"\n") + 1
        self.rest = text[end:]
        for line in text[:end].decode(errors="replace").splitlines():
            cli.say(f"{self.job.out.name}: {line.rstrip()}")
        if ended:
            self.printed.close()


def jobs(folder: str, overrides: Sequence[str]) -> list[Job]:
    """The stages of a folder of configurations."""
    files = sorted(find_config(folder).glob("*.yaml"))
    if not files:
        raise InputError(f"{folder} holds no configurations (.yaml)")
    if any(word.startswith("out=") for word in overrides):
        raise InputError("out= names one stage; with --all each stage goes where its file says")
    result = [Job(file, load_config(file, overrides), overrides) for file in files]
    outs = [job.out for job in result]
    if len(set(outs)) < len(outs):
        raise InputError(f"two configurations in {folder} have the same out")
    return result


def show(work: Sequence[Job]) -> None:
    """Print the commands that `train` would run."""
    devices = gpus()
    for place, job in enumerate(work):
        prefix = f"CUDA_VISIBLE_DEVICES={devices[place % len(devices)]} " if devices else ""
        cli.say(prefix + shlex.join(["csrflow", *job.words]))


def train(work: Sequence[Job]) -> bool:
    """Train all stages, the largest images, which take longest, first, as many as there are slots.

    A stage that is trained on another one's disturbed images waits for it. Asked to stop, all save
    and end, and it gives False. Raises `InputError` that names the stages that failed, once the
    others are done.
    """
    outs = [job.out for job in work]
    free = slots(sum(job.waits_for not in outs for job in work) or 1)
    waiting = sorted(work, key=lambda job: -job.config.data.size)
    alone = len(free) == 1
    running: dict[Slot, Running] = {}
    failed: list[Job] = []
    stopped = False
    with stop_requests() as asked, ended_with(running):
        while waiting or running:
            for slot, run in list(running.items()):
                code = run.process.poll()
                run.relay(code is not None)
                if code is not None:
                    del running[slot]
                    free.append(slot)
                    interrupted = stopped and (code < 0 or code == INTERRUPTED)
                    failed += [run.job] * (code != 0 and not interrupted)
            if asked() and not stopped:
                stopped = True
                waiting.clear()
                for run in running.values():
                    run.process.terminate()
            while lost := [job for job in waiting if job.waits_for in [f.out for f in failed]]:
                failed += lost
                waiting = [job for job in waiting if job not in lost]
            undone = {job.out for job in waiting} | {run.job.out for run in running.values()}
            ready = [job for job in waiting if job.waits_for not in undone]
            for job in ready[: len(free)]:
                waiting.remove(job)
                slot = free.pop(0)
                running[slot] = Running(job, slot, alone)
            if waiting and not running:
                names = ", ".join(job.config.out for job in waiting)
                raise InputError(f"these stages wait for one another (augment.previous): {names}")
            time.sleep(0.2)
    if failed:
        names = ", ".join(job.config.out for job in failed)
        raise InputError(f"not trained: {names}; the same command continues the others too")
    if stopped:
        cli.say("stopped; the same command continues")
    return not stopped


@contextmanager
def ended_with(running: Mapping[Slot, Running]) -> Iterator[None]:
    """Ask what still runs at the end to save and end, and wait for it."""
    try:
        yield
    finally:
        for run in running.values():
            run.process.terminate()
        for run in running.values():
            run.process.wait()


def slots(count: int) -> list[Slot]:
    """Where up to ``count`` stages train side by side: the GPUs, or equal shares of the cores.

    A core by itself trains nets of the demo's size as fast as two together do. Where processes
    cannot be bound to cores, stages have the machine one after the other.
    """
    named = gpus()
    if named:
        return [Slot(f"GPU {gpu}", gpu=gpu) for gpu in named[:count]]
    if not hasattr(os, "sched_setaffinity"):
        return [Slot("this machine")]
    return [
        Slot(f"{len(cores)} core{'s' * (len(cores) > 1)}", cores=cores)
        for cores in shares(sorted(os.sched_getaffinity(0)), count)
    ]


def shares(cores: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Cores dealt out in ``count`` runs of neighbours, in fewer where there are fewer cores."""
    total, count = len(cores), min(count, len(cores))
    ends = [total * n // count for n in range(count + 1)]
    return [tuple(cores[a:b]) for a, b in itertools.pairwise(ends)]


def gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
