"""Operators that a training step dispatches are counted rightly, and a step of a flow takes few."""

import pytest
import torch
from conftest import ROOT

from cascade.benchmark.launches import Dispatched, of_a_step
from cascade.config import load_config

CPU = torch.device("cpu")


def test_views_and_reads_run_no_kernel():
    x = torch.ones(2, 3, requires_grad=True)
    with Dispatched() as counts:
        (x.view(6) * 2).sum().item()
    assert (counts.operators, counts.kernels) == (4, 2)
    with Dispatched() as counts:
        torch._foreach_add([torch.ones(2), torch.ones(3)], 1)
    assert counts.kernels == 3  # two of ones, one for both sums


def parts(name: str, **changes: object) -> dict[str, int]:
    words = [f"model.{key}={value}" for key, value in changes.items()]
    config = load_config(ROOT / "configs" / f"{name}.yaml", words)
    return {part: n.operators for part, n in of_a_step(config, CPU, "float32").items()}


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("bench/glow32", {"forward": 24, "backward": 36}),
        ("mnist5k/srf16", {"forward": 30, "backward": 42}),
    ],
)
def test_one_more_step_of_a_level_takes_few_operators(name, most):
    few, many = (parts(name, levels=1, steps=steps) for steps in (2, 6))
    for part, limit in most.items():
        assert 10 < (many[part] - few[part]) / 4 <= limit, part


def test_the_count_does_not_depend_on_width():
    assert parts("bench/glow32", steps=1, width=16) == parts("bench/glow32", steps=1, width=512)
