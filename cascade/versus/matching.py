"""A generator that sees as far as a flow and costs as much: measured and counted, not assumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cascade.benchmark.measure import flops
from cascade.building import build
from cascade.config import StageConfig
from cascade.versus.nets import Generator, Shape, even_split
from stages import InputError

TOLERANCE = 0.05  # of the operations, either way
FIRST, LARGEST = 64, 2048  # low pixels that a receptive field is looked for in
LEAST = 4  # channels of a generator's trunk
SIDE = 4  # of the low image that its operations are counted of: a pixel takes as many in any
Enlarge = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Match:
    """A flow and the generator that is held against it.

    ``field`` and ``net_field`` are low pixels along a side that one pixel of the result depends on;
    ``flops`` and ``net_flops`` floating-point operations a pixel of the result; ``weights`` and
    ``net_weights`` their numbers of parameters.
    """

    shape: Shape
    field: int
    net_field: int
    flops: float
    net_flops: float
    weights: int
    net_weights: int

    @property
    def excess(self) -> float:
        """How many more operations the generator takes than the flow, as a share of the flow's."""
        return self.net_flops / self.flops - 1

    def figures(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"excess": self.excess}


def match(config: StageConfig) -> Match:
    """The generator for a stage's flow: the same receptive field, the same operations within 5 %.

    The number of its convolutions follows from the receptive field, its width from the operations.
    Raises `InputError` where no generator fulfils both.
    """
    data, residual = config.data, bool(getattr(config.model, "residual", False))
    flow = build(config).eval()
    field = receptive_field(_moved(flow), data.channels, 2**config.model.levels)
    shape_of = _shapes(field, config.out)
    budget = _flow_flops(flow, config)

    def count(shape: Shape) -> float:
        net = Generator(data.channels, shape, residual)
        low = torch.zeros(1, data.channels, SIDE, SIDE)
        return _flops(lambda: net(low)) / (2 * SIDE) ** 2

    shape = _widest(shape_of, budget, count)
    net = Generator(data.channels, shape, residual)
    seen = receptive_field(_moved(net), data.channels, 2)
    result = Match(
        shape, field, seen, budget, count(shape), _weights(flow), _weights(net)
    )  # fmt: skip
    check(result, config.out)
    return result


def check(result: Match, name: str) -> None:
    """Raise `InputError` unless both see as far, and take as many operations within 5 %."""
    if result.net_field != result.field:
        raise InputError(
            f"{name}: the flow sees {result.field} low pixels, the generator {result.net_field}"
        )
    if abs(result.excess) > TOLERANCE:
        raise InputError(
            f"{name}: a generator that sees {result.field} low pixels takes {result.excess:+.0%} "
            "operations beside the flow: raise model.width, or lower model.steps"
        )


def _shapes(field: int, name: str) -> Callable[[int, int], Shape]:
    """Shapes of a receptive field, by width and the sum of the blocks' inner channels."""
    fine = field % 2 == 0
    convolutions = (field - 1 - fine) // 2 - 2
    if convolutions < 2:
        raise InputError(f"{name}: the flow sees {field} low pixels across: too few to match")
    blocks, closing = convolutions // 2, bool(convolutions % 2)
    return lambda width, total: Shape(width, even_split(total, blocks), closing, fine)


def _widest(
    shape_of: Callable[[int, int], Shape], budget: float, count: Callable[[Shape], float]
) -> Shape:
    """The widest shape whose blocks' inner channels, all that the budget leaves, are as many.

    Operations are linear in the sum of the inner channels, so two counts say them all.
    """
    blocks = len(shape_of(1, 1).hidden)

    def left(width: int) -> int:
        one, two = (count(shape_of(width, total * blocks)) for total in (1, 2))
        return blocks + round((budget - one) / (two - one) * blocks)

    # at the width w the blocks alone take 9·w² operations a pixel, each
    narrow, wide = LEAST, LEAST + 1 + math.isqrt(round(budget / (9 * blocks)))
    while wide - narrow > 1:
        width = (narrow + wide) // 2
        narrow, wide = (width, wide) if left(width) >= width * blocks else (narrow, width)
    return shape_of(narrow, max(blocks, left(narrow)))


def receptive_field(enlarge: Enlarge, channels: int, step: int) -> int:
    """Low pixels, along a side, that a pixel of the enlarged image depends on, at most.

    Measured by gradients of a float64 function of images (B, C, h, w) → (B, C, 2h, 2w), at each of
    the ``step`` places among which its pixels may differ. Raises `InputError` where it is larger
    than 2,000 pixels, or has no end.
    """
    across = FIRST
    while across <= LARGEST:
        result = _seen(enlarge, channels, across, step)
        if result < across // 2 - step:
            return result
        across *= 2
    raise InputError(f"the flow sees more than {LARGEST // 2} low pixels: no generator sees as far")


def _seen(enlarge: Enlarge, channels: int, across: int, step: int) -> int:
    source = torch.Generator().manual_seed(0)
    shape = (8, channels, 2 * step, across)  # several, and far apart: some unit may be at rest
    low = 3 * torch.randn(shape, generator=source, dtype=torch.float64)
    high = enlarge(low.requires_grad_())
    widest = 0
    for place in range(step):
        pixel = high[..., step, across + place].sum()
        (gradient,) = torch.autograd.grad(pixel, low, retain_graph=True)
        seen = (gradient != 0).flatten(0, 2).any(0).nonzero().flatten().tolist()
        widest = max(widest, seen[-1] - seen[0] + 1 if seen else 0)
    return widest


def _moved(module: Any) -> Enlarge:
    """What a flow or a generator makes of low images, its weights moved: fresh ones hide much."""
    module = deepcopy(module).double()
    source = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        parameter.data += 0.1 * noise
    if isinstance(module, Generator):
        return module

    def sample(low: Tensor) -> Tensor:
        count, channels, height, width = low.shape
        shape = (count, channels, 2 * height, 2 * width)
        return module.sample(torch.randn(shape, generator=source, dtype=torch.float64), low)

    return sample


def _flow_flops(flow: Any, config: StageConfig) -> float:
    """Of a sample, a pixel."""
    channels, size = config.data.channels, config.data.size
    noise = torch.zeros(1, channels, size, size)
    low = torch.zeros(1, channels, size // 2, size // 2)
    return _flops(lambda: flow.sample(noise, low)) / size**2


@torch.no_grad()
def _flops(operation: Callable[[], Tensor]) -> int:
    return flops(operation)


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
