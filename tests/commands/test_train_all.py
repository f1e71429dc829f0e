"""`train.py --all`: all stages of a folder of configurations."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import CORES, ROOT, TINY, run_tool

from cascade.commands.shared.train_all import shares


def two_stages(folder: Path) -> None:
    for name in ("glow8", "srf16"):
        text = (ROOT / "configs" / "mnist5k" / f"{name}.yaml").read_text()
        (folder / f"{name}.yaml").write_text(text.replace("runs/mnist5k", str(folder / "runs")))


def test_all_stages_of_a_folder(few_digits, tmp_path):
    """A stage that needs another one's weights waits for it."""
    two_stages(tmp_path)
    with open(tmp_path / "srf16.yaml", "a") as file:
        file.write(f"augment:\n  previous: {tmp_path / 'runs' / 'glow8'}\n  sigma: 0.1\n")
    settings = [*TINY, "train.steps=2", f"data.name={few_digits}"]
    shown = run_tool("train", "--all", tmp_path, *settings, "--dry-run").stdout.splitlines()
    assert [f"/{name}.yaml" in line for name, line in zip(("glow8", "srf16"), shown, strict=True)]
    assert not (tmp_path / "runs").exists()
    done = run_tool("train", "--all", tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "cascade.yaml").read_text().count("- ") == 2


@pytest.fixture
def two_cores():
    """What this process starts may run on two cores, whatever it is bound to itself."""
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES[:2])
    yield
    os.sched_setaffinity(0, bound)


def test_stages_train_side_by_side(few_digits, tmp_path, two_cores):
    """A core each; the terminal tells what each prints. One that fails does not stop the other."""
    two_stages(tmp_path)
    with open(tmp_path / "srf16.yaml", "a") as file:
        file.write(f"augment:\n  previous: {tmp_path / 'nothing'}\n  sigma: 0.1\n")
    settings = [*TINY, "train.steps=2", f"data.name={few_digits}"]
    done = run_tool("train", "--all", tmp_path, *settings)
    assert done.returncode == 2
    assert f"not trained: {tmp_path}/runs/srf16;" in done.stderr
    shown = done.stdout.splitlines()
    for name, line in (("glow8", "parameters, from step 0"), ("srf16", "error: ")):
        assert any(text.startswith(f"{name}: ") and line in text for text in shown)
        log = (tmp_path / "runs" / f"{name}.log").read_text()
        assert [f"{name}: {text.rstrip()}" for text in log.splitlines()] == [
            text for text in shown if text.startswith(f"{name}: ")
        ]
    assert (tmp_path / "runs" / "glow8" / "model.safetensors").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stages_end_with_their_fleet(few_digits, tmp_path, two_cores, number):
    """Asked to stop, or killed: both stages save and end, and the same command continues them."""
    two_stages(tmp_path)
    states = [tmp_path / "runs" / name / "state" for name in ("glow8", "srf16")]
    command = [sys.executable, "tools/train.py", "--all", str(tmp_path), *TINY]
    command += ["train.steps=3000", "train.save_every=5", f"data.name={few_digits}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not all(any(state.glob("step-*")) for state in states):
        assert process.poll() is None
        time.sleep(0.1)
    stages = psutil.Process(process.pid).children()
    assert len(stages) == 2
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(stages, timeout=60)
    assert not alive
    assert process.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert ("stopped; the same command continues" in printed) == (number == signal.SIGTERM)
    last = max(int(file.stem.split("-")[1]) for file in states[0].glob("step-*.safetensors"))
    done = run_tool("train", "--all", tmp_path, *command[4:], f"train.steps={last}")
    shown = [line for line in done.stdout.splitlines() if line.startswith("glow8: ")]
    assert shown[0].endswith(f"parameters, from step {last}")


def test_no_launcher_starts_a_fleet(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    two_stages(tmp_path)
    done = run_tool("train", "--all", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "run it without a launcher" in done.stderr


def test_shares_of_the_cores():
    assert shares([2, 3, 5], 5) == [(2,), (3,), (5,)]
    assert shares([0, 1, 2, 3, 4], 2) == [(0, 1), (2, 3, 4)]
    assert shares([7], 3) == [(7,)]
