"""A run that is killed again and again loses nothing, and ends with the weights of a quiet one.

After each kill the weights on disk are those of the uninterrupted run at some step, no earlier than
before, and sample and score; the same weights give the same answers. make soak kills 200 times.
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from glob import glob
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, TINY, run_tool

from cascade.config import load_config
from cascade.training.trainer import Trainer
from cascade.utils.tensors import read_tensors

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


def settings(out: Path, data: Path, kills: int) -> list[str]:
    """Of a run with a state after every step: much of its time is spent writing."""
    return [
        *[*TINY, f"out={out}", f"data.name={data}", f"train.steps={14 + 6 * kills}"],
        *["train.save_every=1", "train.log_every=1", "train.sample_every=5"],
        *["train.pretrain_steps=4", "train.frozen_steps=4", "train.validate_images=64"],
        "train.init_images=64",
    ]


def start(launcher: str, out: Path, data: Path, kills: int, workers: int = 0) -> subprocess.Popen:
    command = [*LAUNCHERS[launcher], "tools/train.py", str(SRF16), *settings(out, data, kills)]
    command += [f"train.workers={workers}"]
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
    patience = float("inf") if in_file else chance.choice([float("inf"), 8 * chance.random()])
    started = time.monotonic()  # out of patience, it is killed wherever it is in its beginning
    while process.poll() is None and newest(out) < target and time.monotonic() - started < patience:
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


def weights(stage: Path) -> str:
    """SHA-256 of a stage's weights, which must be whole; nothing where there are none yet."""
    file = stage / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def answers(run: Path, data: Path) -> tuple[bytes, str]:
    """What a cascade folder draws, and how it scores images."""
    csv, grid = run / "scores.csv", run / "grid.png"
    drawn = run_tool("sample", run, "--num", 4, "--out", grid, "--force")
    words = ["--data", data, "--split", "all", "--limit", 8, "--csv", csv, "--force"]
    scored = run_tool("likelihood", run, *words)
    assert drawn.returncode == scored.returncode == 0, drawn.stderr + scored.stderr
    return grid.read_bytes(), csv.read_text()


def uninterrupted(run: Path, data: Path, kills: int) -> list[str]:
    """Train in one go; the digest of the weights to use after every step that has some."""
    trainer, found = Trainer(load_config(SRF16, settings(run / "srf16", data, kills))), []
    publish = trainer.saver.publish

    def noted() -> None:
        publish()
        found.append(weights(run / "srf16"))

    trainer.saver.publish = noted
    assert trainer.run()
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_killed_runs_end_with_the_same_weights(tmp_path, few_digits, digits, request, launcher):
    kills = request.config.getoption("--kills")
    if launcher == "two processes":
        kills = max(1, kills // 4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run in (whole, cut):
        shutil.copytree(digits / "glow8", run / "glow8")
    out, steps, workers = cut / "srf16", None, 0
    if launcher == "one process":
        steps = uninterrupted(whole, few_digits, kills)
    else:
        workers = 1  # of each process that is killed, none of those that are not
        reference = start(launcher, whole / "srf16", few_digits, kills)
        assert reference.wait(300 + 10 * kills) == 0, reference.stdout.read()
    chance, moments, known = random.Random(0), [], {}
    reached, place = 0, 0
    for kill in range(kills):
        process = start(launcher, out, few_digits, kills, workers)
        moments.append(kill_after(process, out, chance, in_file=kill % 2 == 0))
        assert newest(out) >= reached  # nothing is lost
        reached = newest(out)
        if found := weights(out):
            if steps:
                assert found in steps[place:], "other weights than those of the uninterrupted run"
                place = steps.index(found, place)
            answer = answers(cut, few_digits)
            assert known.setdefault(found, answer) == answer
    assert "ended before" not in moments
    last = start(launcher, out, few_digits, kills, workers)
    output, _ = last.communicate(timeout=300 + 10 * kills)
    assert last.returncode == 0, output
    for name in ("model", "best"):
        one, two = (read_tensors(run / "srf16" / f"{name}.safetensors") for run in (whole, cut))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert answers(whole, few_digits) == answers(cut, few_digits)
    files = [run / "srf16" / "metrics.jsonl" for run in (whole, cut)]
    logs = [[json.loads(row) for row in file.open()] for file in files]
    timeless = [[{k: v for k, v in r.items() if k != "images_per_s"} for r in log] for log in logs]
    assert timeless[0] == timeless[1]
    print(f"{launcher}: {kills} kills {dict(Counter(moments))}, {len(known)} weights answered for")
