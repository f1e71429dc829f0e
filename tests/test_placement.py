"""Everything runs on the device of the weights: on a GPU that is not there, with fake tensors.

A fake tensor has a shape and a device, and no values: an operator of tensors on two devices, or a
number read from a GPU, fails as it would fail, or wait, on a real one.
"""

import pytest
import torch
from conftest import ROOT
from small_stages import FEW_LEVELS, KINDS, random_cascade
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cascade.building import build
from cascade.config import load_config
from cascade.data.batches import Batch
from cascade.stage import Stage, StageList
from cascade.training.augmentation import disturb
from cascade.training.phases import flow_loss
from stages import StageLoss
from stages.actnorm import ActNorm

GPU = torch.device("cuda")
IMAGES = 3


def to_fake_gpu(module: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors on a GPU in place of a module's weights and buffers."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(mode.from_tensor(weight).detach().to(GPU))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(GPU)


def images_of(stage: Stage) -> tuple:
    """Integer images, low images, labels, and noise, as they come: from the CPU."""
    classes, half = stage.classes, stage.shape[1] // 2
    image = torch.zeros(IMAGES, *stage.shape, dtype=torch.uint8)
    upsamples = stage.config.upsamples
    low = torch.zeros(IMAGES, 1, half, half, dtype=torch.uint8) if upsamples else None
    label = torch.zeros(IMAGES, dtype=torch.int64) if classes else None
    return image, low, label, torch.randn(IMAGES, *stage.flow.shape)


def batch_of(stage: Stage) -> Batch:
    """What training makes of them, on the device."""
    _, low, label, noise = images_of(stage)
    low = None if low is None else torch.rand(low.shape) - 0.5
    return Batch(noise, low, label).to(GPU)


def training(stage: Stage) -> torch.Tensor:
    loss, figures = flow_loss(StageLoss(stage.flow.train()), batch_of(stage), stage.config)
    assert all(figure.device.type == "cuda" for figure in figures.values())
    return loss


def sampling(stage: Stage) -> torch.Tensor:
    _, low, label, noise = images_of(stage)
    return stage.run(stage.flow.sample, noise, low, label)


def several(stage: Stage) -> torch.Tensor:
    """Samples that share a low image."""
    _, low, label, noise = images_of(stage)
    label = None if label is None else label[:1].expand(2 * stage.at_once)
    noise = noise[:1].expand(2 * stage.at_once, -1, -1, -1)
    return stage.run(stage.flow.sample, noise, None if low is None else low[:1], label)


def scoring(stage: Stage) -> torch.Tensor:
    image, low, _, _ = images_of(stage)
    return stage.run(stage.flow.class_log_probs, stage.coding.centre(image), low)


def disturbing(stage: Stage) -> torch.Tensor:
    image, low, label, noise = images_of(stage)
    disturbed, exploded = disturb(stage, image, low, label, torch.ones(IMAGES), noise)
    assert exploded.device.type == "cpu"
    return disturbed


WORK = {
    "training": (training, "cuda"),
    "sampling": (sampling, "cpu"),
    "several samples of a low image": (several, "cpu"),
    "scoring": (scoring, "cpu"),
    "disturbing": (disturbing, "cpu"),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("work", WORK)
def test_all_tensors_are_on_the_gpu(kind, work):
    run, device = WORK[work]
    stages: StageList = random_cascade(*kind).stages
    with FakeTensorMode() as mode, torch.set_grad_enabled(work == "training"):
        for stage in stages:
            to_fake_gpu(stage.flow, mode)
            assert run(stage).device.type == device


CHANGES = (
    "model.coupling=mixture",
    "model.nets=gated",
    "model.nets=vit",
    "model.permutation=lu",
    "model.dequantise=variational",
    "model.squish_range=symmetric",
)


@pytest.mark.parametrize("change", CHANGES)
def test_so_they_are_of_other_nets_and_couplings(change):
    config = load_config(ROOT / "configs/mnist5k/srf16.yaml", [*FEW_LEVELS, change])
    stage = Stage("srf16", config, build(config))
    with FakeTensorMode() as mode:
        to_fake_gpu(stage.flow, mode)
        assert training(stage).device.type == "cuda"
        with torch.no_grad():
            assert scoring(stage).device.type == "cpu"


def test_a_tensor_on_the_cpu_is_found():
    stage = random_cascade("haar", 10).stages[1]
    with FakeTensorMode() as mode:
        to_fake_gpu(stage.flow, mode)
        norm = next(m for m in stage.flow.modules() if isinstance(m, ActNorm))
        norm.bias = nn.Parameter(norm.bias.detach().cpu())
        with pytest.raises(RuntimeError, match="device"):
            training(stage)
