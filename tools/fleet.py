"""`train.py --all`: every stage of a folder of configurations, one device a stage."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cli
import torch

from cascade.config import StageConfig, load_config
from cascade.stopping import stop_requests
from stages import InputError

TRAIN = os.path.relpath(Path(__file__).with_name("train.py"))
LAUNCHER = Path(sys.executable).parent / "accelerate"


@dataclass
class Job:
    """One stage to train, and the words of its command."""

    file: Path
    config: StageConfig
    words: list[str]

    @property
    def waits_for(self) -> Path | None:
        previous = self.config.augment.previous
        return Path(previous).resolve() if previous else None

    @property
    def out(self) -> Path:
        return Path(self.config.out).resolve()


def jobs(folder: str, overrides: Sequence[str]) -> list[Job]:
    """The stages of a folder of configurations, the smallest images first."""
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise InputError(f"{folder} holds no configurations (.yaml)")
    if any(word.startswith("out=") for word in overrides):
        raise InputError("out= names one stage; with --all each stage goes where its file says")
    found = []
    for file in files:
        words = ["launch", "--num_processes", "1", TRAIN, str(file), *overrides]
        found.append(Job(file, load_config(file, overrides), words))
    outs = [job.out for job in found]
    if len(set(outs)) < len(outs):
        raise InputError(f"two configurations in {folder} have the same out")
    return sorted(found, key=lambda job: job.config.data.size)


def show(found: Sequence[Job]) -> None:
    """Print the commands that `train` would run."""
    devices = gpus()
    for place, job in enumerate(found):
        prefix = f"CUDA_VISIBLE_DEVICES={devices[place % len(devices)]} " if devices else ""
        print(prefix + shlex.join(["accelerate", *job.words]))


def train(found: Sequence[Job]) -> bool:
    """Train all stages, as many at once as there are GPUs, or one at a time.

    A stage that is trained on another one's disturbed images waits for it. Asked to stop, all save
    and end, and it gives False. Raises `InputError` that names the stages that failed, once the
    others are done.
    """
    free, waiting = gpus() or [None], list(found)
    running: dict[str | None, tuple[Job, subprocess.Popen]] = {}
    failed: list[Job] = []
    stopped = False
    with stop_requests() as asked:
        while waiting or running:
            for slot, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    free.append(slot)
                    failed += [job] * (process.returncode != 0 and not stopped)
            if asked() and not stopped:
                stopped = True
                waiting.clear()
                for _, process in running.values():
                    process.terminate()
            lost = [job for job in waiting if job.waits_for in [f.out for f in failed]]
            failed += lost
            waiting = [job for job in waiting if job not in lost]
            undone = {job.out for job in waiting} | {job.out for job, _ in running.values()}
            ready = [job for job in waiting if job.waits_for not in undone]
            for job in ready[: len(free)]:
                waiting.remove(job)
                slot = free.pop(0)
                running[slot] = job, _start(job, slot)
            if waiting and not running:
                names = ", ".join(job.config.out for job in waiting)
                raise InputError(f"these stages wait for one another (augment.previous): {names}")
            time.sleep(0.2)
    if stopped:
        cli.say("stopped; the same command continues")
    elif failed:
        names = ", ".join(job.config.out for job in failed)
        raise InputError(f"not trained: {names}; the same command continues the others too")
    return not stopped


def gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def _start(job: Job, gpu: str | None) -> subprocess.Popen:
    """Start a stage; where others run beside it, what it prints goes to a file."""
    command = [str(LAUNCHER), *job.words]
    if gpu is None:
        return subprocess.Popen(command)
    log = Path(f"{job.config.out}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    cli.say(f"{job.config.out} on GPU {gpu}; it prints to {log}")
    with open(log, "a") as printed:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        return subprocess.Popen(command, env=environment, stdout=printed, stderr=printed)
