"""Mixture coupling: the logit of a mixture's distribution function, then an affine map.

Source: Flow++, section 3.3, equations 10 to 13 (mixtures of logistics as coupling layers),
https://arxiv.org/abs/1902.00275.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.coupling import AffineCoupling, Coupling, Parameters, ScaleFunction
from stages.nets import CouplingNet, NetMaker

LOG_SCALE = 3.0  # bound of |log s_k| of a component, so that ∂(logit F)/∂x is at most exp(3)
MIN_SLOPE = 0.01  # ε, the smallest slope: keeps the inverse finite between components far apart
SPREAD = 1.0  # initial locations lie in (−1, 1), or all components would learn alike
MOST_STEPS = 120  # of a root search; bisection alone needs about 60 in float64


def mixture_map(
    x: Tensor, log_weights: Tensor, locations: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor]:
    """g(x) = (1 − ε)·logit F(x) + ε·x and log ∂g/∂x, for F(x) = Σ_k w_k·sigmoid((x − μ_k)/s_k).

    log F and log(1 − F) are each a logsumexp of log-sigmoids, so both tails are exact. The term in
    ε = `MIN_SLOPE` is not in Flow++: without it no slope is too small between two components.

    Args:
        x: values (B, C, H, W).
        log_weights: log w_k, (B, M, C, H, W), Σ_k w_k = 1.
        locations: μ_k, of the same shape.
        log_scales: log s_k, of the same shape.
    """
    a = (x.unsqueeze(1) - locations) * torch.exp(-log_scales)
    below = log_weights + F.logsigmoid(a)
    above = F.logsigmoid(-a)
    log_density = torch.logsumexp(below + above - log_scales, dim=1)
    log_cdf = torch.logsumexp(below, dim=1)
    log_tail = torch.logsumexp(log_weights + above, dim=1)
    slope = (1 - MIN_SLOPE) * torch.exp(log_density - log_cdf - log_tail) + MIN_SLOPE
    return (1 - MIN_SLOPE) * (log_cdf - log_tail) + MIN_SLOPE * x, slope.log()


@torch.no_grad()
def inverse_mixture_map(
    y: Tensor, log_weights: Tensor, locations: Tensor, log_scales: Tensor
) -> Tensor:
    """The x where g(x) = y, see `mixture_map`, found to rounding.

    The roots of the M maps that have one component each bracket it: at the largest of them every
    component's map, and so the mixture's, is at least y. Inside the bracket it is Newton's method;
    a step that leaves the bracket, or is more than half as long as the one before, is replaced by a
    bisection (Numerical Recipes, section 9.4, ``rtsafe``, https://numerical.recipes/book.html).
    Every value stops by itself, so none depends on those that it is computed with.

    Args:
        y: values (B, C, H, W).
        log_weights, locations, log_scales: of the mixture, see `mixture_map`.
    """
    mixture = log_weights, locations, log_scales
    slopes = (1 - MIN_SLOPE) * torch.exp(-log_scales)  # of one component alone, without ε
    roots = (y.unsqueeze(1) + slopes * locations) / (slopes + MIN_SLOPE)
    low, high = roots.amin(1), roots.amax(1)
    x = (log_weights.exp() * roots).sum(1).clamp(low, high)
    rounding = 2 * torch.finfo(y.dtype).eps
    length, active = high - low, torch.ones_like(y, dtype=torch.bool)
    for _ in range(MOST_STEPS):
        found, log_slope = mixture_map(x, *mixture)
        error = found - y
        low, high = torch.where(error < 0, x, low), torch.where(error > 0, x, high)
        newton = x - error * torch.exp(-log_slope)
        good = (newton >= low) & (newton <= high) & ((newton - x).abs() <= length / 2)
        active = active & (error.abs() > rounding * (1 + y.abs()))
        following = torch.where(active, torch.where(good, newton, low + (high - low) / 2), x)
        length = (following - x).abs()
        x = following
        active = active & (length > rounding * x.abs())
        if not active.any():
            break
    return x


class MixtureCoupling(Coupling):
    """x = (x₁, x₂) → (x₁, s·g(x₂) + t), g being the logit of a mixture's distribution function.

    g(x) = (1 − ε)·logit F(x) + ε·x, F(x) = Σ_k w_k·sigmoid((x − μ_k)/s_k), elementwise. From x₁ a
    net computes s, t and, for M logistics, w_k, μ_k and log s_k, which is softly bound. So the
    slope of g lies between ε = 0.01 and e³, and log_det = Σ (log s + log ∂g/∂x₂). Where the net
    predicts zeros g is near the identity: for one component it is the identity.

    Args:
        channels: C. x₁ has the first C // 2 channels, x₂ the others.
        width: hidden channels of the net.
        scale_fn: maps the raw output of the net to s.
        components: M.
        conditional: the net reads a condition too, see `Coupling`.
        net: makes the net, see `Coupling`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        scale_fn: ScaleFunction,
        components: int = 4,
        conditional: bool = False,
        net: NetMaker = CouplingNet,
    ):
        super().__init__(channels, width, 2 + 3 * components, conditional, net)
        self.scale_fn = scale_fn
        self.components = components

    def _parameters_of(self, predicted: Tensor) -> Parameters:
        count = self.components
        channels = predicted.shape[1] // (2 + 3 * count)
        shift, raw, rest = predicted.split([channels, channels, 3 * count * channels], dim=1)
        weights, locations, log_scales = rest.unflatten(1, (3, count, channels)).unbind(1)
        places = torch.arange(1 - count, count, 2, dtype=rest.dtype, device=rest.device)
        locations = locations + (SPREAD / count) * places[:, None, None, None]
        log_scales = LOG_SCALE * torch.tanh(log_scales / LOG_SCALE)
        return shift, self.scale_fn(raw), weights.log_softmax(1), locations, log_scales

    def _map(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, *mixture = parameters
        y, log_slope = mixture_map(x, *mixture)
        return scale * y + shift, scale.log() + log_slope

    def _inverse_map(self, y: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, *mixture = parameters
        y = (y - shift) / scale
        x = inverse_mixture_map(y, *mixture)
        found, log_slope = mixture_map(x, *mixture)
        if torch.is_grad_enabled():  # by the implicit function theorem; the value stays
            x = x + ((y - found) - (y - found).detach()) * torch.exp(-log_slope.detach())
            log_slope = mixture_map(x, *mixture)[1]
        return x, scale.log() + log_slope


def make_coupling(
    kind: str,
    channels: int,
    width: int,
    scale_fn: ScaleFunction,
    components: int = 4,
    conditional: bool = False,
    net: NetMaker = CouplingNet,
) -> Coupling:
    """An ``affine``, ``additive`` or ``mixture`` coupling, see `AffineCoupling`, `MixtureCoupling`.

    An additive one leaves ``scale_fn``, and all but a mixture leave ``components``, unused.
    """
    if kind == "mixture":
        return MixtureCoupling(channels, width, scale_fn, components, conditional, net)
    return AffineCoupling(
        channels, width, None if kind == "additive" else scale_fn, conditional, net
    )
