"""Run by tests: two processes, of which one or both fail in each of the ways that are named.

Before each, its name is printed on both streams; after it, its exit code.
"""

import os
import signal
import sys
from functools import partial

import torch
from torch import distributed

from cascade.commands.shared import cli, processes
from stages import InputError


def work(way: str) -> None:
    state = cli.process_state("cpu")
    first = state.is_main_process
    cli.say(f"process {state.process_index} of {state.num_processes}")
    print(f"a warning of process {state.process_index}", file=sys.stderr)
    if way == "both" or (way == "second" and not first):
        raise InputError(f"{way} cannot")
    if way == "bug" and not first:
        raise ValueError("a bug")
    if way == "killed" and not first:
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.ones(())
    distributed.all_reduce(total)
    cli.say(f"together {total:.0f}")


if __name__ == "__main__":
    for way in sys.argv[1:]:
        for stream in (sys.stdout, sys.stderr):
            print(f"== {way}", file=stream, flush=True)
        try:
            processes.run(2, partial(work, way))
        except SystemExit as end:
            print(f"code {end.code}", flush=True)
