"""Shared by all tests: randomised float64 modules, and a small trained cascade of real digits."""

import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from cascade.data import open_images

ROOT = Path(__file__).parents[1]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
torch.set_num_threads(1)
os.environ.setdefault("CSRFLOW_PROCESSES", "1")  # what tests start has one process, unless told
collect_ignore = [] if torch.cuda.is_available() else ["gpu"]  # what only a GPU can run
TINY = ["train.steps=40", "train.batch_size=16", "train.sample_every=40", "model.steps=1"]


def randomise(module: nn.Module, scale: float = 0.2, seed: int = 0) -> nn.Module:
    """The module in float64, every parameter moved: a fresh one is nearly linear."""
    torch.manual_seed(seed)
    module = module.double()
    for parameter in module.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return module


@dataclass
class Finished:
    """What a tool left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(tool: str, *words: object, cwd: Path = ROOT) -> Finished:
    """Run tools/TOOL.py in this process, from a folder, as a command line would."""
    folder = str(ROOT / "tools")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch.object(sys, "argv", [tool, *map(str, words)]),
        chdir(cwd),
    ):
        try:
            runpy.run_path(f"{folder}/{tool}.py", run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            torch.set_num_threads(1)
    return Finished(code, out.getvalue(), err.getvalue())


def launch(*words: object) -> subprocess.CompletedProcess:
    """Run a program of this environment in a process of its own, from the repository's folder."""
    command = [str(Path(sys.executable).parent / str(words[0])), *map(str, words[1:])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """400 real digits, 40 a class, as an .npz: quicker to open than all of them."""
    source = open_images("mnist5k", "train", 1)
    places = [(source.labels == label).nonzero().flatten()[:40] for label in range(10)]
    chosen = torch.cat(places)
    file = tmp_path_factory.mktemp("data") / "few.npz"
    images = source.read(chosen).permute(0, 2, 3, 1).numpy()
    np.savez(file, images=images, labels=source.labels[chosen].numpy(), classes=source.classes)
    return file


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A cascade folder: Glow 8 and SRFlow 16, class-conditional, trained for seconds on digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    for name in ("glow8", "srf16"):
        config = ROOT / "configs" / "mnist5k" / f"{name}.yaml"
        done = run_tool("train", config, f"out={folder / name}", *TINY)
        assert done.returncode == 0, done.stderr
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Keep a worker of the tests, and all that it starts, to one core.

    So no two runs of a test differ in their threads, and thereby in their last bits.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    starts_workers = worker is None and config.getoption("numprocesses", None)
    if hasattr(os, "sched_setaffinity") and not starts_workers:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int((worker or "gw0")[2:]) % len(cores)]})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=2, help="how often tests/training/test_kill.py kills a run"
    )
    web = "tests/web/browser.py"
    parser.addoption("--run", help=f"the cascade that {web} shows, not one of chance")
    parser.addoption("--doubler", help=f"the colour stage that {web} enlarges with")
    parser.addoption("--shots", help=f"where {web} puts its screenshots")
    parser.addoption(
        "--inputs", type=int, help="how many inputs, drawn by chance, tests/test_fuzz.py tries"
    )
