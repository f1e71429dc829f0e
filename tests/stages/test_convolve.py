"""`convolve` on a CPU: products of matrices that give what the library's convolutions give."""

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from stages import convolve as module
from stages.convolve import convolve

WIDTHS = [(3, 16, 16, 6), (12, 12), (16, 2), (1, 18, 4)]
SIZES = [(1, 1, 1), (2, 5, 3), (3, 1, 4), (2, 8, 8)]


def layers(widths: tuple[int, ...], kernels: str = "313") -> list[tuple[Tensor, Tensor]]:
    pairs = zip(widths, widths[1:], kernels, strict=False)
    return [
        (torch.randn(o, i, int(k), int(k)).double().requires_grad_(), torch.randn(o).double())
        for i, o, k in pairs
    ]


def results(x: Tensor, added: Tensor | None, net: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    y = convolve(x, *net, added=added)
    weight = torch.linspace(-1, 2, y.numel()).double().view(y.shape)
    wanted = [x, *(tensor for layer in net for tensor in layer)] + [added] * (added is not None)
    return [y, *torch.autograd.grad((y * weight).sum(), wanted)]


@pytest.fixture(autouse=True)
def products(monkeypatch):
    monkeypatch.setattr(module, "WIDE", 1)


@pytest.mark.parametrize("at_once", [1, 64, module.CHUNK])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_products_give_what_the_library_gives(monkeypatch, widths, size, at_once):
    torch.manual_seed(0)
    monkeypatch.setattr(module, "CHUNK", at_once)
    count, height, width = size
    net = [(weight, bias.requires_grad_()) for weight, bias in layers(widths)]
    wider = torch.randn(count, widths[0] + 2, height, width).double()
    added = torch.randn(count, widths[1], height, width).double().requires_grad_()
    for x in (wider[:, 1:-1], wider.to(memory_format=torch.channels_last)[:, 2:]):
        for hidden in (None, added):
            image = x.detach().requires_grad_()
            assert convolve(image, *net).grad_fn.name() == "_Im2colLayersBackward"
            found = results(image, hidden, net)
            with monkeypatch.context() as patch:
                patch.setattr(module, "MAX_IM2COL", 0)
                assert convolve(image, *net).grad_fn.name() == "ConvolutionBackward0"
                expected = results(image, hidden, net)
            for one, two in zip(found, expected, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "shape, width, products",
    [((64, 6, 16, 16), 128, True), ((16, 6, 8, 8), 64, True), ((17, 6, 8, 8), 64, False),
     ((2, 6, 16, 16), 512, True), ((1, 48, 64, 64), 128, False), ((0, 6, 8, 8), 128, False)],
)  # fmt: skip
def test_wide_nets_of_small_images_are_products(monkeypatch, shape, width, products):
    monkeypatch.undo()
    net = layers((shape[1], width, width, 2), "313")
    image = torch.zeros(shape, dtype=torch.float64)
    made = convolve(image, *net).grad_fn.name()
    assert made == ("_Im2colLayersBackward" if products else "ConvolutionBackward0")


def test_only_the_gradients_that_are_wanted():
    net = layers((4, 6, 3))
    weight, bias = net[0]
    x = torch.randn(2, 4, 3, 3).double()
    convolve(x, *net).sum().backward()
    assert bias.grad is None and x.grad is None and weight.grad is not None
    assert torch.allclose(jacobian(lambda v: convolve(v, *net), x, vectorize=True),
                          jacobian(lambda v: convolve(v, *net), x))  # fmt: skip


def test_what_is_given_is_left_as_it_was():
    net, x = layers((4, 4, 4), "13"), torch.randn(2, 4, 3, 3).double()
    before = x.clone()
    convolve(x, *net, added=torch.ones_like(x)).sum().backward()
    assert torch.equal(x, before)
