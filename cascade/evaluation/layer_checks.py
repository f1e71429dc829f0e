"""What to run when a likelihood looks wrong: every layer and every stage, checked on real images.

A layer's likelihood is right if its inverse undoes it and its log-determinant is that of its
Jacobian. Both are measured here, on the inputs and conditions the layer really gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from cascade.chain import Cascade
from cascade.stage import Stage
from cascade.transforms.dequantise import centre
from stages import Bijection, Flow
from stages.actnorm import ActNormInv1x1
from stages.bijection import Cond
from stages.coupling import AffineInjector, Coupling
from stages.integers.mixture import LogisticMixture

ELEMENTARY = (ActNormInv1x1, Coupling, AffineInjector, LogisticMixture)  # so is a SplitPrior
OFF = 1 / 8  # of a bin
JACOBIAN_SIDE = 64  # C·h·w of the crop whose Jacobian is compared

# A layer's numbers are about as large as one. Half the bin of an 8-bit value is 2e-3 of the range;
# float32 rounds at 6e-8, so an honest layer stays below ROUND_TRIP up to a condition of 1e4.
ROUND_TRIP = 1e-3
LOG_DET = 1e-6  # nats a dimension; in float64 an honest layer stays below 1e-9
CONDITION = 1e4  # of a 1x1: four of float32's seven digits are lost in its inverse
EARLIER = "go back to earlier weights, with a smaller train.lr"


@dataclass
class LayerCheck:
    """One elementary bijection, on what it was given while images were encoded.

    ``round_trip`` is max |inverse(forward(x)) − x| / max |x| in the stage's own precision, of a
    mixture in float64 (an unlikely integer's bin is but a few steps of float32 wide);
    ``log_det_error`` |log_det − log |det J|| in nats a dimension, in float64, on a small crop;
    ``condition`` the largest over the smallest factor by which the layer stretches: singular
    values of a 1×1, scales met by the others. What is not a number counts as infinite.
    ``given_finite`` and ``finite`` tell whether all it was given, and all it gave, was finite.
    """

    name: str
    kind: str
    round_trip: float
    log_det_error: float
    condition: float
    given_finite: bool
    finite: bool

    @property
    def ill_conditioned(self) -> bool:
        """Whether it is a 1×1 whose inverse loses digits; scales may differ widely and be right."""
        return self.kind == "ActNormInv1x1" and self.condition > CONDITION

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


@dataclass
class Verdict:
    """'sound', a warning, or a fault: one sentence that says which layer, what, and what to do."""

    text: str
    fault: bool = True

    def __str__(self) -> str:
        return self.text


@dataclass
class StageCheck:
    """One stage: its layers in the order an image meets them, and the stage as a whole.

    ``exact`` is the share of images that come back as the same integers. The images, encoded with
    random dequantisation as they are scored, have mean ``noise_mean`` and standard deviation
    ``noise_std``: near 0 and 1 if the stage fits them. (At bin centres, which `exact` and the
    layers are measured with, the deviation would come out too small.)
    """

    name: str
    layers: list[LayerCheck]
    exact: float
    noise_mean: float
    noise_std: float

    @property
    def verdict(self) -> Verdict:
        """The first that applies, causes before effects, for the layer where it is worst."""
        broken = next((layer for layer in self.layers if not layer.finite), None)
        if broken:
            return _not_finite(broken)
        if not math.isfinite(self.noise_mean):
            return Verdict(f"the class prior gives values that are not finite: {EARLIER}")
        worst = max(self.layers, key=lambda layer: layer.round_trip)
        if worst.round_trip > ROUND_TRIP:
            return _not_inverse(worst)
        wrong = max(self.layers, key=lambda layer: layer.log_det_error)
        if wrong.log_det_error > LOG_DET:
            return Verdict(
                f"{wrong} reports a log_det {wrong.log_det_error:.1e} nats a dimension from its "
                "Jacobian's: no bits/dim holds until its formula is corrected"
            )
        if self.exact < 1:
            return _not_exact(1 - self.exact, worst)
        mixers = [layer for layer in self.layers if layer.ill_conditioned]
        if mixers:
            mixer = max(mixers, key=lambda layer: layer.condition)
            return Verdict(
                f"warning: {mixer} is ill-conditioned ({mixer.condition:.0e}), which costs its "
                "inverse digits: look at the samples, and train with a smaller train.lr",
                fault=False,
            )
        return Verdict("sound", fault=False)


def _not_finite(layer: LayerCheck) -> Verdict:
    if layer.given_finite:
        return Verdict(f"{layer} gives values, or a log_det, not finite: {EARLIER}")
    return Verdict(
        f"{layer} is given values that are not finite, by the encoder or the convolution of its "
        f"features: {EARLIER}"
    )


def _not_inverse(layer: LayerCheck) -> Verdict:
    remedy = "its forward and inverse are not one map: correct them"
    if layer.ill_conditioned:
        remedy = f"it is nearly singular (condition {layer.condition:.0e}): {EARLIER}"
    return Verdict(
        f"{layer} does not undo itself, off by {layer.round_trip:.1e} of max |x|; {remedy}"
    )


def _not_exact(share: float, layer: LayerCheck) -> Verdict:
    remedy = "raise model.squish"
    if layer.kind == "LogisticMixture":
        remedy = "encode and decode in float64"
    if layer.ill_conditioned:
        remedy = f"it is nearly singular (condition {layer.condition:.0e}): {EARLIER}"
    return Verdict(
        f"{share:.1%} of images come back changed, though every layer undoes itself: rounding "
        f"adds up, most in {layer}; {remedy}"
    )


def check_cascade(
    cascade: Cascade, images: Tensor, labels: Tensor | Sequence[int] | None = None
) -> list[StageCheck]:
    """Check every stage, base first, on a few uint8 images (N, C, H, W) of the cascade's shape.

    A class-conditional cascade needs ``labels`` (N,), or raises `InputError`.
    """
    labels = cascade.needed_labels(labels, len(images))
    return [check_stage(stage, high, low, labels) for _, stage, high, low in cascade.climb(images)]


@torch.no_grad()
def check_stage(
    stage: Stage, high: Tensor, low: Tensor | None = None, label: Tensor | None = None
) -> StageCheck:
    """Check a stage on a few of its own images.

    ``high`` (N, C, H, W) and ``low`` (N, C, H/2, W/2) hold integers 0..2ⁿ−1 of the stage's n bits,
    ``label`` (N,) classes; a Glow needs no ``low``, an unconditional stage no ``label``.
    """
    flow, bits = stage.flow, stage.config.data.bits
    weight = next(flow.parameters())
    x = stage.coding.centre(high, weight.dtype).to(weight.device)
    below = None if low is None else centre(low, weight.dtype, bits).to(weight.device)
    label = None if label is None else label.to(weight.device)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        visits, z = _visit(flow, x, below, label)
        layers = [_check_layer(name, visit) for name, visit in visits.items()]
        back = _or_nan(lambda: flow.decode(z, below, label)).expand(x.shape)
        drawn = stage.coding.dequantise(high, seed=0, stage=0, draw=0)
        noise, _ = flow.encode(drawn.to(weight), below, label)
    same = stage.coding.image(back.cpu(), low)[0] == high.cpu()
    return StageCheck(
        stage.name,
        layers,
        same.flatten(1).all(1).double().mean().item(),
        noise.mean().item(),
        noise.std().item(),
    )


@dataclass
class _Visit:
    """What a layer was given, and what it made of that."""

    layer: Bijection
    x: Tensor
    cond: Cond
    z: Tensor
    log_det: Tensor


def _visit(flow: Flow, *inputs: Any) -> tuple[dict[str, _Visit], Tensor]:
    """Encode images: what every elementary layer saw, by dotted name in order, and their noise."""
    visits: dict[str, _Visit] = {}

    def note(
        name: str, layer: Bijection, args: tuple[Any, ...], output: tuple[Tensor, Tensor]
    ) -> None:
        x, cond = args
        visits[name] = _Visit(layer, x, layer.given(cond), *output)

    hooks = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in flow.named_modules()
        if isinstance(layer, ELEMENTARY)
    ]
    try:
        noise, _ = flow.encode(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return visits, noise


def _check_layer(name: str, visit: _Visit) -> LayerCheck:
    layer, x, cond, z = visit.layer, visit.x, visit.cond, visit.z
    if isinstance(layer, LogisticMixture):
        # off the middle of bins, where the smaller tail changes sides and has no gradient
        layer, x = deepcopy(layer).double(), x.double() + OFF / 2**layer.support.bits
        cond = tuple(given.double() for given in cond)
        z, _ = layer(x, cond)
    back = _or_nan(lambda: layer.inverse(z, cond)[0])
    scales = _or_nan(lambda: _scales(layer, x, cond))
    return LayerCheck(
        name,
        type(layer).__name__,
        _number((back - x).abs().max() / x.abs().max().clamp(min=1e-12)),
        _number(_or_nan(lambda: _log_det_error(layer, x, cond))),
        _number(scales.max() / scales.min()),
        _finite(x, *cond),
        _finite(z, visit.log_det),
    )


def _scales(layer: Any, x: Tensor, cond: Cond) -> Tensor:
    """The factors by which a layer stretches what it changes."""
    if isinstance(layer, ActNormInv1x1):
        return torch.linalg.svdvals(layer.affine_constants([layer])[0][0].double())
    if isinstance(layer, AffineInjector):
        return cond[1]
    if isinstance(layer, LogisticMixture):
        return layer.by_value(x, cond)[1].exp()
    return layer.log_slopes(x, cond).exp()


def _log_det_error(layer: Bijection, x: Tensor, cond: Sequence[Tensor]) -> Tensor:
    """|log_det − log |det J||, in nats a dimension, in float64 on a crop of the first image."""
    exact = deepcopy(layer).cpu().double()
    x, *cond = (_crop(given, x.shape[1]) for given in (x, *cond))
    with torch.enable_grad():
        rows = jacobian(lambda v: exact(v, tuple(cond))[0], x, vectorize=True)
    expected = torch.linalg.slogdet(rows.reshape(x.numel(), x.numel())).logabsdet
    return (exact(x, tuple(cond))[1][0] - expected).abs() / x.numel()


def _crop(image: Tensor, channels: int) -> Tensor:
    """The middle of the first image: two pixels at least, else a forgotten H·W would not show."""
    side = max(1, math.isqrt(JACOBIAN_SIDE // channels))
    height, width = min(side, image.shape[2]), min(max(side, 2), image.shape[3])
    top, left = (image.shape[2] - height) // 2, (image.shape[3] - width) // 2
    return image[:1, :, top : top + height, left : left + width].cpu().double()


def _or_nan(compute: Callable[[], Tensor]) -> Tensor:
    """The result, or nan where a matrix cannot be factorised: singular, or not finite."""
    try:
        return compute()
    except torch.linalg.LinAlgError:
        return torch.tensor(math.nan)


def _finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _number(value: Tensor) -> float:
    return value.nan_to_num(nan=math.inf, posinf=math.inf).item()
