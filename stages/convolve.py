"""Convolutions that keep an image's size, with a ReLU between one and the next."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Layer = tuple[Tensor, Tensor]  # weight (O, I, k, k), k 1 or 3, and bias (O,)

LARGEST = 2**25  # numbers that the neighbourhoods of all pixels may take


def convolve(x: Tensor, *layers: Layer, added: Tensor | None = None, groups: int = 1) -> Tensor:
    """x (B, I, H, W) through ``layers``; ``added`` is added to what the first one makes of it.

    On a CPU wide nets of small images are products of large matrices (`_Products`): the library's
    convolutions of few channels to many, or many to few, and its gradients of weights, take longer.
    Other devices, grouped convolutions, autocast and compiled code use the library's.
    """
    if groups == 1 and _are_products(x, layers):
        return _Products.apply(x, added, *(tensor for layer in layers for tensor in layer))
    for i, (weight, bias) in enumerate(layers):
        x = F.relu(x, inplace=True) if i else x
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)
        x = x + added if added is not None and not i else x
    return x


def _are_products(x: Tensor, layers: tuple[Layer, ...]) -> bool:
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    wide = max(max(weight.shape[:2]) for weight, _ in layers)
    narrow = max(min(weight.shape[:2]) for weight, _ in layers)
    return pixels <= wide**2 and 9 * pixels * narrow <= LARGEST


class _Products(torch.autograd.Function):
    """The layers of `convolve`, channels last; ReLU works in place, forward and backward."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, added: Tensor | None, *tensors: Tensor) -> Tensor:
        weights, biases = tensors[::2], tensors[1::2]
        inputs, y = [], x.permute(0, 2, 3, 1)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            inputs.append(y.relu_() if i else y)
            y = _product(y, weight).add_(bias)
            if added is not None and not i:
                y += added.permute(0, 2, 3, 1)
        ctx.save_for_backward(*inputs, *weights)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        count = len(kept) // 2
        inputs, weights = kept[:count], kept[count:]
        need_x, need_added, *needed = ctx.needs_input_grad
        of_added, of_layers, grad = None, [], grad.permute(0, 2, 3, 1)
        for i in reversed(range(count)):
            if not i and need_added:
                of_added = grad.permute(0, 3, 1, 2)
            of_bias = grad.sum((0, 1, 2)) if needed[2 * i + 1] else None
            before = inputs[i], weights[i], grad
            grad, of_weight = _gradients(*before, bool(i) or need_x, needed[2 * i])
            if i:
                grad *= inputs[i].sign()  # 0 or 1
            of_layers[:0] = of_weight, of_bias
        return grad.permute(0, 3, 1, 2) if need_x else None, of_added, *of_layers


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of x (B, H, W, I), (B, H, W, O), as a product on its wider side.

    Neighbourhoods of the narrower one are laid out: of the inputs, or of the outputs, where it is
    the adjoint of a convolution with the kernel turned around.
    """
    matrix = _matrix(weight)
    if _widens(weight):
        return (_rows(x, weight) @ matrix.t()).view(*x.shape[:3], -1)
    return _overlapped(_flat(x) @ matrix, x.shape[:3], weight)


def _gradients(
    x: Tensor, weight: Tensor, grad: Tensor, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `_product`, those that are wanted."""
    matrix, found = _matrix(weight) if of_x else None, [None, None]
    if _widens(weight):
        wide = _flat(grad)
        if of_x:
            found[0] = _overlapped(wide @ matrix, x.shape[:3], weight)
        if of_weight:
            found[1] = _unmatrix(wide.t() @ _rows(x, weight), weight)
    else:
        rows = _rows(grad, weight)
        if of_x:
            found[0] = (rows @ matrix.t()).view(x.shape)
        if of_weight:
            found[1] = _unmatrix(_flat(x).t() @ rows, weight)
    return found[0], found[1]


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _widens(weight: Tensor) -> bool:
    outputs, inputs, size, _ = weight.shape
    return inputs <= outputs or size == 1


def _matrix(weight: Tensor) -> Tensor:
    """(wide, k²·narrow): the weight of a widening convolution, or that of a narrowing's adjoint."""
    if _widens(weight):
        return weight.permute(0, 2, 3, 1).flatten(1)
    return weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1)


def _unmatrix(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_matrix`, for a weight of the shape of ``like``."""
    outputs, inputs, size, _ = like.shape
    if _widens(like):
        return matrix.view(outputs, size, size, inputs).permute(0, 3, 1, 2)
    return matrix.view(inputs, size, size, outputs).permute(3, 0, 1, 2).flip(2, 3)


def _rows(x: Tensor, weight: Tensor) -> Tensor:
    """Every pixel's k×k neighbours, zeros outside: (B, H, W, C) → (B·H·W, k²·C)."""
    if weight.shape[-1] == 1:
        return _flat(x)
    rows = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
    return rows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[3])


def _overlapped(rows: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
    """The adjoint of `_rows`: (B·H·W, k²·C) → (B, H, W, C), all copies of a pixel added up."""
    if weight.shape[-1] > 1:
        copies, starts = _copies(*shape)
        rows = F.embedding_bag(copies, rows.view(-1, rows.shape[1] // 9), starts, mode="sum")
    return rows.view(*shape, -1)


@lru_cache(maxsize=32)
def _copies(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where `_rows` put each pixel, as indices of all rows' neighbours, and where each one's start.

    The neighbour k of row p is the pixel p + k, so pixel q is neighbour k of row q − k.
    """
    rows = torch.arange(count * height * width, dtype=torch.int32, device="cpu").view(
        count, height, width
    )
    rows = F.pad(rows, (1, 1, 1, 1), value=-1).unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    copies, inside = 9 * rows + torch.arange(8, -1, -1, dtype=torch.int32, device="cpu"), rows >= 0
    ends = inside.sum(3).flatten().cumsum(0, dtype=torch.int32)
    return copies[inside], F.pad(ends, (1, -1))
