"""Training: it learns, resumes exactly, and is the same on one process and two."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY, run_tool

from cascade import Cascade
from cascade.batches import Batches
from cascade.config import load_config
from cascade.stage import read_tensors
from cascade.watch import open_stage_images

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"


def weights(folder):
    return read_tensors(folder / "model.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_stage_folder(digits):
    for name in ("glow8", "srf16"):
        folder = digits / name
        assert (folder / "config.yaml").is_file() and (folder / "model.safetensors").is_file()
        assert list((folder / "samples").glob("*.png")) and list((folder / "state").iterdir())
    assert (digits / "cascade.yaml").read_text() == "stages:\n- glow8\n- srf16\n"


def test_training_lowers_held_out_bpd(tmp_path):
    done = run_tool(
        "tools/train.py", ROOT / "configs/mnist5k/glow8.yaml", f"out={tmp_path / 'glow8'}",
        *TINY, "train.steps=60", "train.save_every=10", "train.log_every=10", "train.ema=0.9",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in (tmp_path / "glow8" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(10, 70, 10))
    assert rows[-1]["validation_bpd"] < rows[0]["validation_bpd"] - 0.3
    assert {"bpd", "class_loss", "grad_norm", "lr", "images_per_s"} <= rows[0].keys()


def test_batches_are_a_function_of_the_step():
    config = load_config(SRF16, ["train.batch_size=6", "data.flip=true"])
    source = open_stage_images(config, "train")
    whole = Batches(source, config)
    for step in (0, 700):  # 700 straddles two epochs of 4,000 images
        batch = whole(step)
        parts = [Batches(source, config, rank, 3)(step) for rank in range(3)]
        assert torch.equal(batch.high, torch.cat([p.high for p in parts]))
        assert torch.equal(batch.low, torch.cat([p.low for p in parts]))
        assert torch.equal(batch.label, torch.cat([p.label for p in parts]))
    for step, batch in zip(range(5, 8), whole.steps(5, 8), strict=True):
        assert torch.equal(batch.high, whole(step).high)
    first_epoch = torch.cat([whole._of_step(s) for s in range(len(source) // 6 + 1)])[: len(source)]
    assert torch.equal(first_epoch.sort().values, torch.arange(len(source)))


def test_interrupted_run_ends_with_the_same_weights(tmp_path):
    tiny = [*TINY, "train.log_every=1", "train.validate_images=16"]
    done = run_tool("tools/train.py", SRF16, f"out={tmp_path / 'whole'}", *tiny)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "tools/train.py", str(SRF16), f"out={tmp_path / 'cut'}", *tiny]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().split("\n")) > 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command continues" in output
    assert not same(tmp_path / "whole", tmp_path / "cut")
    done = run_tool(*command[1:])
    assert done.returncode == 0 and "from step 0" not in done.stdout
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_two_processes_train_the_same_stage(tmp_path):
    settings = [*TINY, "train.steps=3"]
    done = run_tool("tools/train.py", SRF16, f"out={tmp_path / 'one'}", *settings)
    assert done.returncode == 0, done.stderr
    done = run_tool(
        "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611",
        "tools/train.py", SRF16, f"out={tmp_path / 'two'}", *settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.name=nowhere"], "unknown data set 'nowhere'"),
        (["data.size=12"], "sides divisible by 8 (8, 16, 24, ...), got 12x12"),
        (
            ["data.size=64"],
            "expects 64x64 images (or 2, 4, 8, ... times that), mnist5k holds 32x32",
        ),
        (["model.classes=5"], "has 5 classes, but mnist5k has labels up to 9"),
        (["model.stps=5"], "did you mean model.steps?"),
    ],
)
def test_errors_are_one_line_and_code_two(tmp_path, overrides, message):
    done = run_tool("tools/train.py", SRF16, f"out={tmp_path / 'run'}", *TINY, *overrides)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_state_of_another_architecture_is_refused(digits, tmp_path):
    import shutil

    shutil.copytree(digits / "srf16", tmp_path / "srf16")
    done = run_tool(
        "tools/train.py",
        SRF16,
        f"out={tmp_path / 'srf16'}",
        *TINY,
        "model.width=8",
        "train.steps=50",
    )
    assert done.returncode == 2 and "another architecture" in done.stderr
    assert Cascade.load(digits).stages[1].config.model.width != 8
    assert same(tmp_path / "srf16", digits / "srf16")


@pytest.mark.parametrize("stage", ["cifar10/srf32", "cifar10/glow32", "mnist5k/glow8"])
def test_dry_run(stage):
    done = run_tool("tools/train.py", f"configs/{stage}.yaml", "--dry-run")
    assert done.returncode == 0
    assert "parameters" in done.stdout and "level" in done.stdout
