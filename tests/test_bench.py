"""The benchmark: what it counts is right, and what it prints is complete. Speed is not tested."""

import json
import math

import pytest
import torch
from conftest import ROOT, launch, run_tool

BENCH = ROOT / "configs" / "bench" / "glow32.yaml"
SMALL = ["data.size=16", "model.steps=2", "model.width=8", "train.batch_size=2", "--repeats", "2"]


def convolutions(size: int, levels: int, steps: int, width: int, batch: int) -> int:
    """Floating-point operations of a Glow's coupling nets and 1x1s, counted by hand."""
    total, channels = 0, 3
    for level in range(levels):
        channels, size = 4 * channels, size // 2
        pixels, half = batch * size * size, channels // 2
        net = 9 * half * width + width * width + 9 * width * 2 * (channels - half)
        nets = steps + (level < levels - 1)  # the prior of the dropped half has one too
        total += 2 * pixels * (nets * net + steps * channels * channels)
        channels = half
    return total


def test_table(tmp_path):
    file = tmp_path / "bench.json"
    words = [*SMALL, "--precision", "float32", "--against", "normflows", "--json", file]
    done = run_tool("bench", BENCH, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert len(found["rows"]) == 3 and found["batch"] == 2
    expected = convolutions(16, 3, 2, 8, 2)
    for row in found["rows"]:
        assert row["images_per_s"] == pytest.approx(2000 / row["ms"])
        peak = found["peak_gflops"][row["precision"]]
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / peak)
        counted = row["gflops"] * 1e6 * row["ms"]
        if row["operation"] == "likelihood":
            assert counted == pytest.approx(expected, rel=1e-6)
        if row["operation"] == "training":
            assert 2.5 * expected < counted < 3.001 * expected  # images need no gradient
    for key in ("train_ratio", "sample_ratio"):
        assert math.isfinite(found[key]) and found[key] > 0
        assert f"{key} over normflows" in done.stdout


def test_memory_is_that_of_one_operation():
    """At least the two hidden images of every coupling net; less, if they are computed again."""
    command = ["python", "tools/bench.py", BENCH, "data.size=32", "--memory", "training"]
    stored = launch(*command)
    again = launch(*command, "train.memory=checkpoint")
    assert stored.returncode == again.returncode == 0
    hidden = 2 * 8 * 16 * (16 * 16 + 8 * 8 + 4 * 4) * 128 * 4
    assert int(stored.stdout) > hidden
    assert 0 < int(again.stdout) < 0.8 * int(stored.stdout)


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ("mnist5k/srf16", ["--against", "normflows"], "is for a Glow without classes"),
        ("bench/glow32", ["--precision", "float16"], "--precision is float32, bfloat16 or both"),
    ],
)
def test_errors(config, words, message):
    done = run_tool("bench", ROOT / "configs" / f"{config}.yaml", *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert torch.get_num_threads() == 1
