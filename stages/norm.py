"""Activation normalisation: per channel, fitted once to a batch, by itself or in a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.convolve import Layer, convolve


class ChannelAffine(nn.Module):
    """y = (x + b)·exp(s), per channel, fitted once so that y has mean 0 and deviation 1.

    Fitting is an explicit call (`initialise`), never a side effect of `forward`; the buffer
    `fitted` says that it was done. Source: Glow, section 3.1.
    """

    fitted: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.bias) * self.log_scale.exp()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set bias and scale from the statistics of ``x`` (B, C, H, W), once."""
        if self.fitted:
            return
        deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        self.bias.copy_(-mean)
        self.log_scale.copy_(-(deviation + 1e-6).log())
        self.fitted.fill_(True)


class NormedConv(nn.Module):
    """A convolution and the activation normalisation of its output, as one convolution.

    (W*x + b)·exp(s) is x's convolution with W·exp(s), plus b·exp(s): the output, which is by far
    the widest image of a step, is written once and kept once.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        self.norm = ChannelAffine(outputs)
        nn.init.normal_(self.conv.weight, std=0.05)

    def fit(self, x: Tensor) -> None:
        """Fit the normalisation to what the convolution makes of ``x``, once."""
        self.norm.fit(self.conv(x))

    def layer(self) -> Layer:
        """Weight and bias of the one convolution."""
        scale = self.norm.log_scale.exp().transpose(0, 1)
        return self.conv.weight * scale, self.norm.bias.flatten() * scale.flatten()

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.layer(), groups=self.conv.groups)


@torch.no_grad()
def initialise(module: nn.Module, *inputs: Tensor | None) -> None:
    """Fit every layer inside ``module`` that can be fitted in one pass over one large batch.

    Each layer is fitted to what the already fitted layers before it make of the batch. Call it
    with the same batch on every process, before copying or wrapping the module.
    """
    layers = [layer for layer in module.modules() if hasattr(layer, "fit")]
    hooks = [layer.register_forward_pre_hook(lambda m, args: m.fit(*args)) for layer in layers]
    try:
        module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
