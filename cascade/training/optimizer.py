"""The optimiser, its learning rate as a function of the step, and the average of the weights."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cascade.config import Train
from stages import InputError


def check_optimizer(name: str) -> None:
    """Raise `InputError` where the package that an optimiser is from is not installed."""
    if name == "muon" and importlib.util.find_spec("pytorch_optimizer") is None:
        raise InputError("train.optimizer=muon needs a package: pip install 'csrflow[optimizers]'")


def optimiser(module: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Adamax, Adam or Muon over a module's parameters."""
    check_optimizer(train.optimizer)
    if train.optimizer == "muon":
        return muon(module, train)
    kind = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam}[train.optimizer]
    return kind(
        module.parameters(),
        lr=train.lr,
        betas=tuple(train.betas),
        weight_decay=train.weight_decay,
        foreach=True,
    )


class Joined(torch.optim.Optimizer):
    """Optimisers of different parameters as one, with their groups and states in their order."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and states of the whole."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # none is ever given
        for part in self.parts:
            part.step()


def matrices(module: nn.Module) -> list[Tensor]:
    """The weights of convolutions and linear layers, but not of a flow's class read-out.

    Grouped convolutions are several matrices side by side, and are left out.
    """
    return [
        part.weight
        for name, part in module.named_modules()
        if (isinstance(part, nn.Conv2d) and part.groups == 1)
        or (isinstance(part, nn.Linear) and not name.endswith("readout"))
    ]


def muon(module: nn.Module, train: Train) -> Joined:
    """Muon for the `matrices` of a module, AdamW for all its other parameters.

    A convolution's weight (O, I, k, k) counts as an O×(I·k·k) matrix. Updates of matrices are
    scaled to the size of Adam's, 0.2·√max(O, I·k·k) (https://arxiv.org/abs/2502.16982, section
    2.2), so both have one learning rate. Source: https://kellerjordan.github.io/posts/muon/.
    """
    from pytorch_optimizer import Muon

    hidden = matrices(module)
    known = {id(weight) for weight in hidden}
    others = [weight for weight in module.parameters() if id(weight) not in known]
    options: Any = {"lr": train.lr, "weight_decay": train.weight_decay}
    first, second = train.betas
    group = {"params": hidden, "use_muon": True, "use_adjusted_lr": True, **options}
    adam = torch.optim.AdamW(others, betas=(first, second), foreach=True, **options)
    return Joined(Muon([group]), adam)


def learning_rate(step: int, train: Train, seconds: float = 0.0) -> float:
    """The rate of a step: linear warm-up times constant, halved at milestones, or half a cosine.

    The cosine falls with the share of the training that is done: of its steps or, where that is
    more, of its budget ``train.seconds``, of which ``seconds`` are used.
    """
    rate = train.lr * min(1.0, (step + 1) / max(1, train.warmup))
    if train.schedule == "halve":
        return rate * 0.5 ** sum(step >= milestone for milestone in train.milestones)
    if train.schedule == "cosine":
        done = step / max(1, train.steps)
        if train.seconds:
            done = min(1.0, max(done, seconds / train.seconds))
        return rate * 0.5 * (1 + math.cos(math.pi * done))
    return rate


class Average(AveragedModel):
    """An exponential moving average of parameters, with copies of the buffers.

    The decay after n updates is min(decay, (1 + n)/(10 + n)), so early weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__(module)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the parameters in, in one operator, not one for each as `AveragedModel` does."""
        n, kept = int(self.n_averaged), self.module
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(kept.parameters()), list(model.parameters()), 1 - decay)
        if buffers := list(model.buffers()):
            torch._foreach_copy_(list(kept.buffers()), buffers)
        self.n_averaged += 1


def averaged(module: nn.Module, decay: float) -> Average:
    """The average of a module's weights, to begin with."""
    return Average(module, decay)
