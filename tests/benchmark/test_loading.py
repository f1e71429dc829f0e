"""What a step waits for its batch is measured on real batches."""

import json

import numpy as np
from conftest import ROOT, run_tool

from cascade.benchmark.loading import memory, start, waits
from cascade.config import load_config


def test_waits_and_a_start(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    words = [f"data.name={tmp_path / 'a.npy'}", "data.cache=null", "train.batch_size=8"]
    file = ROOT / "configs/cifar10/srf16.yaml"
    config = load_config(file, words)
    source, seconds = start(config)
    assert len(source) == 80 and min(seconds.values()) > 0
    assert memory()["pss"] <= memory()["peak"]
    found = waits(source, config, 0, 0.0, 5)
    assert 0 < found["median"] <= found["worst"] and found["mean"] <= found["worst"]
    words += ["--loading", "--repeats", 1, "--step", 1, "--json", tmp_path / "a.json"]
    done = run_tool("bench", file, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["images"], result["workers"], result["step_ms"]) == (80, 0, 1)
    assert result["waited_ms"].keys() == found.keys()
    assert "a step of 1 ms waits" in done.stdout
