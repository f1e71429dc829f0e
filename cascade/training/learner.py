"""What is trained: a stage's flow, its average and its optimiser, phase by phase."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cascade.building import build
from cascade.config import StageConfig
from cascade.data.batches import Batch, Batches
from cascade.optimization.averages import averaged
from cascade.optimization.optimizers import optimiser
from cascade.optimization.rates import learning_rate
from cascade.pretrained import load_one
from cascade.stage import Stage
from cascade.training.joint import Below, JointLoss
from cascade.training.phases import Phase, encoder_loss, flow_loss, phases, super_resolution
from cascade.utils.compiling import begin_step, compile_options
from cascade.utils.tensors import kinds, weights_digest
from stages import Flow, InputError, StageLoss, initialise
from stages.nets import ResidualBlock


class Learner:
    """A stage's ``loss`` (its flow inside), its ``average`` and the phase that trains it.

    ``module`` is what the phase trains, ``wrapped`` the same for several processes.
    """

    def __init__(
        self,
        config: StageConfig,
        accelerator: Accelerator,
        batches: Batches,
        restart: bool = False,
    ):
        self.config, self.accelerator, self.batches = config, accelerator, batches
        self.phases = phases(config)
        self.phase: Any = None  # a `Phase` from `enter` on
        self.module: Any = None
        self.average: Any = None  # or an `AveragedModel`
        self.optimizer: torch.optim.Optimizer
        torch.manual_seed(config.seed)
        flow = build(config)
        self.below = Below(config, restart) if config.train.joint else None
        loss = JointLoss(flow, self.below.stage.flow) if self.below else StageLoss(flow)
        self.loss = loss.to(accelerator.device)
        for module in (flow, *([self.below.stage.flow] if self.below else [])):
            module.set_activation_memory(config.train.memory)

    @property
    def trained(self) -> StageLoss | JointLoss:
        """What is trained, with the weights to use: the averaged ones where averaging is on."""
        return self.loss if self.average is None else self.average.module

    @property
    def flow(self) -> Flow:
        """The stage's flow, with the weights to use."""
        return self.trained.flow

    @property
    def pretraining(self) -> bool:
        """Whether the phase trains the encoder alone."""
        return self.phase.name == "encoder"

    @property
    def modules(self) -> dict[str, Any]:
        """What a state holds of the phase's weights."""
        if self.pretraining:
            return {"encoder": self.module, "model": self.loss}
        return {"model": self.loss} | ({"ema": self.average} if self.average else {})

    @property
    def steps(self) -> int:
        """Of all phases."""
        return self.phases[-1].end

    def flow_step(self, step: int) -> int:
        """A step without those of the encoder alone, which no schedule counts."""
        return step - self.config.train.pretrain_steps

    def begin(self) -> str:
        """Enter the first phase, from a trained stage's weights where `train.start` names one.

        Gives the SHA-256 of those, "" without them. Raises `InputError` where they do not fit.
        """
        self.enter(self.phases[0])
        if self.config.train.start is None:
            return ""
        stage = load_one(self.config.train.start)
        for module in (self.loss, *([self.average.module] if self.average else [])):
            _start(module.flow, stage)
        self.note_frozen()
        return stage.digest

    def enter_due(self, step: int) -> bool:
        """Enter the phase of a coming step, if another one than this; whether it was."""
        before = self.phase
        while self.phase is not self.phases[-1] and step >= self.phase.end:
            self.enter(self.phases[self.phases.index(self.phase) + 1])
        return self.phase is not before

    def enter(self, phase: Phase) -> None:
        """Make ready what a phase trains, from the weights that the phase before it left."""
        encoder, device = self.loss.flow.encoder, self.accelerator.device
        if self.phase and self.phase.name == "frozen" and weights_digest(encoder) != self.frozen:
            raise RuntimeError("the frozen encoder's weights changed during training")
        self.phase = phase
        if self.pretraining:
            self.module = super_resolution(self.loss.flow, self.config).to(device)
            rate = self.config.train.pretrain_lr
            self.optimizer = torch.optim.Adam(self.module.parameters(), rate, foreach=True)
        elif self.module is not self.loss:
            self._set_up_flow()
        if encoder is not None:
            encoder.requires_grad_(phase.name != "frozen")
        self.note_frozen()
        self.accelerator.free_memory()
        with warnings.catch_warnings():  # a later torch calls it forward_sync_buffers
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            self.wrapped = self.accelerator.prepare_model(self.module)
        if self.config.train.compile and not self.pretraining:
            self.module.compile(fullgraph=True, **compile_options(self.accelerator.device))

    def note_frozen(self) -> None:
        """Remember the weights that the frozen phase must leave as they are."""
        if self.phase.name == "frozen":
            self.frozen = weights_digest(self.loss.flow.encoder)

    def _set_up_flow(self) -> None:
        train = self.config.train
        first = self.batches.fixed(train.init_images).to(self.accelerator.device)
        initialise(StageLoss(self.loss.flow), *first.parts)  # and not a trained stage below
        self.module = self.loss
        self.average = averaged(self.loss, train.ema) if train.ema else None
        self.optimizer = optimiser(self.loss, train)

    def set_rate(self, step: int, seconds: float = 0.0) -> float:
        """Set the learning rate of a step, ``seconds`` after the flow's first one, and give it."""
        train = self.config.train
        rate = train.pretrain_lr
        if not self.pretraining:
            rate = learning_rate(self.flow_step(step), train, seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def backward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of a process's share of a batch, part by part: figures, and their norm."""
        parts = batch.split(self.config.train.accumulate)
        metrics: dict[str, Tensor] = {}
        objective = encoder_loss if self.pretraining else flow_loss
        if self.config.train.compile:
            begin_step(self.accelerator.device)
        for part in parts:
            joining = nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.wrapped)
            with joining:
                loss, result = objective(self.wrapped, part, self.config)
                self.accelerator.backward(loss / len(parts))
            for key, value in result.items():
                metrics[key] = metrics.get(key, 0.0) + value / len(parts)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return metrics, get_total_norm(gradients, foreach=True)

    def update(self, norm: Tensor) -> None:
        """One step of the optimiser along the gradients, whose norm this is, and of the average."""
        parameters = self.module.parameters()
        clip_grads_with_norm_(parameters, self.config.train.clip, norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.loss)

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """What of a batch goes into the module."""
        return (batch.low,) if self.pretraining else batch.parts


def _start(flow: Flow, stage: Stage) -> None:
    """Give a flow a trained stage's weights; what only the flow has keeps its first values.

    But residual blocks that only the flow has begin as the identity, so that a deeper stage starts
    as good as the one it grows from (Net2Net, section 2.2, https://arxiv.org/abs/1511.05641).
    """
    trained, own = stage.flow.state_dict(), flow.state_dict()
    places = kinds(own)
    for name, kind in kinds(trained).items():
        if places.get(name) != kind:
            raise InputError(
                f"train.start={stage.name} does not fit: its {name} is {tuple(kind[0])}, this "
                f"stage's {tuple(places[name][0]) if name in places else 'missing'}; take the "
                "model.… settings of its config.yaml"
            )
    flow.load_state_dict({**own, **trained})
    for name, module in flow.named_modules():
        if isinstance(module, ResidualBlock) and f"{name}.two.weight" not in trained:
            nn.init.zeros_(module.two.weight)
            nn.init.zeros_(module.two.bias)  # type: ignore[arg-type]  # it has one
