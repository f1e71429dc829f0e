"""The cost of a stage: what is counted without values is what runs; times follow from it."""

import json
import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from conftest import ROOT, run_tool

from cascade.benchmark import machines
from cascade.benchmark.cost import Counter, cost
from cascade.benchmark.machines import GPU, GPUS, Machine, exchange_seconds, training_seconds
from cascade.building import build
from cascade.commands.shared import costs
from cascade.config import load_config
from cascade.data.batches import Batch
from cascade.training.phases import flow_loss
from stages import StageLoss, convolve

SMALL = ["model.steps=2", "model.levels=2", "model.width=16", "train.batch_size=6"]


def config(name: str, *overrides: str):
    return load_config(ROOT / "configs" / f"{name}.yaml", [*SMALL, *overrides])


def counted_of_a_run(settings) -> Counter:
    """A training step of random images, counted as it runs."""
    flow, counter, data = build(settings), Counter(), settings.data
    flow.set_activation_memory(settings.train.memory)
    count, half = settings.train.batch_size, data.size // 2
    batch = Batch(
        torch.rand(count, *flow.shape) - 0.5,
        torch.rand(count, data.channels, half, half) - 0.5 if settings.upsamples else None,
        torch.arange(count) % 10 if flow.classes else None,
    )
    with patch.object(convolve, "MAX_IM2COL", 0), counter:
        flow_loss(StageLoss(flow), batch, settings)[0].backward()
    return counter


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("bench/glow32", ["data.size=16"]),
        ("mnist5k/srf16", ["train.memory=checkpoint"]),
        ("mnist5k/srf16", ["train.memory=reversible"]),
        ("mnist5k-haar/srf16", ["model.steps=0", "model.levels=1"]),
    ],
)
def test_what_is_counted_is_what_runs(name, overrides):
    """At a batch that was not counted itself."""
    settings = config(name, *overrides)
    run, step = counted_of_a_run(settings), cost(settings).step
    assert step.flops == pytest.approx(run.flops, rel=1e-6)
    assert step.launches == pytest.approx(run.launches, rel=0.03)
    assert step.bytes == pytest.approx(run.bytes, rel=0.03)
    assert step.peak == pytest.approx(run.peak, rel=0.05)


def test_memory_by_what_is_kept():
    """What `reversible` keeps of an image does not grow with depth; what `store` keeps does."""
    each = {}
    for memory in ("store", "reversible"):
        for steps in (4, 8):
            found = cost(config("bench/glow32", f"train.memory={memory}", f"model.steps={steps}"))
            work = found.phases[-1][1]
            each[memory, steps] = work(11).peak - work(10).peak
    assert each["store", 8] > 1.7 * each["store", 4]
    assert each["reversible", 8] < 1.05 * each["reversible", 4] < each["store", 4] / 2


def test_phases_and_parts():
    settings = config("mnist5k/srf16", "train.steps=100", "model.encoder_blocks=1")
    usual = cost(settings)
    train = replace(settings.train, pretrain_steps=30, frozen_steps=20, accumulate=2)
    found = cost(replace(settings, train=train))
    assert [steps for steps, _ in found.phases] == [30, 20, 80]
    encoder, frozen, whole = (work(6) for _, work in found.phases)
    assert encoder.flops > 0 and 0 < frozen.flops < whole.flops
    assert whole.flops == pytest.approx(usual.step.flops, rel=0.05)
    assert whole.launches == 2 * usual.step.launches and whole.peak < usual.step.peak
    assert found.sample.flops <= found.likelihood.flops < whole.flops / 3
    each = [machines.step_seconds(work(6), found, GPU) for _, work in found.phases]
    step, total = training_seconds(found, GPU)
    assert step == each[2] and total == pytest.approx(30 * each[0] + 20 * each[1] + 80 * each[2])
    limited = replace(found, config=replace(found.config, train=replace(train, seconds=0.1)))
    assert training_seconds(limited, GPU) == (step, 0.1)


def test_what_decides_a_step():
    found = cost(config("bench/glow32"))
    fast = Machine("fast", flops=1e20, bandwidth=1e20, launch=1e-3)
    launches = found.step.launches + machines.PASSES
    assert training_seconds(found, fast)[0] == pytest.approx(1e-3 * launches)
    slow = replace(fast, flops=1e6)
    assert training_seconds(found, slow)[0] == pytest.approx(found.step.flops / 1e6)
    core = replace(slow, ahead=False, lists=False)
    launches += machines.PASSES * (found.tensors - 1)
    expected = found.step.flops / 1e6 + 1e-3 * launches
    assert training_seconds(found, core)[0] == pytest.approx(expected)
    two = replace(fast, processes=2, link=1e6)
    assert exchange_seconds(found, two) == pytest.approx(4 * found.weights / 1e6)
    assert exchange_seconds(found, fast) == 0
    assert training_seconds(found, replace(fast, processes=4)) is None  # of a batch of 6
    assert training_seconds(found, replace(fast, processes=3)) is not None


def test_this_core_is_measured():
    core = machines.this_core()
    for value in (core.flops, core.bandwidth, core.launch):
        assert 0 < value < math.inf
    assert core.processes == 1 and torch.get_num_threads() == 1


def test_a_mixture_coupling_says_nothing_of_samples():
    found = cost(config("mnist5k/glow8", "model.coupling=mixture"))
    assert found.sample is None and found.step.flops > 0
    row = costs.cells(costs.figures(found, GPUS), GPUS)
    assert len(row) == len(costs.COLUMNS) + len(GPUS) and row.count("") == 3  # 8 and 64 GPUs, too


def test_dry_run_says_what_a_stage_costs(tmp_path):
    file = tmp_path / "cost.json"
    words = ["mnist5k-haar/srf16", "train.batch_size=16", "--dry-run", "--json", file]
    done = run_tool("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("parameters", "a training step, batch 16", "64 GPUs", "the batch does not divide"):
        assert text in done.stdout
    found = json.loads(file.read_text())
    assert set(found["machines"]) == {"this core", "1 GPU", "8 GPUs"}
    assert not (tmp_path / "runs").exists()
