"""Training: it learns, resumes exactly, and is the same on one process and two."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import CORES, ROOT, TINY, launch, run_tool
from first_gradients import first_gradients
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cascade.config import load_config
from cascade.data.batches import Batches
from cascade.data.stage_images import open_stage_images
from cascade.training.trainer import Trainer
from cascade.utils.tensors import read_tensors
from stages import InputError

OTHERS = ("tables", "versus")  # of several stages
CONFIGS = [file for file in sorted(ROOT.glob("configs/*/*.yaml")) if file.parent.name not in OTHERS]
SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
FEW = [*TINY, "train.steps=3", "train.init_images=64", "train.validate_images=16"]


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


def test_two_processes_train_as_one(tmp_path):
    """Loss and gradient norm of every step: those of one process on the joined batch."""
    settings = [*TINY, "train.steps=4", "train.log_every=1", "train.warmup=0", "train.lr=0.001"]
    done = run_tool("train", SRF16, f"out={tmp_path / 'one'}", *settings)
    assert done.returncode == 0, done.stderr
    for name in ("two", "again"):  # a node was seen to abort in parting, once in ten runs
        printed, codes = on_two_nodes(SRF16, f"out={tmp_path / name}", *settings)
        if codes == [0, 0]:
            break
    assert codes == [0, 0], printed
    assert printed.count("2 processes share each batch") == 1
    logs = [(tmp_path / run / "metrics.jsonl").open() for run in ("one", name)]
    one, two = ([json.loads(row) for row in log] for log in logs)
    assert len(one) == len(two) == 4
    assert one[0]["bpd"] - one[3]["bpd"] > 0.01
    for a, b in zip(one, two, strict=True):
        for key in ("bpd", "class_loss", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-2)
    assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-4)


def on_two_nodes(*words: object) -> tuple[str, list[int]]:
    """Train by what docs/slurm.sh has each of two nodes run, both on one core of this machine.

    Gives what both print, and how they end.
    """
    script = ROOT / "docs" / "slurm.sh"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    [line] = re.findall(r"^node='(.*?)'", script.read_text(encoding="utf-8"), re.M | re.S)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PATH": path}
    shared = {**os.environ, **shared, "SLURM_NNODES": "2", "PROCESSES": "1"}
    shared["OMP_NUM_THREADS"] = "1"  # or accelerate takes as many as the machine has cores
    agents = [
        subprocess.Popen(
            ["bash", "-c", line, "node", *map(str, words)], cwd=ROOT, text=True,
            env={**shared, "SLURM_NODEID": str(node)},
            preexec_fn=partial(os.sched_setaffinity, 0, CORES[:1]),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for node in range(2)
    ]  # fmt: skip
    started = time.monotonic()
    while all(agent.poll() is None for agent in agents) and time.monotonic() < started + 300:
        time.sleep(0.1)
    for agent in agents:  # one that is done may wait 300 s more for another that has gone already
        with suppress(subprocess.TimeoutExpired):
            agent.wait(15)
        agent.kill()
    printed = "".join(agent.communicate()[0] for agent in agents)
    return printed, [agent.returncode for agent in agents]


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
    assert done.returncode == 2 and "--force to start over" in done.stderr
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


def trainer(data, out, *settings) -> Trainer:
    return Trainer(load_config(SRF16, [*FEW, f"data.name={data}", f"out={out}", *settings]))


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and len(one) > 50
    for name, a in one.items():
        scale = a.abs().max().item()
        torch.testing.assert_close(a, other[name], rtol=1e-3, atol=1e-4 * scale + 1e-8)


def test_accumulated_gradients_are_those_of_the_whole_batch(few_digits, tmp_path):
    one = first_gradients(trainer(few_digits, tmp_path / "one"))
    four = trainer(few_digits, tmp_path / "four", "train.accumulate=4")
    assert_close(one, first_gradients(four))


def test_gradients_of_two_processes_are_those_of_the_joined_batch(few_digits, tmp_path):
    """Though each keeps no images: DDP waits for the gradients of every weight, and gets them."""
    one = first_gradients(trainer(few_digits, tmp_path / "one"))
    overrides = [*FEW, f"data.name={few_digits}", f"out={tmp_path / 'two'}"]
    done = launch(
        "torchrun", "--standalone", "--nproc_per_node", "2", "tests/training/first_gradients.py",
        tmp_path / "two.safetensors", SRF16, *overrides, "train.accumulate=2",
        "train.memory=reversible",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_close(one, read_tensors(tmp_path / "two.safetensors"))


def test_other_precision_memory_and_permutation_learn_alike(few_digits, tmp_path):
    found = []
    for name, more in (
        ("bf16", ["train.precision=bf16"]),
        ("plain", []),
        ("other", ["train.memory=reversible", "model.permutation=lu"]),
    ):
        settings = [f"data.name={few_digits}", f"out={tmp_path / name}", "train.steps=12"]
        AcceleratorState._reset_state()  # it keeps to one precision otherwise
        assert Trainer(load_config(SRF16, [*FEW, *settings, *more])).run()
        log = (tmp_path / name / "metrics.jsonl").open()
        found.append(json.loads(list(log)[-1])["validation_bpd"])
    assert found[1:] == pytest.approx([found[0]] * 2, rel=0.02)


def test_trackers_and_model_card(few_digits, tmp_path):
    """What `cascade.training.model_card` writes is what happened, and its command does it again."""
    run = trainer(few_digits, tmp_path / "run", "train.trackers=[tensorboard]", "train.log_every=1")
    assert run.run()
    events = EventAccumulator(str(run.out / "logs" / "csrflow")).Reload()
    rows = [json.loads(row) for row in (run.out / "metrics.jsonl").open()]
    for key in ("bpd", "grad_norm", "validation_bpd"):
        logged = [row[key] for row in rows if key in row]
        assert [event.value for event in events.Scalars(key)] == pytest.approx(logged)
    assert [event.step for event in events.Images("samples")] == [3]
    card = (run.out / "README.md").read_text()
    held_out = rows[-1]["validation_bpd"]
    assert f"{held_out:.4f} bits/dim" in card and run.data.record.images[:16] in card
    assert f"({next((run.out / 'samples').iterdir()).relative_to(run.out)})" in card
    command = re.search(r"```sh\n(.*)\n```", card).group(1).split()
    assert command[:2] == ["csrflow", "train"]
    assert Trainer(load_config(command[2], command[3:])).run()
    assert same(run.out, tmp_path / "run-again")


def test_a_tracker_that_is_not_installed(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs a package: pip install wandb"):
        trainer(few_digits, tmp_path / "run", "train.trackers=[wandb]")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_configuration_is_careful(file):
    config = load_config(file)
    assert config.model.squish > 0 and config.train.warmup > 0 and config.train.clip <= 100
    assert config.train.resume == "auto" and config.train.ema > 0


@pytest.mark.parametrize("stage", ["celeba/srf64", "cifar10/glow32"])
def test_dry_run(stage):
    few = ["model.steps=2", "model.encoder_blocks=1"][: 1 + ("srf" in stage)]
    done = run_tool("train", f"configs/{stage}.yaml", *few, "--dry-run")
    assert done.returncode == 0
    assert "parameters" in done.stdout and "level" in done.stdout
