"""The optimisers and their states, the learning rate of a step, and the average of the weights."""

import importlib.util

import pytest
import torch
from conftest import ROOT, randomise
from torch import nn

from cascade.building import channels_last
from cascade.config import Train, load_config
from cascade.optimization.averages import averaged
from cascade.optimization.muon import Muon
from cascade.optimization.optimizers import matrices, optimiser
from cascade.optimization.rates import learning_rate
from cascade.training.checkpoints import load_state, save_state
from cascade.utils.tensors import read_tensors, weights_digest
from stages import InputError, StageLoss, srflow

GLOW8 = ROOT / "configs" / "mnist5k" / "glow8.yaml"


def test_learning_rate():
    halve = load_config(ROOT / "configs" / "cifar10" / "srf16.yaml").train
    assert learning_rate(0, halve) == pytest.approx(halve.lr / halve.warmup)
    assert learning_rate(99_999, halve) == halve.lr
    assert learning_rate(195_000, halve) == halve.lr / 16
    cosine = load_config(GLOW8, ["train.schedule=cosine", "train.warmup=0"]).train
    assert learning_rate(0, cosine) == cosine.lr
    assert learning_rate(cosine.steps, cosine) == pytest.approx(0, abs=1e-9)


def test_average_of_weights_copies_buffers():
    module = torch.nn.BatchNorm1d(2)
    average = averaged(module, 0.5)
    for value in (1.0, 2.0, 4.0):
        module.weight.data.fill_(value)
        module.running_mean.fill_(value)
        average.update_parameters(module)
    assert average.module.running_mean[0] == 4.0
    assert 1.0 < average.module.weight[0].item() < 4.0


OPTIMIZERS = ("adamax", "adam", "muon")


def train_settings(optimizer: str) -> Train:
    return Train(steps=1, batch_size=1, optimizer=optimizer, lr=1e-3, weight_decay=1e-3)


def stage() -> StageLoss:
    """With every kind of parameter: convolutions, grouped ones, linear layers, tables, matrices."""
    options = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1, "nets": "vit"}
    flow = srflow((1, 8, 8), 2, 1, 8, classes=3, permutation="lu", **options)
    return StageLoss(channels_last(randomise(flow, 0.1).float()))


def make_steps(loss: StageLoss, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps on images of their own; in the first two the encoder is frozen."""
    for step in range(first, last):
        torch.manual_seed(step)
        loss.flow.encoder.requires_grad_(step > 1)
        x, low = torch.rand(2, 1, 8, 8) - 0.5, torch.rand(2, 1, 4, 4) - 0.5
        nats, logits = loss(x, low, torch.tensor([0, 2]))
        (logits.square().mean() - nats.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_saved_state_goes_on_to_the_same_bits(tmp_path, name, stop):
    train, file = train_settings(name), tmp_path / "state.safetensors"
    loss = stage()
    optimizer, start = optimiser(loss, train), weights_digest(loss)
    make_steps(loss, optimizer, 0, stop)
    save_state(file, {"model": loss}, optimizer, {"step": stop})
    make_steps(loss, optimizer, stop, 6)
    other = stage()
    optimizer = optimiser(other, train)
    load_state(read_tensors(file), file, {"model": other}, optimizer)
    make_steps(other, optimizer, stop, 6)
    assert weights_digest(other) == weights_digest(loss) != start


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_trained_at_the_rate_that_is_set(name):
    loss = stage()
    optimizer = optimiser(loss, train_settings(name))
    before = [weight.detach().clone() for weight in loss.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    make_steps(loss, optimizer, 2, 3)
    assert all(map(torch.equal, before, loss.parameters()))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    make_steps(loss, optimizer, 3, 4)
    assert not any(map(torch.equal, before, loss.parameters()))


def test_a_state_that_lacks_moments_is_refused(tmp_path):
    loss, file = stage(), tmp_path / "state.safetensors"
    optimizer = optimiser(loss, train_settings("muon"))
    make_steps(loss, optimizer, 2, 3)
    save_state(file, {"model": loss}, optimizer, {"step": 1})
    tensors = read_tensors(file)
    tensors.pop(next(key for key in tensors if key.endswith("/exp_avg")))
    with pytest.raises(InputError, match="lacks some of the optimiser's moments"):
        load_state(tensors, file, {"model": loss}, optimizer)


def test_muon_is_for_matrices_and_its_steps_are_nearly_orthogonal():
    loss, train = stage(), train_settings("muon")
    train.weight_decay = 0.0
    optimizer = optimiser(loss, train)
    hidden = {id(weight) for weight in matrices(loss)}
    assert {id(weight) for weight in optimizer.param_groups[0]["params"]} == hidden
    others = {n for n, w in loss.named_parameters() if w.dim() > 1 and id(w) not in hidden}
    assert {name.split(".")[-2] for name in others} > {"matrix", "table", "readout", "norm"}
    weight = loss.flow.encoder.get_submodule("first").weight
    before = weight.detach().clone()
    make_steps(loss, optimizer, 2, 3)
    update = (before - weight).detach().flatten(1) / (0.2 * train.lr * max(4, 9) ** 0.5)
    sizes = torch.linalg.svdvals(update)
    assert sizes.min() > 0.6 and sizes.max() < 1.3


def test_muon_orthogonalises_in_float32_on_a_cpu():
    """The first step against Newton-Schulz in float64; bfloat16 would be 0.003 off or more."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(5, 12), nn.Linear(12, 5), nn.Conv2d(2, 6, 3)])
    train = train_settings("muon")
    train.weight_decay, train.lr = 0.0, 1.0
    optimizer = optimiser(layers, train)
    assert isinstance(optimizer.parts[0], Muon)
    before = [layer.weight.detach().double() for layer in layers]
    gradients = [torch.randn(weight.shape) for weight in before]
    for layer, gradient in zip(layers, gradients, strict=True):
        layer.weight.grad = gradient.clone()
    optimizer.step()
    for layer, old, gradient in zip(layers, before, gradients, strict=True):
        x = gradient.double().flatten(1)
        size, x = 0.2 * max(x.shape) ** 0.5, x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        update = (old - layer.weight.detach().double()).flatten(1) / size
        torch.testing.assert_close(update, x, rtol=0, atol=1e-4)


def test_muon_asks_for_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'csrflow\[optimizers\]'"):
        optimiser(nn.Linear(1, 1), train_settings("muon"))
