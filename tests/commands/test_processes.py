"""Commands on several cores: the same results, one voice, and one end for all processes."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from conftest import ROOT, launch, run_tool

from cascade.commands.shared import processes
from stages import InputError

WAYS = {  # how two processes fail, the exit code, and what is told
    "both": (2, "error: both cannot"),
    "second": (2, "error: second cannot"),
    "killed": (2, "error: one of 2 processes was ended by signal 9 (9 is often a lack of memory"),
    "bug": (1, "ValueError: a bug"),
    "none": (0, ""),
}


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[str, str]]:
    """What two processes leave on either stream, by how they fail."""
    done = launch("python", "tests/commands/together.py", *WAYS)
    assert done.returncode == 0, done.stderr
    streams = [text.split("== ")[1:] for text in (done.stdout, done.stderr)]
    return {
        out.partition("\n")[0]: (out.partition("\n")[2], error.partition("\n")[2])
        for out, error in zip(*streams, strict=True)
    }


@pytest.mark.parametrize("way", WAYS)
def test_one_failure_ends_both_and_is_told_once(told, way):
    (out, error), (code, line) = told[way], WAYS[way]
    assert out.startswith("process 0 of 2\n") and "process 1" not in out
    assert out.endswith(f"code {code}\n") and ("together 2" in out) == (not code)
    assert line in error and error.count("a warning of process 0") == 1
    if code != 1:
        assert error.count("\n") == 1 + bool(code) and "Traceback" not in error


def test_samples_of_two_processes_are_those_of_one(digits, tmp_path):
    for name in ("one", "two"):
        files = ["--out", tmp_path / f"{name}.png", "--npz", tmp_path / f"{name}.npz"]
        words = [digits, "--num", 37, "--seed", 3, *files, "--json", tmp_path / f"{name}.json"]
        two = ("python", "tools/sample.py", *words, "--processes", 2)
        done = run_tool("sample", *words) if name == "one" else launch(*two)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("37 samples, ") == 1
    for kind in ("png", "npz"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert len(np.load(tmp_path / "two.npz")["images"]) == 37
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["clipped"] == two["clipped"] and one["chunk"] == 16


def test_processes_end_with_the_one_that_started_them(digits, tmp_path):
    """Killed itself, it cannot tell them; asked to end, it passes the request on."""
    words = [digits, "--num", 10**5, "--processes", 2, "--out", tmp_path / "g.png"]
    command = [sys.executable, "tools/sample.py", *map(str, words)]
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        own = psutil.Process(process.pid)
        while len(own.children()) < 2 or not all(p.num_threads() > 1 for p in own.children()):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        members = own.children()
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert psutil.wait_procs(members, timeout=60)[1] == []
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert "Traceback" not in error


def test_one_that_does_not_hear_of_the_end_is_ended(tmp_path):
    """As a process that waits in native code for one that Ctrl-C has ended."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from cascade.commands.shared import processes\n"
        "def work():\n"
        "    if os.environ['RANK'] == '0':\n"
        "        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "    open(os.environ['RANK'], 'w').close()\n"
        "    time.sleep(300)\n"
        "processes.run(2, work)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    while not all((tmp_path / rank).is_file() for rank in "01"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def of(**args):
    return argparse.Namespace(**{"processes": None, **args})


def test_how_many_processes(monkeypatch):
    monkeypatch.delenv("CSRFLOW_PROCESSES")
    for name in ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    cores = len(os.sched_getaffinity(0))
    assert processes.wanted(of(), "cpu") == cores and processes.wanted(of(), "cuda:0") == 1
    monkeypatch.setenv("CSRFLOW_PROCESSES", "5")
    assert processes.wanted(of(), "cpu") == 5 and processes.wanted(of(processes=3), "cpu") == 3
    with pytest.raises(InputError, match="accelerate launch --num_processes N"):
        processes.wanted(of(processes=2), "cuda:0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes.wanted(of(), "cpu") == 1
    with pytest.raises(InputError, match="a launcher has started this command"):
        processes.wanted(of(processes=2), "cpu")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("CSRFLOW_PROCESSES", "many")
    with pytest.raises(InputError, match="CSRFLOW_PROCESSES is a whole number above 0"):
        processes.wanted(of(), "cpu")


def test_all_stages_share_the_cores_as_they_do():
    done = run_tool("train", "--all", "configs/mnist5k", "--processes", 2)
    assert done.returncode == 2 and "leave --processes out" in done.stderr
