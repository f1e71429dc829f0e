"""How a run ends before its time: asked to, orphaned, bereft of a process, or kept out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, TINY, run_tool

from cascade.training.checkpoints import States
from cascade.training.signals import stop_requests

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
BIN = Path(sys.executable).parent


TORCHRUN = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2"]


def start(out, data, *launcher, steps=3000, workers=0, more=()):
    settings = [*more, *TINY, f"out={out}", f"data.name={data}", f"train.steps={steps}"]
    settings += [f"train.workers={workers}"]
    settings += ["train.save_every=10", "train.validate_images=16", "train.init_images=64"]
    settings += ["train.sample_every=100000"]
    return subprocess.Popen(
        [*map(str, launcher), "tools/train.py", str(SRF16), *settings], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_states(process, out, count=1):
    states = States(out / "state", 2)
    while not (states.files() and int(states.files()[0].stem[5:]) >= 10 * count):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


def last_step(out):
    return int(States(out / "state", 2).files()[0].stem[5:])


def workers(process):
    return [
        child for child in psutil.Process(process.pid).children(recursive=True)
        if "tools/train.py" in child.cmdline() and "torchrun" not in " ".join(child.cmdline())
    ]  # fmt: skip


def test_a_signal_saves_and_ends_well(tmp_path, few_digits):
    process = start(tmp_path / "srf16", few_digits, sys.executable)
    wait_for_states(process, tmp_path / "srf16")
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and time.monotonic() - asked < 10
    assert f"stopped at step {last_step(tmp_path / 'srf16')}" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_that_make_batches_end_with_the_run(tmp_path, few_digits, number):
    """All that were started, in silence, whether the whole group is asked or the run is killed."""
    out = tmp_path / "srf16"
    process = start(out, few_digits, sys.executable, workers=1)
    wait_for_states(process, out)
    below = psutil.Process(process.pid).children(recursive=True)
    assert sum(child.name() == "pt_data_worker" for child in below) == 1
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    output, _ = process.communicate(timeout=60)  # which they hold open
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0), output
    assert "leaked" not in output and "Traceback" not in output
    assert not psutil.wait_procs(below, timeout=30)[1]


def test_an_orphan_saves_and_ends_by_itself(tmp_path, few_digits):
    """Its launcher killed, the worker stops; until it has, the folder is closed to others."""
    out = tmp_path / "srf16"
    process = start(out, few_digits, BIN / "accelerate", "launch")
    wait_for_states(process, out)
    (worker,) = workers(process)
    worker.suspend()
    process.kill()
    second = run_tool("train", SRF16, f"out={out}", f"data.name={few_digits}", *TINY)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"is being trained by process {worker.pid}" in second.stderr
    worker.resume()
    assert worker.wait(30) in (0, None)  # None: not a child of this process
    step = last_step(out)
    assert 10 <= step < 3000
    time.sleep(0.5)
    assert last_step(out) == step


def test_two_processes_stop_together(tmp_path, few_digits):
    out = tmp_path / "srf16"
    process = start(out, few_digits, *TORCHRUN)
    wait_for_states(process, out)
    workers(process)[1].send_signal(signal.SIGTERM)  # one alone is asked
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"stopped at step {last_step(out)}" in output


def test_a_lost_process_ends_the_run_with_a_clear_error(tmp_path, few_digits):
    out = tmp_path / "srf16"
    process = start(out, few_digits, sys.executable, more=["--processes", "2"])
    wait_for_states(process, out)
    first, _ = sorted(workers(process), key=lambda worker: worker.pid)
    first.kill()
    lost = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - lost < 60
    assert "error: lost another process of this run at step" in output
    assert "is whole, and the same command continues from it" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_is_seen_and_handlers_are_put_back(number):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with stop_requests() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked() and asked()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
