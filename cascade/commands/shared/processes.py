"""A command on all cores: processes of its own that share the work, as a launcher's would."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from typing import IO, Any

import torch

from cascade.commands.shared import cli
from cascade.training.signals import launched
from cascade.utils.processes import lost_a_process
from cascade.utils.workers import usual_processes
from stages import InputError

PASSED_ON = (signal.SIGINT, signal.SIGTERM)
LOST = 3  # the exit code of a process that another one has left
GRACE = 2, 30  # seconds after a process has failed: the others are asked to end, and are ended


def add_argument(
    parser: argparse.ArgumentParser, usual: str = "one a core, fewer for little work"
) -> None:
    """How many processes share a command's work, and how many do if it is not told."""
    parser.add_argument(
        "--processes", type=cli.positive, metavar="N",
        help=f"on a CPU, processes that share the work (default: {usual})",
    )  # fmt: skip


def wanted(args: argparse.Namespace, device: str | torch.device) -> int:
    """How many processes a command may use on a device: the number that it was told, or its cores.

    Just one on a GPU, beneath a launcher, and where processes cannot be forked from one. Raises
    `InputError` where it was told more there.
    """
    count = args.processes or usual_processes()
    reason = None
    if launched():
        reason = "a launcher has started this command: give it the number of processes"
    elif torch.device(device).type != "cpu":
        reason = "one process uses one GPU: accelerate launch --num_processes N uses several"
    elif not sys.platform.startswith("linux"):
        reason = "only Linux can: torchrun --nproc_per_node N starts processes elsewhere"
    if reason and (args.processes or 1) > 1:
        raise InputError(f"--processes {args.processes}, but {reason}")
    return 1 if reason else count


def run(count: int, work: Callable[[], None]) -> None:
    """Do ``work``: here, or shared by ``count`` processes that are started for it.

    These find one another as those of a launcher do, and share this machine's cores; the first has
    the terminal. Does not return from them: all end once one fails, and the exit code is theirs.
    """
    if count == 1:
        work()
        return
    group = Group(count, work)
    group.start()
    sys.exit(group.result())


class Group:
    """Processes forked from this one, and how they end."""

    def __init__(self, count: int, work: Callable[[], None]):
        fork: Any = multiprocessing.get_context("fork")
        self.printed: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(count)]  # noqa: SIM115
        self.alive = os.pipe()  # its writing end is open as long as this process lives
        environment = {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "OMP_NUM_THREADS": "1",  # or accelerate warns, and sets torch's own
        }
        self.processes = [
            fork.Process(target=partial(self._member, rank, environment, work))
            for rank in range(count)
        ]
        self.ended: list[Any] = []  # processes, the first to end first
        self.asked: int | None = None  # to end, by this signal

    def start(self) -> None:
        """Fork all; signals wait meanwhile, so that none is lost."""
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        for process in self.processes:
            process.start()
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    def _pass_on(self, number: int, frame: object) -> None:
        self.asked = number
        self._signal(number)

    def _signal(self, number: int) -> None:
        for process in self.processes:
            if process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _member(self, rank: int, environment: dict[str, str], work: Callable[[], None]) -> None:
        """What a process does: in a session of its own, so that Ctrl-C comes from `Group` alone."""
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(self.alive[1])
        threading.Thread(target=_end_with, args=self.alive[:1], daemon=True).start()
        os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
        if rank:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self.printed[rank].fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.guarded(partial(_unless_lost, work))

    def result(self) -> int:
        """Wait for all to end, and give the exit code; says why, where the first has not."""
        limits: list[float] = []  # when to ask, and when to end, what runs after a failure
        while left := [p for p in self.processes if p not in self.ended]:
            seconds = max(0.0, limits[0] - time.monotonic()) if limits else None
            wait([process.sentinel for process in left], seconds)
            self.ended += [process for process in left if process.exitcode is not None]
            failed = any(process.exitcode for process in self.ended)
            if failed and not limits:  # also if asked: one that waits for it may not hear of that
                limits = [time.monotonic() + grace for grace in GRACE] + [float("inf")]
            if limits and time.monotonic() >= limits[0]:
                self._signal(signal.SIGTERM if len(limits) == 3 else signal.SIGKILL)
                limits = limits[1:]
        return self._verdict()

    def _verdict(self) -> int:
        codes = [process.exitcode for process in self.processes]
        if not any(codes):
            return 0
        if self.asked is not None:
            return 128 + self.asked
        self._say_why(unsaid=codes[0] <= 0 or codes[0] == LOST)
        return next((code for code in codes if code > 0 and code != LOST), 2)

    def _say_why(self, unsaid: bool) -> None:
        """Print what ended all: another process's traceback, or its line if the first has none."""
        failed = [process for process in self.ended if process.exitcode]
        for process in failed:
            text = self._text(self.processes.index(process))
            lines = text.splitlines(keepends=True)
            if process.exitcode != 1:
                lines = [line for line in lines if line.startswith("error: ")]
            if lines and (unsaid or process.exitcode == 1):
                sys.stderr.writelines(lines)
                return
        if unsaid:
            number = max(-process.exitcode for process in failed)
            print(
                f"error: one of {len(self.processes)} processes was ended by signal {number} (9 is "
                "often a lack of memory, and --processes takes fewer)",
                file=sys.stderr,
            )

    def _text(self, rank: int) -> str:
        self.printed[rank].seek(0)
        return self.printed[rank].read().decode(errors="replace")


def _unless_lost(work: Callable[[], None]) -> None:
    """Do the work; where another process has ended, it is that one's error that is to be told."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    try:
        work()
    except RuntimeError as error:
        if lost_a_process(error):
            sys.exit(LOST)
        raise


def _end_with(alive: int) -> None:
    """Ask this process to end once the process that started it has, however that ended."""
    os.read(alive, 1)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
