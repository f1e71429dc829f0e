"""A fault in a training step is put down to the layer that has it."""

import math

import pytest
import torch
from torch import nn

from cascade.training.diagnosis import explain


def step(module: nn.Module) -> torch.Tensor:
    """Gradients of a loss, left where they are."""
    x = torch.linspace(-1, 1, 12).reshape(3, 4).double()
    module(x).square().sum().backward()
    return x


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("place", "layer"), [(0, "0 (Linear)"), (2, "2 (Linear)")])
def test_the_first_output_that_is_not_finite(place, layer, value):
    module = net()
    module[place].weight.data[0] = value
    fault = explain(module, step(module))
    assert fault.severity == 0
    assert fault.text.startswith(f"first not finite: the output of {layer}; largest finite")
    assert ("1 (Tanh)" in fault.text) == (place == 2)


def test_a_gradient_that_is_not_finite_though_outputs_are():
    module = net()
    x = step(module)
    module[2].bias.grad[1] = math.inf
    fault = explain(module, x)
    assert fault.severity == 1 and "the gradient of 2.bias is not" in fault.text


def test_a_norm_that_is_not_finite_though_all_is():
    module = net()
    fault = explain(module, step(module))
    assert fault.severity == 2 and not any(part._forward_hooks for part in module.modules())
