"""Training: it learns, resumes exactly, and is the same on one process and two."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY, launch, run_tool

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
    assert (digits / "cascade.yaml").read_text() == "pyramid: bicubic\nstages:\n- glow8\n- srf16\n"


def test_training_lowers_held_out_bpd(tmp_path):
    done = run_tool(
        "train", ROOT / "configs/mnist5k/glow8.yaml", f"out={tmp_path / 'glow8'}",
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
        assert torch.equal(batch.target, torch.cat([p.target for p in parts]))
        assert torch.equal(batch.low, torch.cat([p.low for p in parts]))
        assert torch.equal(batch.label, torch.cat([p.label for p in parts]))
    for step, batch in zip(range(5, 8), whole.steps(5, 8), strict=True):
        assert torch.equal(batch.target, whole(step).target)
    first_epoch = torch.cat([whole._of_step(s) for s in range(len(source) // 6 + 1)])[: len(source)]
    assert torch.equal(first_epoch.sort().values, torch.arange(len(source)))


def test_interrupted_run_ends_with_the_same_weights(tmp_path):
    tiny = [*TINY, "train.log_every=1", "train.validate_images=16"]
    done = run_tool("train", SRF16, f"out={tmp_path / 'whole'}", *tiny)
    assert done.returncode == 0, done.stderr
    command = ["python", "tools/train.py", str(SRF16), f"out={tmp_path / 'cut'}", *tiny]
    process = subprocess.Popen(
        [sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().split("\n")) > 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command continues" in output
    assert not same(tmp_path / "whole", tmp_path / "cut")
    done = launch(*command)
    assert done.returncode == 0 and "from step 0" not in done.stdout
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_two_processes_train_as_one(tmp_path):
    """Loss and gradient norm of every step: those of one process on the joined batch."""
    settings = [*TINY, "train.steps=4", "train.log_every=1", "train.warmup=0", "train.lr=0.001"]
    done = run_tool("train", SRF16, f"out={tmp_path / 'one'}", *settings)
    assert done.returncode == 0, done.stderr
    done = launch(
        "torchrun", "--standalone", "--nproc_per_node", "2",
        "tools/train.py", SRF16, f"out={tmp_path / 'two'}", *settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logs = [(tmp_path / name / "metrics.jsonl").open() for name in ("one", "two")]
    one, two = ([json.loads(row) for row in log] for log in logs)
    assert len(one) == len(two) == 4
    assert one[0]["bpd"] - one[3]["bpd"] > 0.01
    for a, b in zip(one, two, strict=True):
        for key in ("bpd", "class_loss", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-2)
    assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.name=nowhere"], "unknown data set 'nowhere'"),
        (["data.size=4"], "sides divisible by 8 (8, 16, 24, ...), got 4x4"),
        (
            ["data.size=64"],
            "expects 64x64 images (or 2, 4, 8, ... times that), mnist5k holds 32x32",
        ),
        (["model.classes=5"], "has 5 classes, but mnist5k has labels up to 9"),
        (["model.stps=5"], "did you mean model.steps?"),
    ],
)
def test_errors_are_one_line_and_code_two(tmp_path, overrides, message):
    done = run_tool("train", SRF16, f"out={tmp_path / 'run'}", *TINY, *overrides)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change", ["model.squish=0.3", "data.flip=true", "seed=1", "train.optimizer=adam"]
)
def test_a_trained_stage_is_not_continued_as_another(digits, change):
    before = weights(digits / "srf16")
    done = run_tool("train", SRF16, f"out={digits / 'srf16'}", *TINY, change)
    assert done.returncode == 2 and "--force to start anew" in done.stderr
    assert done.stderr.count("\n") == 1
    after = weights(digits / "srf16")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_force_trains_anew(tmp_path):
    glow8 = ROOT / "configs" / "mnist5k" / "glow8.yaml"
    command = ["train", glow8, f"out={tmp_path / 'a'}", *TINY, "train.steps=1"]
    for extra, code in (
        ([], 0),
        (["train.resume=never"], 2),
        (["--force", "--json", tmp_path / "r.json", "model.width=8"], 0),
    ):
        done = run_tool(*command, *extra)
        assert done.returncode == code, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["finished"] is True


@pytest.mark.parametrize("stage", ["cifar10/srf32", "cifar10/glow32", "mnist5k/glow8"])
def test_dry_run(stage):
    done = run_tool("train", f"configs/{stage}.yaml", "--dry-run")
    assert done.returncode == 0
    assert "parameters" in done.stdout and "level" in done.stdout
