"""Affine coupling and affine injector: affine maps whose shift and scale a net predicts.

Source: NICE (additive coupling), https://arxiv.org/abs/1410.8516; RealNVP, section 3.2, equations 4
and 5 (affine coupling), https://arxiv.org/abs/1605.08803; SRFlow, section 3.2 (conditional affine
coupling, affine injector), https://arxiv.org/abs/2006.14200.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond, Reconstruction, split
from stages.errors import InputError
from stages.nets import AffineHead, CouplingNet, NetMaker

Parameters = tuple[Tensor, ...]  # of an elementwise map, each of the shape (B, …, H, W)
ScaleFunction = Callable[[Tensor], Tensor]  # the raw output of a net → scale s > 0, elementwise
MIN_SCALE = 1e-3  # the smallest scale if squish is 0; keeps the inverse finite


def scale_function(squish: float, squish_range: str = "sigmoid") -> ScaleFunction:
    """The function that maps the raw output of a net to the scale s of y = s·x + t.

    Args:
        squish: the smallest scale α, in [0, 1).
        squish_range: ``sigmoid``: s = α + (1 − α)·sigmoid(raw + 2), in (α, 1), where α = 0 is read
            as 0.001. ``symmetric``: s = exp(−log α · tanh(raw)), in [α, 1/α], so that forward and
            inverse are bounded by the same factor; needs α > 0.

    Raises:
        InputError: for other values.
    """
    if not 0 <= squish < 1:
        raise InputError(f"squish must lie in [0, 1), got {squish}")
    if squish_range == "sigmoid":
        floor = max(squish, MIN_SCALE)
        return lambda raw: floor + (1 - floor) * torch.sigmoid(raw + 2)
    if squish_range == "symmetric":
        if squish == 0:
            raise InputError("squish_range symmetric needs squish above 0, such as 0.5")
        max_log_scale = -math.log(squish)
        return lambda raw: torch.exp(max_log_scale * torch.tanh(raw))
    raise InputError(f"squish_range is 'sigmoid' or 'symmetric', got {squish_range!r}")


def _sum_per_image(x: Tensor) -> Tensor:
    return x.sum((1, 2, 3))


def repeat_condition(cond: Cond, x: Tensor) -> Cond:
    """Repeat each condition n times if x holds n images for each, stored one after the other.

    Args:
        cond: tensors (B, …).
        x: images (n·B, C, H, W).

    Returns:
        Tensors (n·B, …).
    """
    times = len(x) // len(cond[0])
    return cond if times == 1 else tuple(c.repeat_interleave(times, 0) for c in cond)


class Coupling(Bijection):
    """x = (x₁, x₂) → (x₁, y₂): an increasing map of every value of x₂, chosen by a net from x₁.

    log_det = Σ log ∂y₂/∂x₂. Subclasses say which map it is, in the three methods without a body.

    Args:
        channels: C. x₁ has the first C // 2 channels, x₂ the others.
        width: hidden channels of the net.
        parameters: how many values the net predicts for every one of x₂.
        conditional: the net reads a condition too: ``cond`` begins with a tensor (B, width, H, W),
            the features' part of the net's first convolution (`CouplingNet`).
        net: makes the net from its input, hidden and output channels, see `stages.nets`.

    ``cond`` may end with the net's folded weights, see `CouplingNet`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        parameters: int,
        conditional: bool = False,
        net: NetMaker = CouplingNet,
    ):
        super().__init__()
        first = channels // 2
        self.cond_channels = width if conditional else 0
        self.net = net(first, width, parameters * (channels - first))

    @abstractmethod
    def _parameters_of(self, predicted: Tensor) -> Parameters:
        """The parameters of the map, from the output of the net (B, parameters·C₂, H, W)."""

    @abstractmethod
    def _map(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """y and log ∂y/∂x of every value of x₂, (B, C₂, H, W)."""

    @abstractmethod
    def _inverse_map(self, y: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        """x and log ∂y/∂x, there, of every value of y₂, (B, C₂, H, W)."""

    def given(self, cond: Cond) -> Cond:
        return cond[:1] if self.cond_channels else ()

    def _predict(self, first: Tensor, cond: Cond) -> Parameters:
        given = self.given(cond)
        condition = repeat_condition(given, first)[0] if given else None
        folded = cond[len(given) :] if cond and cond[-1].dim() == 1 else ()  # it ends with a bias
        predicted = self.net(first, condition, *folded)
        return self._parameters_of(predicted.to(first.dtype))

    def log_slopes(self, x: Tensor, cond: Cond = ()) -> Tensor:
        """log ∂y₂/∂x₂ of every value of x₂, (B, C − C // 2, H, W): what log_det is the sum of."""
        first, second = split(x)
        return self._map(second, *self._predict(first, cond))[1]

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        first, second = split(x)
        second, log_slopes = self._map(second, *self._predict(first, cond))
        return torch.cat([first, second], dim=1), _sum_per_image(log_slopes)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        first, second = split(z)
        second, log_slopes = self._inverse_map(second, *self._predict(first, cond))
        return torch.cat([first, second], dim=1), -_sum_per_image(log_slopes)

    def reconstruct(self, z: Tensor, cond: Cond) -> Reconstruction:
        with torch.no_grad():
            first, second = (half.detach().clone() for half in split(z))
        parameters = self._predict(first.requires_grad_(), cond)
        with torch.no_grad():
            second, _ = self._inverse_map(second, *parameters)
        second.requires_grad_()
        output, log_slopes = self._map(second, *parameters)
        return [first, second], torch.cat([first, output], dim=1), _sum_per_image(log_slopes)


class AffineCoupling(Coupling):
    """x = (x₁, x₂) → (x₁, s·x₂ + t), where a net computes s and t from x₁; log_det = Σ log s.

    Args:
        channels: C. x₁ has the first C // 2 channels, x₂ the others.
        width: hidden channels of the net.
        scale_fn: maps the raw output of the net to s; None makes the coupling additive, s = 1.
        conditional: the net reads a condition too, see `Coupling`.
        net: makes the net, see `Coupling`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        scale_fn: ScaleFunction | None = None,
        conditional: bool = False,
        net: NetMaker = CouplingNet,
    ):
        super().__init__(channels, width, 1 if scale_fn is None else 2, conditional, net)
        self.scale_fn = scale_fn

    def _parameters_of(self, predicted: Tensor) -> Parameters:
        if self.scale_fn is None:
            return predicted, torch.ones_like(predicted)
        shift, raw = predicted.chunk(2, dim=1)
        return shift, self.scale_fn(raw)

    def _map(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = parameters
        return scale * x + shift, scale.log()

    def _inverse_map(self, y: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = parameters
        return (y - shift) / scale, scale.log()


class AffineInjector(Bijection):
    """y = s·x + t on all channels; log_det = Σ log s.

    ``cond`` is (t, s, log_det), from `InjectorNets`, or (t, s).
    """

    def given(self, cond: Cond) -> Cond:
        return cond[:2]

    @staticmethod
    def _shift_scale(cond: Cond, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shift, scale, *log_det = repeat_condition(cond, x)
        return shift, scale, log_det[0] if log_det else _sum_per_image(scale.log())

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale, log_det = self._shift_scale(cond, x)
        return scale * x + shift, log_det

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale, log_det = self._shift_scale(cond, z)
        return (z - shift) / scale, -log_det


class InjectorNets(nn.Module):
    """The nets of all affine injectors of a level, batched as the groups of one grouped net.

    Args:
        count: the number of injectors, K.
        channels: the channels C that each of them transforms.
        width: hidden channels of each net.
        scale_fn: maps the raw output of a net to the scale s.
    """

    def __init__(self, count: int, channels: int, width: int, scale_fn: ScaleFunction):
        super().__init__()
        self.count = count
        self.scale_fn = scale_fn
        self.cond_channels = count * width
        self.net = AffineHead(self.cond_channels, 2 * count * channels, groups=count)

    def forward(self, hidden: Tensor) -> list[Cond]:
        """Shift t, scale s and Σ log s of every injector.

        Args:
            hidden: the outputs of the nets' first convolutions, (B, K·width, H, W).

        Returns:
            For each injector (t, s, log_det), two of (B, C, H, W) and one of (B,), in float32 or a
            wider type.
        """
        predicted = self.net(F.relu(hidden))
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        shift, raw = predicted.unflatten(1, (self.count, 2, -1)).unbind(2)
        scale = self.scale_fn(raw)
        log_det = scale.log().sum((2, 3, 4))
        return list(zip(shift.unbind(1), scale.unbind(1), log_det.unbind(1), strict=True))
