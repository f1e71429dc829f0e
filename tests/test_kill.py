"""A run that is killed, again and again, ends with the weights of one that was not.

pytest tests/test_kill.py --kills 20 kills more often.
"""

import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from glob import glob
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, TINY

from cascade.stage import read_tensors

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
LAUNCHERS = {
    "one process": [sys.executable],
    "two processes": [
        str(Path(sys.executable).parent / "torchrun"),
        "--standalone",
        "--nproc_per_node",
        "2",
    ],
}


def start(launcher: str, out: Path, data: Path, kills: int) -> subprocess.Popen:
    """Train with a state after every step: much of a run's time is spent writing."""
    steps = 30 + 12 * kills
    settings = [
        *[
            *TINY,
            f"out={out}",
            f"data.name={data}",
            f"train.steps={steps}",
            "train.save_every=1",
            "train.log_every=1",
        ],
        *["train.pretrain_steps=4", "train.frozen_steps=4", "train.validate_images=64"],
        *["train.init_images=64", "train.sample_every=5"],
    ]
    command = [*LAUNCHERS[launcher], "tools/train.py", str(SRF16), *settings]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def newest(out: Path) -> int:
    """The step of the newest state, 0 where there is none."""
    names = [f.stem for f in (out / "state").glob("step-*.safetensors")]
    return max((int(name.split("-")[1]) for name in names), default=0)


def kill_after(process: subprocess.Popen, out: Path, chance: random.Random, in_file: bool) -> str:
    """SIGKILL to all its processes a few steps further on, if asked in the middle of a file."""
    target = newest(out) + chance.randint(1, 4)
    while process.poll() is None and newest(out) < target:
        time.sleep(0.005)
    parent = psutil.Process(process.pid)
    group = [*parent.children(recursive=True), parent]  # workers have groups of their own
    half_written = f"{out}/**/.*.part*"
    earlier = set(glob(half_written, recursive=True))
    while (
        process.poll() is None and in_file and not set(glob(half_written, recursive=True)) - earlier
    ):
        pass
    time.sleep(0 if in_file else chance.random() * 0.1)
    for one in group:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    ended = process.wait() == 0
    left = set(glob(half_written, recursive=True)) - earlier
    return "ended before" if ended else "in a file" if left else "between files"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_killed_runs_end_with_the_same_weights(tmp_path, few_digits, request, launcher):
    kills = request.config.getoption("--kills")
    if launcher == "two processes":
        kills = max(1, kills // 4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reference = start(launcher, whole, few_digits, kills)
    assert reference.wait(300) == 0, reference.stdout.read()
    chance, moments = random.Random(0), []
    for kill in range(kills):
        process = start(launcher, cut, few_digits, kills)
        moments.append(kill_after(process, cut, chance, in_file=kill % 2 == 0))
    assert "ended before" not in moments
    last = start(launcher, cut, few_digits, kills)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    for name in ("model", "best"):
        one, two = (read_tensors(folder / f"{name}.safetensors") for folder in (whole, cut))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    logs = [[json.loads(r) for r in (f / "metrics.jsonl").open()] for f in (whole, cut)]
    timeless = [[{k: v for k, v in r.items() if k != "images_per_s"} for r in log] for log in logs]
    assert timeless[0] == timeless[1]
    print(f"{launcher}: {len(moments)} kills, {moments.count('in a file')} in the middle of a file")
