"""The learning rate as a function of the step, and the average of the weights."""

import pytest
import torch
from conftest import ROOT

from cascade.config import load_config
from cascade.training.optimizer import averaged, learning_rate

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
