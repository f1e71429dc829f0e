"""The neural networks inside couplings and injectors. They need not be invertible.

Source: Glow, section 3.3 (the zero initialisation of the last convolution),
https://arxiv.org/abs/1807.03039.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.actnorm import ConvActNorm, ScaledConv
from stages.attention import FREQUENCIES, TransformerBlock, places
from stages.convolve import convolve


class CheckpointedNet(nn.Module):
    """A network with optional activation checkpointing.

    If ``recompute`` is set, only its inputs are stored, and the backward pass runs it again.
    """

    recompute = False

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            run = super().__call__
            return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
        return super().__call__(*inputs)


# input, hidden and output channels → a net of images (B, inputs, H, W) and a condition or None
NetMaker = Callable[[int, int, int], CheckpointedNet]


class ResidualBlock(CheckpointedNet):
    """x + conv₂(relu(conv₁(relu(x)))), two 3×3 convolutions.

    Source: He et al., Identity mappings in deep residual networks (2016), figure 1 (b),
    https://arxiv.org/abs/1603.05027.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


class ZeroConv(ScaledConv):
    """A 3×3 convolution with weights initialised to zero and a learned gain: (W∗x + b)·exp(3·g)."""

    rate = 3.0

    def __init__(self, inputs: int, outputs: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
        self.gain = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one

    def shift_and_log_scale(self) -> tuple[Tensor, Tensor]:
        bias: Any = self.conv.bias
        return bias, self.gain


class AffineHead(CheckpointedNet):
    """The last layers of a net: 1×1 convolution, ActNorm, ReLU, zero-initialised 3×3 convolution.

    Args:
        width: input and hidden channels, (B, width, H, W).
        outputs: output channels, (B, outputs, H, W): shift and raw scale of an affine map.
        groups: the number of independent heads that are computed side by side.
    """

    def __init__(self, width: int, outputs: int, groups: int = 1):
        super().__init__()
        self.groups = groups
        self.mix = ConvActNorm(width, width, 1, groups)
        self.last = ZeroConv(width, outputs, groups)

    def fit(self, hidden: Tensor) -> None:
        """Fit the ActNorm to the 1×1 convolution of ``hidden``."""
        self.mix.fit(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        return convolve(hidden, self.mix.layer(), self.last.layer(), groups=self.groups)


class CouplingNet(CheckpointedNet):
    """3×3 convolution, ActNorm, ReLU, then an `AffineHead`.

    The first convolution of a conditional coupling reads x and the features. It is the sum of a
    convolution of x, which is computed here, and a convolution of the features, which is given as
    ``condition`` (B, width, H, W). Each of the two has an ActNorm of its own. After the condition
    may come what `fold` gives for this net; otherwise it is computed.
    """

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.first = ConvActNorm(inputs, width, 3)
        self.head = AffineHead(width, outputs)

    @staticmethod
    def fold(nets: Sequence[CouplingNet]) -> list[tuple[Tensor, ...]]:
        """Weights and biases of each net's convolutions, (6,), of nets of one shape together."""
        convs = zip(*((net.first, net.head.mix, net.head.last) for net in nets), strict=True)
        layers = zip(*(ScaledConv.fold(alike) for alike in convs), strict=True)
        return [tuple(chain.from_iterable(of_a_net)) for of_a_net in layers]

    def fit(
        self, x: Tensor, condition: Tensor | None = None, *folded: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Fit the first ActNorm to the convolution of ``x``, the second to what follows.

        Returns `forward`'s arguments without the outdated weights.
        """
        self.first.fit(x)
        self.head.fit(F.relu(convolve(x, self.first.layer(), added=condition)))
        return x, condition

    def forward(self, x: Tensor, condition: Tensor | None = None, *folded: Tensor) -> Tensor:
        (weights,) = [folded] if folded else self.fold([self])
        layers = zip(weights[::2], weights[1::2], strict=True)
        return convolve(x, *layers, added=condition)


class GatedBlock(nn.Module):
    """h + a·sigmoid(b): a 3×3 and a 1×1 convolution of h, GELU before each, predict (a, b).

    Args:
        width: channels of h, (B, width, H, W).
    """

    def __init__(self, width: int):
        super().__init__()
        self.mix = ConvActNorm(width, width, 3)
        self.gate = ConvActNorm(width, 2 * width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        added, gate = self.gate(F.gelu(self.mix(F.gelu(hidden)))).chunk(2, dim=1)
        return hidden + added * torch.sigmoid(gate)


class GatedNet(CheckpointedNet):
    """3×3 convolution, residual blocks (`GatedBlock`), GELU, zero-initialised 3×3 convolution.

    Like `CouplingNet` it reads x, and a ``condition`` that is added to the first convolution.
    Source: Flow++, section 3.4, https://arxiv.org/abs/1902.00275, without attention, and with
    ActNorm in place of layer normalisation.
    """

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int = 1):
        super().__init__()
        self.first = ConvActNorm(inputs, width, 3)
        self.blocks = nn.Sequential(*(GatedBlock(width) for _ in range(blocks)))
        self.last = ZeroConv(width, outputs)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        hidden = self.blocks(_with(condition, self.first(x)))
        return convolve(F.gelu(hidden), self.last.layer())


class TransformerNet(CheckpointedNet):
    """3×3 convolution, transformer blocks on its pixels, zero-initialised 3×3 convolution.

    Every pixel is a token, and knows its place by a learned linear map of `places`: images may be
    of any size. Like `CouplingNet` it reads x, and a ``condition`` that is added to the first
    convolution. Time grows with the square of the number of pixels: a net for the coarsest level.
    Source: Jet, section 3, https://arxiv.org/abs/2412.15129.
    """

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int = 1):
        super().__init__()
        self.first = ConvActNorm(inputs, width, 3)
        self.place = nn.Linear(4 * FREQUENCIES, width, bias=False)
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.last = ZeroConv(width, outputs)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        hidden = _with(condition, self.first(x))
        tokens = hidden.flatten(2).transpose(1, 2) + self.place(places(x))
        tokens = self.norm(self.blocks(tokens))
        hidden = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return convolve(hidden, self.last.layer())


def _with(condition: Tensor | None, hidden: Tensor) -> Tensor:
    return hidden if condition is None else hidden + condition


def net_maker(kind: str, blocks: int = 1, coarsest: bool = False) -> NetMaker:
    """The nets of the couplings and priors of a level.

    Args:
        kind: ``conv`` (`CouplingNet`), ``gated`` (`GatedNet`) or ``vit``: `TransformerNet` at the
            coarsest level, `CouplingNet` at the others.
        blocks: residual blocks of a `GatedNet` or `TransformerNet`.
        coarsest: whether the level is the coarsest one.
    """
    if kind == "gated":
        return partial(GatedNet, blocks=blocks)
    if kind == "vit" and coarsest:
        return partial(TransformerNet, blocks=blocks)
    return CouplingNet
