"""Convolutions that keep an image's size, with a ReLU between one and the next."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Layer = tuple[Tensor, Tensor]  # weight (O, I, k, k), k 1 or 3, and bias (O,)

WIDE = 128  # channels from which on products pay, however many pixels there are
LARGEST = 2**20  # numbers that the neighbourhoods of an image's pixels may take
AT_ONCE = 2**18  # numbers of a hidden image that stay in a cache, of which a layer reads and writes


def convolve(x: Tensor, *layers: Layer, added: Tensor | None = None, groups: int = 1) -> Tensor:
    """x (B, I, H, W) through ``layers``; ``added`` is added to what the first one makes of it.

    On a CPU wide nets of small images are products of matrices (`_Products`): the library's
    convolutions of few channels to many, or many to few, and its gradients of weights, take longer.
    Other devices, grouped convolutions, autocast and compiled code use the library's.
    """
    if groups == 1 and _are_products(x, layers):
        tensors = [tensor for layer in layers for tensor in layer]
        return _Products.apply(x, added, torch.is_grad_enabled(), *tensors)
    for i, (weight, bias) in enumerate(layers):
        x = F.relu(x, inplace=True) if i else x
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)
        x = x + added if added is not None and not i else x
    return x


def _are_products(x: Tensor, layers: tuple[Layer, ...]) -> bool:
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    count, _, height, width = x.shape
    wide = max(max(weight.shape[:2]) for weight, _ in layers)
    laid_out = [min(weight.shape[:2]) for weight, _ in layers if weight.shape[-1] > 1]
    worthwhile = wide >= WIDE or 4 * count * height * width <= wide**2
    return count > 0 and worthwhile and 9 * height * width * max(laid_out, default=0) <= LARGEST


class _Products(torch.autograd.Function):
    """The layers of `convolve`, channels last; ReLU works in place, forward and backward.

    A few images go through all layers before the next few do, so that what one layer writes the
    next one finds in a cache. Inputs of layers are kept for a backward pass if ``keep``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, keep: bool, *tensors: Tensor) -> Tensor:
        weights, biases = tensors[::2], tensors[1::2]
        products = [_Product(weight) for weight in weights]
        ctx.few = max(1, AT_ONCE // (x.shape[2] * x.shape[3] * max(map(len, biases))))
        images = x.permute(0, 2, 3, 1).split(ctx.few)
        more = () if added is None else added.permute(0, 2, 3, 1).split(ctx.few)
        inputs, outputs = [], []
        for n, y in enumerate(images):
            for i, (product, bias) in enumerate(zip(products, biases, strict=True)):
                y = y.relu_() if i else y
                if keep:
                    inputs.append(y)
                y = product.of(y, bias)
                if more and not i:
                    y += more[n]
            outputs.append(y)
        if keep:
            ctx.save_for_backward(*weights, *inputs)
        return _joined(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_added, _, *needed = ctx.needs_input_grad
        kept, count = ctx.saved_tensors, len(needed) // 2
        products, inputs = [_Product(weight) for weight in kept[:count]], kept[count:]
        of_matrices: list[Tensor | None] = [None] * count
        of_biases: list[Tensor | None] = [None] * count
        of_x, of_added = [], []
        for n, part in enumerate(grad.permute(0, 2, 3, 1).split(ctx.few)):
            for i in reversed(range(count)):
                before = inputs[n * count + i]
                if needed[2 * i + 1]:
                    of_biases[i] = _plus(of_biases[i], part.sum((0, 1, 2)))
                if need_added and not i:
                    of_added.append(part)
                of_matrix, part = products[i].gradients(
                    before, part, needed[2 * i], bool(i or need_x)
                )
                if needed[2 * i]:
                    of_matrices[i] = _plus(of_matrices[i], of_matrix)
                if i:
                    part *= before.sign()  # 0 or 1
            of_x.append(part)
        found = [_joined(of_x) if need_x else None, _joined(of_added) if need_added else None, None]
        for product, of_matrix, of_bias in zip(products, of_matrices, of_biases, strict=True):
            found += [None if of_matrix is None else product.weight(of_matrix), of_bias]
        return tuple(found)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total.add_(more)


def _joined(images: list[Tensor]) -> Tensor:
    return torch.cat(images).permute(0, 3, 1, 2)


class _Product:
    """A convolution of images (B, H, W, I), channels last, as a product on its wider side.

    Neighbourhoods of the narrower side are laid out: of the inputs, or of the outputs, where it is
    the adjoint of a convolution with the kernel turned around. The matrix is (wide, k²·narrow).
    """

    def __init__(self, weight: Tensor):
        self.shape = outputs, inputs, self.size, _ = weight.shape
        self.widens = inputs <= outputs or self.size == 1
        if self.widens:
            self.matrix = weight.permute(0, 2, 3, 1).flatten(1)
        else:
            self.matrix = weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1)

    def weight(self, matrix: Tensor) -> Tensor:
        """The weight (O, I, k, k) that has this matrix."""
        outputs, inputs, size, _ = self.shape
        if self.widens:
            return matrix.view(outputs, size, size, inputs).permute(0, 3, 1, 2)
        return matrix.view(inputs, size, size, outputs).permute(3, 0, 1, 2).flip(2, 3)

    def of(self, x: Tensor, bias: Tensor) -> Tensor:
        """The convolution (B, H, W, O)."""
        if self.widens:
            return torch.addmm(bias, self._rows(x), self.matrix.t()).view(*x.shape[:3], len(bias))
        return self._overlapped(_flat(x) @ self.matrix, x.shape[:3]).add_(bias)

    def gradients(self, x: Tensor, grad: Tensor, of_matrix: bool, of_x: bool) -> tuple[Any, Any]:
        """The gradients of the matrix and of x, those that are wanted."""
        if self.widens:
            wide = _flat(grad)
            return (
                wide.t() @ self._rows(x) if of_matrix else None,
                self._overlapped(wide @ self.matrix, x.shape[:3]) if of_x else None,
            )
        rows = self._rows(grad)
        return (
            _flat(x).t() @ rows if of_matrix else None,
            (rows @ self.matrix.t()).view(x.shape) if of_x else None,
        )

    def _rows(self, x: Tensor) -> Tensor:
        """Every pixel's k×k neighbours, zeros outside: (B, H, W, C) → (B·H·W, k²·C)."""
        if self.size == 1:
            return _flat(x)
        rows = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        return rows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[3])

    def _overlapped(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The adjoint of `_rows`: (B·H·W, k²·C) → (B, H, W, C), all copies of a pixel added up."""
        channels = rows.shape[1] // self.size**2
        if self.size > 1:
            copies, starts = _copies(*shape)
            rows = F.embedding_bag(copies, rows.view(-1, channels), starts, mode="sum")
        return rows.view(*shape, channels)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


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
