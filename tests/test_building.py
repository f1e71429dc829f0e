"""The flow is the one that its configuration describes: every size of it is a size of the flow."""

import pytest
import torch
from conftest import launch

from cascade.building import DEPTHS, WIDTHS, build, outline
from cascade.config import load_config
from cascade.utils.tensors import kinds

MIXTURES = ["model.coupling=mixture", "model.residual=false"]
NETS = ["model.nets=gated", "model.width=16", "model.conditional_prior=true", "model.classes=10"]
SIZES = [key for key in (*DEPTHS, *WIDTHS) if key != "downscaler"]  # which is beside the flow


@pytest.mark.parametrize("key", SIZES)
def test_every_size_is_one_of_the_flow(key):
    first = "mixture" if key.startswith("mixture_") else "none"
    noise = "uniform" if first == "mixture" else "variational"
    sort = [*MIXTURES, *NETS, f"model.first={first}", f"model.dequantise={noise}"]

    def weights(more=0):
        config = load_config("mnist5k/srf16", sort)
        size = getattr(config.model, key) + more
        return kinds(
            outline(load_config("mnist5k/srf16", [*sort, f"model.{key}={size}"])).state_dict()
        )

    assert weights() == weights() != weights(1)


def test_an_outline_has_no_values_and_a_flow_is_where_it_is_made():
    config = load_config("mnist5k-haar/srf16")
    for flow in (outline(config), _made_on("meta", config)):
        tensors = [*flow.parameters(), *flow.buffers()]
        assert tensors and all(tensor.is_meta for tensor in tensors)


def _made_on(device, config):
    with torch.device(device):
        return build(config)


def test_a_model_is_loaded_without_torchs_compiler():
    """Which takes seconds to import: shapes alone are no reason to."""
    program = "import sys; from cascade import Cascade; Cascade.from_pretrained('cifar10')"
    done = launch("python", "-c", f"{program}; print('torch._dynamo' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
