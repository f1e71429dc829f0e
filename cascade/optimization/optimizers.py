"""The optimiser of a training: Adamax, Adam or Muon, as one."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

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
    2.2), so both have one learning rate.
    """
    from cascade.optimization.muon import Muon

    hidden = matrices(module)
    known = {id(weight) for weight in hidden}
    others = [weight for weight in module.parameters() if id(weight) not in known]
    options: Any = {"lr": train.lr, "weight_decay": train.weight_decay}
    first, second = train.betas
    group = {"params": hidden, "use_muon": True, "use_adjusted_lr": True, **options}
    adam = torch.optim.AdamW(others, betas=(first, second), foreach=True, **options)
    return Joined(Muon([group]), adam)
