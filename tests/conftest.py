"""Shared by all tests: randomised float64 modules, and a small trained cascade of real digits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
TINY = ["train.steps=40", "train.batch_size=16", "train.sample_every=40", "model.steps=1"]


def randomise(module: nn.Module, scale: float = 0.2, seed: int = 0) -> nn.Module:
    """The module in float64, every parameter moved: a fresh one is nearly linear."""
    torch.manual_seed(seed)
    module = module.double()
    for parameter in module.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return module


def run_tool(*words: object, launch: bool = False) -> subprocess.CompletedProcess:
    """Run a tool of this repository as a user would; the result carries its output."""
    python = Path(sys.executable)
    start = [python.parent / "accelerate", "launch"] if launch else [python]
    command = [*start, *words]
    return subprocess.run(
        [str(w) for w in command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A cascade folder: Glow 8 and SRFlow 16, class-conditional, trained for seconds on digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    for name, launch in (("glow8", True), ("srf16", False)):
        config = ROOT / "configs" / "mnist5k" / f"{name}.yaml"
        done = run_tool("tools/train.py", config, f"out={folder / name}", *TINY, launch=launch)
        assert done.returncode == 0, done.stderr
    return folder
