"""The linear bijections of a step: activation normalisation and the invertible 1×1 convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond


class ChannelAffine(nn.Module):
    """y = (x + b)·exp(s), per channel, fitted once so that y has mean 0 and deviation 1.

    Fitting is an explicit call (`initialise`), never a side effect of `forward`; the buffer
    `fitted` says that it was done. Source: Glow, section 3.1.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.bias) * self.log_scale.exp()

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log_scale).exp() - self.bias

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set bias and scale from the statistics of ``x`` (B, C, H, W), once."""
        if self.fitted:
            return
        deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        self.bias.copy_(-mean)
        self.log_scale.copy_(-(deviation + 1e-6).log())
        self.fitted.fill_(True)


@torch.no_grad()
def initialise(module: nn.Module, *inputs: Tensor | None) -> None:
    """Fit every `ChannelAffine` inside ``module`` in one pass over one large batch.

    Each layer is fitted to what the already fitted layers before it make of the batch. Call it
    with the same batch on every process, before copying or wrapping the module.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, ChannelAffine)]
    hooks = [layer.register_forward_pre_hook(lambda m, args: m.fit(args[0])) for layer in layers]
    try:
        module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


class ActNorm(Bijection):
    """y = (x + b)·exp(s) per channel; log_det = H·W·Σ s."""

    def __init__(self, channels: int):
        super().__init__()
        self.affine = ChannelAffine(channels)

    def _log_det(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        return (pixels * self.affine.log_scale.sum()).expand(len(x))

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self.affine(x), self._log_det(x)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self.affine.inverse(z), -self._log_det(z)


class InvertibleConv(Bijection):
    """y = W x at every pixel; log_det = H·W·log|det W|. W starts as a random rotation.

    A matrix product, not a convolution: it keeps the image's own precision, under autocast and on
    GPUs that round convolutions to TF32. Source: Glow, section 3.2.
    """

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.weight = nn.Parameter(rotation.contiguous())

    def _log_det(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        return (pixels * torch.linalg.slogdet(self.weight).logabsdet).expand(len(x))

    def _apply_to_pixels(self, x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._apply_to_pixels(x, self.weight), self._log_det(x)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        inverse = torch.linalg.inv(self.weight.double()).to(z.dtype)
        return self._apply_to_pixels(z, inverse), -self._log_det(z)
