"""What `bench` times: a stage's training step, likelihoods and samples, and those of baselines."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cascade.benchmark import baselines, measure
from cascade.building import build
from cascade.config import StageConfig
from cascade.optimization.optimizers import optimiser
from cascade.transforms.coding import condition_shape
from cascade.utils.compiling import begin_step, compile_options
from stages import Flow, StageLoss, initialise
from stages.steps import Steps

VERSIONS = 16  # samples of one low image


@dataclass
class Inputs:
    """What a stage's loss takes: made-up values of the right shapes."""

    x: Tensor
    low: Tensor | None
    label: Tensor | None


def inputs(config: StageConfig, device: torch.device) -> Inputs:
    torch.manual_seed(0)
    flow, count, shape = build(config), config.train.batch_size, condition_shape(config)
    x = torch.rand(count, *flow.shape, device=device) - 0.5
    low = torch.rand(count, *shape, device=device) - 0.5 if shape else None
    label = torch.arange(count, device=device) % max(1, config.model.classes)
    return Inputs(x, low, label if flow.classes else None)


def ready(flow: Flow, config: StageConfig, device: torch.device) -> StageLoss:
    """A flow with fresh weights, as training begins with it."""
    given, loss = inputs(config, device), StageLoss(flow).to(device)
    initialise(loss, given.x, given.low, given.label)
    flow.set_activation_memory(config.train.memory)
    if config.train.compile:
        loss.compile(fullgraph=True, **compile_options(device))
    return loss


def ours(config: StageConfig, device: torch.device, precision: str) -> dict[str, measure.Operation]:
    """One training step, log-probabilities and samples of one batch; of an SRFlow also its parts.

    ``backward`` is a training step without the optimiser's; gradients accumulate.
    ``versions`` are samples of one low image; ``encoder`` and ``condition`` the parts of a training
    step that make the features, and what of the steps the features alone decide.
    """
    torch.manual_seed(0)
    loss = ready(build(config), config, device)
    result = of_a_stage(loss, config, device, precision)
    return result | (parts(loss.flow, config, device, precision) if loss.flow.encoder else {})


def shared(
    config: StageConfig, device: torch.device, precision: str, processes: int
) -> dict[str, measure.Operation]:
    """Of several processes: a training step of one batch, which they share as in training.

    Log-probabilities and samples are of a batch for each of them.
    """
    torch.manual_seed(0)
    loss = ready(build(config), config, device)
    images = config.train.batch_size // processes
    part = replace(config, train=replace(config.train, batch_size=images))
    with warnings.catch_warnings():  # a later torch calls it forward_sync_buffers
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        wrapped = DistributedDataParallel(loss, broadcast_buffers=False)
    training = of_a_stage(loss, part, device, precision, wrapped)["training"]
    return of_a_stage(loss, config, device, precision) | {"training": training}


def of_a_stage(
    loss: StageLoss,
    config: StageConfig,
    device: torch.device,
    precision: str,
    wrapped: nn.Module | None = None,
) -> dict[str, measure.Operation]:
    """Operations of a loss, whose gradients ``wrapped`` shares among processes if it is given."""
    flow, given, mixed = loss.flow, inputs(config, device), autocast(device, precision)
    noise, adam = torch.randn_like(given.x), optimiser(loss, config.train)

    def differentiate() -> None:
        loss.train()
        if config.train.compile:
            begin_step(device)
        with mixed:
            nats, _ = (wrapped or loss)(given.x, given.low, given.label)
        (-nats.mean() / given.x[0].numel()).backward()

    def train() -> None:
        differentiate()
        update(loss, adam, config)

    @torch.no_grad()
    def score() -> None:
        loss.eval()
        with mixed:
            flow.log_prob(given.x, given.low, given.label)

    @torch.no_grad()
    def sample() -> None:
        loss.eval()
        with mixed:
            flow.sample(noise, given.low, given.label)

    return {"training": train, "backward": differentiate, "likelihood": score, "sampling": sample}


def parts(
    flow: Flow, config: StageConfig, device: torch.device, precision: str
) -> dict[str, measure.Operation]:
    given, mixed = inputs(config, device), autocast(device, precision)
    levels = [module for module in flow.body.modules() if isinstance(module, Steps)]
    with torch.no_grad(), mixed:
        features = flow.encoder(given.low)
    features = [feature.requires_grad_() for feature in features]

    def encoder() -> None:
        with mixed:
            made = flow.encoder(given.low)
        sum(feature.sum() for feature in made).backward()
        flow.zero_grad()

    def condition() -> None:
        with mixed:
            pairs = zip(levels, features, strict=True)
            made = [level.feature_conditions((feature,)) for level, feature in pairs]
        total: Any = sum(tensor.sum() for level in made for cond in level for tensor in cond)
        total.backward()
        flow.zero_grad()

    assert given.low is not None
    versions = of_one_image(flow, given, given.low[:1], mixed)
    steps = {"condition": condition} if levels else {}  # a mixture alone has none
    return {"versions": versions, "encoder": encoder, **steps}


def of_one_image(
    flow: Flow, given: Inputs, low: Tensor, mixed: torch.autocast
) -> measure.Operation:
    noise = torch.randn(VERSIONS, *flow.shape, device=low.device)
    label = None if given.label is None else given.label[:1].expand(VERSIONS)

    @torch.no_grad()
    def versions() -> None:
        flow.eval()
        with mixed:
            flow.sample(noise, low, label)

    return versions


def plain(
    config: StageConfig, device: torch.device, precision: str
) -> dict[str, measure.Operation]:
    """The same of an SRFlow that reads its condition at every step, in the usual convolutions."""
    loss = ready(baselines.plain_srflow(config), config, device)
    given, mixed = inputs(config, device), autocast(device, precision)
    assert given.low is not None
    low = given.low[:1].expand(VERSIONS, -1, -1, -1)
    versions = of_one_image(loss.flow, given, low, mixed)
    return usual(of_a_stage(loss, config, device, precision) | {"versions": versions})


def library(
    config: StageConfig, device: torch.device, precision: str
) -> dict[str, measure.Operation]:
    """The same stage, in the usual convolutions."""
    loss = ready(build(config), config, device)
    return usual(of_a_stage(loss, config, device, precision))


def usual(operations: dict[str, measure.Operation]) -> dict[str, measure.Operation]:
    """Operations that leave convolutions to the library on every device."""
    return {name: partial(baselines.with_the_library, run) for name, run in operations.items()}


def normflows(
    config: StageConfig, device: torch.device, precision: str
) -> dict[str, measure.Operation]:
    """The same of normflows' Glow."""
    x, mixed = inputs(config, device).x, autocast(device, precision)
    flow = baselines.normflows_glow(config, x).to(device)
    adam = optimiser(flow, config.train)

    def train() -> None:
        with mixed:
            loss = flow.forward_kld(x)
        (loss / x[0].numel()).backward()
        update(flow, adam, config)

    @torch.no_grad()
    def sample() -> None:
        with mixed:
            flow.sample(len(x))

    return {"training": train, "sampling": sample}


BASELINES = {"normflows": normflows, "plain": plain, "library": library}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def update(module: nn.Module, adam: torch.optim.Optimizer, config: StageConfig) -> None:
    torch.nn.utils.clip_grad_norm_(module.parameters(), config.train.clip, foreach=True)
    adam.step()
    adam.zero_grad()
