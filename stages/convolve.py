"""Convolutions with a ReLU between one and the next; on a CPU, im2col and matrix products."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Layer = tuple[Tensor, Tensor]  # weight (O, I, k, k), where k is 1 or 3, and bias (O,)

WIDE = 128  # channels from which on im2col is faster at any number of pixels
MAX_IM2COL = 2**20  # largest number of values in the im2col matrix of one image
CHUNK = 2**18  # values of a hidden layer that stay in the CPU's cache


def convolve(x: Tensor, *layers: Layer, added: Tensor | None = None, groups: int = 1) -> Tensor:
    """Apply convolutions of stride 1 that keep the size of the image, with ReLU between them.

    On a CPU, wide layers on small images are computed as matrix products (`_Im2colLayers`), because
    PyTorch's convolutions from few to many channels, or from many to few, and their weight
    gradients are slower. Other devices, grouped convolutions, autocast and compiled code use
    PyTorch's convolutions.

    Args:
        x: images (B, I, H, W).
        layers: weight and bias of each convolution.
        added: a tensor (B, O, H, W) that is added to the output of the first convolution.
        groups: the groups of every convolution.
    """
    if groups == 1 and _use_im2col(x, layers):
        tensors = [tensor for layer in layers for tensor in layer]
        return _Im2colLayers.apply(x, added, torch.is_grad_enabled(), *tensors)
    for i, (weight, bias) in enumerate(layers):
        x = F.relu(x, inplace=True) if i else x
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)
        x = x + added if added is not None and not i else x
    return x


def _use_im2col(x: Tensor, layers: tuple[Layer, ...]) -> bool:
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    count, _, height, width = x.shape
    widest = max(max(weight.shape[:2]) for weight, _ in layers)
    narrow = [min(weight.shape[:2]) for weight, _ in layers if weight.shape[-1] > 1]
    faster = widest >= WIDE or 4 * count * height * width <= widest**2
    return count > 0 and faster and 9 * height * width * max(narrow, default=0) <= MAX_IM2COL


class _Im2colLayers(torch.autograd.Function):
    """The layers of `convolve`, in channels-last layout; ReLU works in place in both passes.

    The batch is cut into chunks. Each chunk goes through all layers before the next chunk starts,
    so that the output of a layer is still in the CPU's cache when the next layer reads it. The
    inputs of the layers are saved for the backward pass if ``save``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, save: bool, *tensors: Tensor) -> Tensor:
        weights, biases = tensors[::2], tensors[1::2]
        convs = [_Im2colConv(weight) for weight in weights]
        ctx.chunk = max(1, CHUNK // (x.shape[2] * x.shape[3] * max(map(len, biases))))
        chunks = x.permute(0, 2, 3, 1).split(ctx.chunk)
        added_chunks = () if added is None else added.permute(0, 2, 3, 1).split(ctx.chunk)
        inputs, outputs = [], []
        for n, y in enumerate(chunks):
            for i, (conv, bias) in enumerate(zip(convs, biases, strict=True)):
                y = y.relu_() if i else y
                if save:
                    inputs.append(y)
                y = conv.forward(y, bias)
                if added_chunks and not i:
                    y += added_chunks[n]
            outputs.append(y)
        if save:
            ctx.save_for_backward(*weights, *inputs)
        return _channels_first(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_added, _, *needed = ctx.needs_input_grad
        saved, count = ctx.saved_tensors, len(needed) // 2
        convs, inputs = [_Im2colConv(weight) for weight in saved[:count]], saved[count:]
        matrix_grads: list[Tensor | None] = [None] * count
        bias_grads: list[Tensor | None] = [None] * count
        x_grads, added_grads = [], []
        for n, y_grad in enumerate(grad.permute(0, 2, 3, 1).split(ctx.chunk)):
            for i in reversed(range(count)):
                x = inputs[n * count + i]
                if needed[2 * i + 1]:
                    bias_grads[i] = _accumulate(bias_grads[i], y_grad.sum((0, 1, 2)))
                if need_added and not i:
                    added_grads.append(y_grad)
                matrix_grad, y_grad = convs[i].backward(x, y_grad, needed[2 * i], bool(i or need_x))
                if needed[2 * i]:
                    matrix_grads[i] = _accumulate(matrix_grads[i], matrix_grad)
                if i:
                    y_grad *= x.sign()  # of the ReLU: 0 or 1
            x_grads.append(y_grad)
        grads = [
            _channels_first(x_grads) if need_x else None,
            _channels_first(added_grads) if need_added else None,
            None,
        ]
        for conv, matrix_grad, bias_grad in zip(convs, matrix_grads, bias_grads, strict=True):
            grads += [None if matrix_grad is None else conv.to_weight(matrix_grad), bias_grad]
        return tuple(grads)


def _accumulate(total: Tensor | None, grad: Tensor) -> Tensor:
    return grad if total is None else total.add_(grad)


def _channels_first(chunks: list[Tensor]) -> Tensor:
    return torch.cat(chunks).permute(0, 3, 1, 2)


class _Im2colConv:
    """One convolution of channels-last images (B, H, W, I) as a matrix product.

    im2col is applied to whichever side has fewer channels, since its matrix has k² times as many
    values. If the input has fewer: output = im2col(x) · matrixᵀ. If the output has fewer:
    output = col2im(x · matrix), where the matrix holds the spatially flipped kernel. The matrix is
    (wide side's channels, k² · narrow side's channels).
    """

    def __init__(self, weight: Tensor):
        self.shape = outputs, inputs, self.size, _ = weight.shape
        self.widens = inputs <= outputs or self.size == 1
        if self.widens:
            self.matrix = weight.permute(0, 2, 3, 1).flatten(1)
        else:
            self.matrix = weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1)

    def to_weight(self, matrix: Tensor) -> Tensor:
        """The weight (O, I, k, k) that corresponds to a matrix."""
        outputs, inputs, size, _ = self.shape
        if self.widens:
            return matrix.view(outputs, size, size, inputs).permute(0, 3, 1, 2)
        return matrix.view(inputs, size, size, outputs).permute(3, 0, 1, 2).flip(2, 3)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """The convolution, (B, H, W, O)."""
        if self.widens:
            return torch.addmm(bias, self._im2col(x), self.matrix.t()).view(*x.shape[:3], len(bias))
        return self._col2im(_flat(x) @ self.matrix, x.shape[:3]).add_(bias)

    def backward(self, x: Tensor, grad: Tensor, need_matrix: bool, need_x: bool) -> tuple[Any, Any]:
        """The gradients of the matrix and of x, None for those that are not needed."""
        if self.widens:
            flat = _flat(grad)
            return (
                flat.t() @ self._im2col(x) if need_matrix else None,
                self._col2im(flat @ self.matrix, x.shape[:3]) if need_x else None,
            )
        columns = self._im2col(grad)
        return (
            _flat(x).t() @ columns if need_matrix else None,
            (columns @ self.matrix.t()).view(x.shape) if need_x else None,
        )

    def _im2col(self, x: Tensor) -> Tensor:
        """The zero-padded k×k neighbourhood of every pixel: (B, H, W, C) → (B·H·W, k²·C)."""
        if self.size == 1:
            return _flat(x)
        columns = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        return columns.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[3])

    def _col2im(self, columns: Tensor, shape: torch.Size) -> Tensor:
        """The adjoint of `_im2col`: (B·H·W, k²·C) → (B, H, W, C), the copies of a pixel summed."""
        channels = columns.shape[1] // self.size**2
        if self.size > 1:
            indices, offsets = _col2im_indices(*shape)
            columns = F.embedding_bag(indices, columns.view(-1, channels), offsets, mode="sum")
        return columns.view(*shape, channels)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


@lru_cache(maxsize=32)
def _col2im_indices(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where `_im2col` puts the copies of each pixel, and the offset of each pixel's first copy.

    Neighbour k of pixel p is pixel p + k, so pixel q is neighbour k of pixel q − k.
    """
    pixels = torch.arange(count * height * width, dtype=torch.int32, device="cpu").view(
        count, height, width
    )
    pixels = F.pad(pixels, (1, 1, 1, 1), value=-1).unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    neighbour = torch.arange(8, -1, -1, dtype=torch.int32, device="cpu")
    indices, inside = 9 * pixels + neighbour, pixels >= 0
    ends = inside.sum(3).flatten().cumsum(0, dtype=torch.int32)
    return indices[inside], F.pad(ends, (1, -1))
