"""A narrow residual net of images of any size, without its last, linear layer."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock

DEPTHS = (1, 2, 2)  # residual blocks of each group


def feature_net(channels: int, width: int = 24) -> nn.Sequential:
    """A residual net (He et al., 2016): images (B, C, H, W) of values 0..255 → (B, 4·width).

    Three groups of ``width``, 2·width and 4·width channels, the last two at half the resolution of
    the one before, and the mean over all pixels. The first layer brings values to mean 0 and
    variance 1, a channel, by the images it is trained on.
    """
    layers: list[nn.Module] = [
        nn.BatchNorm2d(channels, affine=False),
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inner = width
    for group, depth in enumerate(DEPTHS):
        outer, stride = width << group, 2 if group else 1
        layers.append(BasicBlock(inner, outer, stride, _shortcut(inner, outer, stride)))
        layers += [BasicBlock(outer, outer) for _ in range(depth - 1)]
        inner = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _shortcut(inner: int, outer: int, stride: int) -> nn.Module | None:
    """What a block adds its result to, where that is not the block's input itself.

    Pixels are averaged before the 1×1 convolution, which none is then left out of (He et al., 2019,
    Bag of tricks, section 4.2, https://arxiv.org/abs/1812.01187). A 1×1 convolution that strides
    overruns memory in some builds of torch for CPUs, where it has few channels.
    """
    if inner == outer:
        return None
    mean = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(mean, nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer))
