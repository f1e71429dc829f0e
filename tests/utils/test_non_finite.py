"""Where values stop being finite is found, and nothing is left behind."""

import math

import pytest
import torch
from torch import nn

from cascade.utils.non_finite import NotFinite, check_some_finite, first_not_finite
from stages import InputError


def net() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 2)).double()


@pytest.mark.parametrize(
    ("broken", "named"), [("0", "0 (Linear)"), ("1.2", "1.2 (Linear)"), ("2", "2 (Linear)")]
)
def test_the_innermost_layer_that_is_first_is_named(broken, named):
    module = net()
    module.get_submodule(broken).weight.data[0, 0] = math.nan
    with first_not_finite(module) as layer:
        module(torch.ones(3, 4).double())
    assert layer() == named
    assert not any(part._forward_hooks for part in module.modules())


def test_layers_without_fault_leave_the_base_density():
    module = net()
    with first_not_finite(module) as layer:
        module(torch.ones(3, 4).double())
    assert layer() == "the base density"
    with pytest.raises(RuntimeError), first_not_finite(module):
        module(torch.ones(3, 5).double())
    assert not any(part._forward_hooks for part in module.modules())


def test_one_image_that_is_whole_is_enough():
    y = torch.zeros(3, 1, 2, 2).double()
    y[0, 0, 1, 1], y[2] = math.inf, math.nan
    check_some_finite(y)
    y[1, 0, 0, 0] = -math.inf
    with pytest.raises(InputError, match="no sample is finite"):
        check_some_finite(y)


def test_the_same_fault_by_the_image_s_name():
    fault = NotFinite(3, "srf16", "body.parts.0 (Mix)").of("cat/7.png")
    assert (fault.row, fault.stage, fault.layer) == (
        "cat/7.png",
        "srf16",
        "body.parts.0 (Mix)",
    )
    assert str(fault).startswith("image cat/7.png has no finite likelihood: stage srf16, first in")
