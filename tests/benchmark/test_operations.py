"""The benchmark: what it counts is right, and what it prints is complete. Speed is not tested."""

import json
import math

import pytest
import torch
from conftest import ROOT, launch, randomise, run_tool
from torch import Tensor

from cascade.benchmark import baselines, operations
from cascade.building import build
from cascade.config import load_config
from stages import Bijection
from stages.actnorm import ActNormInv1x1, ConvActNorm
from stages.steps import Steps

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
            # images need no gradient; folded matrices do, small though they are
            assert 2.5 * expected < counted < 3.03 * expected
    for key in ("train_ratio", "sample_ratio"):
        assert math.isfinite(found[key]) and found[key] > 0
        assert f"{key} over normflows" in done.stdout


def test_two_processes_share_a_step_and_have_a_batch_each_else(tmp_path):
    file = tmp_path / "bench.json"
    words = [*SMALL, "--precision", "float32", "--processes", "2", "--json", file]
    done = launch("python", "tools/bench.py", BENCH, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    images = {"training": 2, "likelihood": 4, "sampling": 4}
    assert found["processes"] == 2 and [row["operation"] for row in found["rows"]] == [*images]
    for row in found["rows"]:
        assert row["images_per_s"] == pytest.approx(1000 * images[row["operation"]] / row["ms"])
        if row["operation"] == "likelihood":
            counted = row["gflops"] * 1e6 * row["ms"]
            assert counted == pytest.approx(2 * convolutions(16, 3, 2, 8, 2), rel=1e-6)


def test_the_baseline_of_the_library_uses_its_convolutions():
    config = load_config(BENCH, [*SMALL[:2], "train.batch_size=2"])
    for make, expected in ((operations.ours, False), (operations.library, True)):
        train = make(config, torch.device("cpu"), "float32")["training"]
        train()
        with torch.profiler.profile() as profile:
            train()
        assert any(e.key == "aten::convolution" for e in profile.key_averages()) is expected


def test_every_operation_of_an_srflow_runs():
    small = ["model.levels=1", "model.steps=1", "model.encoder_blocks=1", "train.batch_size=2"]
    config = load_config(ROOT / "configs/mnist5k-haar/srf16.yaml", small)
    found = operations.ours(config, torch.device("cpu"), "float32")
    assert {"training", "likelihood", "sampling", "versions", "encoder", "condition"} <= set(found)
    for operation in found.values():
        operation()


def test_memory_is_that_of_one_operation():
    """At least the two hidden images of every coupling net, and not far more."""
    command = ["python", "tools/bench.py", BENCH, "train.batch_size=4", "--memory", "training"]
    done = launch(*command)
    assert done.returncode == 0, done.stderr
    hidden = 2 * 8 * 4 * (16 * 16 + 8 * 8 + 4 * 4) * 128 * 4
    assert hidden < int(done.stdout) < 8 * hidden


def copy_folded(conv: ConvActNorm, weight: Tensor, shift: Tensor) -> None:
    conv.conv.weight.data = weight
    conv.norm.bias.data, conv.norm.log_scale.data = shift, torch.zeros_like(shift)


def folded(conv: ConvActNorm) -> tuple[Tensor, Tensor]:
    scale = conv.norm.log_scale.exp()
    return conv.conv.weight * scale.transpose(0, 1), conv.norm.bias * scale


def copy_steps(steps: Steps, plain: list[Bijection]) -> None:
    """Give plain parts the weights that make them the maps of these."""
    weight, shift = folded(steps.project)
    weights, shifts = weight.split(steps.widths), shift.split(steps.widths, dim=1)
    width = steps.injections.cond_channels // steps.injections.count
    for i, (part, own) in enumerate(zip(steps.parts, plain, strict=True)):
        if (
            isinstance(part, ActNormInv1x1)
            or i not in steps.injectors + steps.conditional_couplings
        ):
            own.load_state_dict(part.state_dict())
        elif i in steps.conditional_couplings:
            place = 1 + steps.conditional_couplings.index(i)
            one, two = folded(part.net.first), (weights[place], shifts[place])
            copy_folded(own.net.first, torch.cat([one[0], two[0]], dim=1), one[1] + two[1])
            own.net.head.load_state_dict(part.net.head.state_dict())
        else:
            place = steps.injectors.index(i)
            rows = slice(place * width, (place + 1) * width)
            copy_folded(own.net.first, weights[0][rows], shifts[0][:, rows])
            for key, value in steps.injections.net.named_parameters():
                along = 1 if value.dim() == 4 and len(value) == 1 else 0  # a norm's, or a gain
                value = value.chunk(steps.injections.count, dim=along)[place]
                own.net.head.get_parameter(key).data = value.detach()


@torch.no_grad()
def test_the_plain_srflow_is_the_same_model():
    """What is made once a level is what every step would make for itself."""
    small = ["model.levels=2", "model.steps=2", "model.width=8", "model.encoder_blocks=1"]
    small += ["model.conditional_prior=false"]
    config = load_config(ROOT / "configs/mnist5k/srf16.yaml", small)
    flow, plain = randomise(build(config), 0.1), randomise(baselines.plain_srflow(config), 0.1)
    levels = [module for module in flow.modules() if isinstance(module, Steps)]
    chain = plain.body.inner
    for steps in levels:
        copy_steps(steps, list(chain.parts)[: len(steps.parts)])
        chain = chain.parts[-1].inner.inner if steps is not levels[-1] else None
    others = {k: v for k, v in flow.state_dict().items() if not k.startswith("body.")}
    assert not plain.load_state_dict(others, strict=False).unexpected_keys
    x, low = torch.rand(3, 1, 16, 16).double() - 0.5, torch.rand(3, 1, 8, 8).double() - 0.5
    label = torch.tensor([0, 5, 9])
    expected = flow.log_prob(x, low, label)
    torch.testing.assert_close(plain.log_prob(x, low, label), expected, rtol=1e-9, atol=0)
    noise = torch.randn(3, 1, 16, 16).double()
    images = [model.sample(noise, low, label) for model in (flow, plain)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ("mnist5k/srf16", ["--against", "normflows"], "is for a Glow as published"),
        ("bench/glow32", ["--against", "plain"], "is for an SRFlow"),
        ("bench/glow32", ["--processes", "3"], "3 processes cannot share a batch of 16"),
        ("bench/glow32", ["--precision", "float16"], "--precision is float32, bfloat16 or both"),
    ],
)
def test_errors(config, words, message):
    done = run_tool("bench", ROOT / "configs" / f"{config}.yaml", *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert torch.get_num_threads() == 1
