"""What a backward pass stores: `Flow.set_activation_memory`, and compiled steps."""

import gc

import pytest
import torch
from conftest import randomise
from torch import Tensor, nn

from stages import convolve, glow, srflow
from stages.bijection import compose
from stages.coupling import AffineCoupling, scale_function
from stages.flow import StageLoss
from stages.reversible import compose_reversible

SMALL = {"levels": 2, "width": 8}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 2}
STAGES = {
    "glow": lambda steps=2: glow((3, 16, 16), steps=steps, **SMALL),
    "glow, additive, classes": lambda steps=2: glow(
        (3, 16, 16), steps=steps, coupling="additive", permutation="lu", classes=3, **SMALL
    ),
    "srflow": lambda steps=2: srflow((3, 16, 16), steps=steps, classes=3, **SMALL, **ENCODER),
    "srflow, no injector": lambda steps=2: srflow(
        (3, 16, 16), steps=steps, injector=False, residual=True, conditional_prior=True,
        squish_range="symmetric", **SMALL, **ENCODER,
    ),
    "glow, dequantised": lambda steps=2: glow(
        (3, 16, 16), steps=steps, dequantise="variational", dequantise_steps=3, **SMALL
    ),
    "srflow, details, dequantised": lambda steps=2: srflow(
        (3, 16, 16), steps=steps, details=True, dequantise="variational", **SMALL, **ENCODER
    ),
    "glow, mixture, gated": lambda steps=2: glow(
        (3, 16, 16), steps=steps, coupling="mixture", nets="gated", **SMALL
    ),
    "srflow, mixture, vit": lambda steps=2: srflow(
        (3, 16, 16), steps=steps, coupling="mixture", components=2, nets="vit", **SMALL, **ENCODER
    ),
    "srflow, details": lambda steps=2: srflow(
        (3, 16, 16), steps=steps, details=True, **SMALL, **ENCODER
    ),
}  # fmt: skip


def inputs(loss: StageLoss, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    torch.manual_seed(1)
    x = torch.rand(2, *loss.flow.shape, dtype=dtype) - 0.5
    low = torch.rand(2, 3, 8, 8, dtype=dtype) - 0.5
    return x, low if loss.flow.encoder else None, torch.tensor([0, 2])


def gradients(loss: nn.Module, *given: Tensor | None) -> tuple[list[Tensor | None], int]:
    """Every parameter's gradient, and how many values were kept for the backward pass."""
    loss.zero_grad()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t}) or t, lambda t: t
    ):
        nats, logits = loss(*given)
    (nats.sum() + (0 if logits is None else logits.square().sum())).backward()
    return [p.grad for p in loss.parameters()], sum(tensor.numel() for tensor in kept.values())


@pytest.mark.parametrize("memory", ["checkpoint", "reversible"])
@pytest.mark.parametrize("name", STAGES)
def test_gradients_are_those_of_stored_activations(monkeypatch, name, memory):
    torch.manual_seed(0)
    monkeypatch.setattr(convolve, "WIDE", 1)  # products, as in wide nets
    loss = randomise(StageLoss(STAGES[name]()), 0.1)
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        given = inputs(loss.to(dtype), dtype)
        loss.flow.set_activation_memory("store")
        stored, all_kept = gradients(loss, *given)
        loss.flow.set_activation_memory(memory)
        found, few_kept = gradients(loss, *given)
        assert few_kept < 0.8 * all_kept
        for one, two in zip(stored, found, strict=True):
            assert (one - two).norm() <= tolerance * one.norm()


def test_reversible_keeps_as_much_of_an_image_at_any_depth():
    kept = {}
    for memory in ("store", "reversible"):
        for steps in (2, 16):
            loss = randomise(StageLoss(STAGES["glow"](steps)), 0.1)
            loss.flow.set_activation_memory(memory)
            x, *_ = inputs(loss, torch.float64)
            one, two = (gradients(loss, images)[1] for images in (x[:1], x))
            kept[memory, steps] = two - one  # weights are kept as well
    assert kept["store", 16] > 5 * kept["store", 2]
    assert kept["reversible", 16] == kept["reversible", 2]


def test_rewinding_gives_what_composing_gives():
    parts = [randomise(AffineCoupling(6, 8, scale_function(0.5)), 0.2, seed) for seed in range(3)]
    found = []
    for apply in (compose, compose_reversible):
        x = torch.linspace(-1, 1, 2 * 6 * 4 * 4).double().reshape(2, 6, 4, 4).requires_grad_()
        z, log_det = apply(x, parts, [()] * 3)
        weights = [weight for part in parts for weight in part.parameters()]
        loss = z.square().sum() + log_det.sum()
        found.append([z, log_det, *torch.autograd.grad(loss, [x, *weights])])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


def reversible(name: str) -> tuple[StageLoss, tuple[Tensor | None, ...]]:
    """A stage whose backward pass makes the activations again, and what it is given."""
    torch.manual_seed(0)
    loss = randomise(StageLoss(STAGES[name]()), 0.1)
    loss.flow.set_activation_memory("reversible")
    return loss, inputs(loss, torch.float64)


def test_reversible_accumulates_a_part_s_gradients_before_it_makes_the_next_ones():
    loss, given = reversible("glow")
    couplings = [module for module in loss.modules() if type(module) is AffineCoupling]
    accumulated, rewound = [], []
    for coupling in couplings:
        weights = list(coupling.parameters())
        weights[-1].register_post_accumulate_grad_hook(accumulated.append)
        coupling.net.register_forward_hook(
            lambda *_, last=weights[-1]: rewound.append((last, list(accumulated)))
        )
    nats, _ = loss(*given)
    rewound.clear()
    nats.sum().backward()
    assert len(accumulated) == len(rewound) == len(couplings) > 3
    for place, (last, before) in enumerate(rewound):
        assert last is accumulated[place]
        assert len(before) == place


@pytest.mark.parametrize("name", ["glow, additive, classes", "srflow"])
def test_reversible_goes_back_a_second_time_through_a_graph(name):
    loss, given = reversible(name)
    nats, logits = loss(*given)
    total = nats.sum() + logits.square().sum()
    once = torch.autograd.grad(total, list(loss.parameters()), retain_graph=True)
    some = list(loss.parameters())[-9:]  # stops half-way
    torch.autograd.grad(total, some, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(total, list(loss.parameters()))
    for one, two in zip(once, again, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("frozen", ["", "body.inner.parts.0.parts.0.", "body.inner.parts.0."])
def test_reversible_with_frozen_parts_lets_every_image_go(frozen):
    """A backward pass leaves no image, though its graph be there; without the graph, nothing."""
    loss, given = reversible("glow")
    for name, weight in loss.flow.named_parameters():
        weight.requires_grad_(not (frozen and name.startswith(frozen)))
    gradients(loss, *given)  # from now on there are gradients to add to
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        nats, _ = loss(*given)
        nats.sum().backward()
        assert images(tensors()) == images(before)
        del nats
        assert len(tensors()) == len(before)
    finally:
        gc.enable()
    found, _ = gradients(loss, *given)
    loss.flow.set_activation_memory("store")
    for one, two in zip(gradients(loss, *given)[0], found, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-9)


def tensors() -> list[torch.Size]:
    """The shapes of all that live."""
    return [thing.shape for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def images(shapes: list[torch.Size]) -> int:
    return sum(len(shape) == 4 and shape[0] == 2 for shape in shapes)


@pytest.mark.parametrize("name", ["srflow", "srflow, mixture, vit"])
def test_reversible_under_autocast_runs_its_nets_as_forward_did(name):
    loss = randomise(StageLoss(STAGES[name]()), 0.1).float()
    given = inputs(loss, torch.float32)
    found = {}
    for memory in ("store", "reversible"):
        loss.flow.set_activation_memory(memory)
        with torch.autocast("cpu", torch.bfloat16):
            nats, _ = loss(*given)
        loss.zero_grad()
        nats.sum().backward()  # outside, as accelerate does
        found[memory] = torch.cat([p.grad.flatten() for p in loss.flow.body.parameters()])
    error = (found["store"] - found["reversible"]).norm() / found["store"].norm()
    assert error < 0.02  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("glow, additive, classes", "store"),
        ("srflow, details, dequantised", "checkpoint"),
        ("srflow, mixture, vit", "store"),
    ],
)
def test_a_step_compiles_whole(name, memory):
    """Without a break in the graph, forward and backward; code generation is left out."""
    torch.compiler.reset()
    loss = randomise(StageLoss(STAGES[name]()), 0.1)
    loss.flow.set_activation_memory(memory)
    given = inputs(loss, torch.float64)
    expected, _ = gradients(loss, *given)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, _ = gradients(compiled, *given)
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
