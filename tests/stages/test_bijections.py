"""Every bijection: the inverse inverts, and log_det is autograd's, in float64 on random weights."""

import pytest
import torch
import torch.nn.functional as F
from conftest import randomise
from torch import nn
from torch.autograd.functional import jacobian

from stages.actnorm import ActNorm, ActNormInv1x1, DenseMatrix, LUMatrix, initialise
from stages.bijection import Chain, Split, Squeeze, joined, merge_latents, split_latents
from stages.coupling import (
    AffineCoupling,
    AffineInjector,
    InjectorNets,
    ScaleFunction,
    scale_function,
)
from stages.glow import glow
from stages.integers.dequantise import Dequantiser
from stages.mixture_coupling import MixtureCoupling
from stages.nets import AffineHead, CouplingNet, net_maker
from stages.prior import LOG_SIGMA, SplitPrior, inverse_sigma
from stages.srflow import srflow
from stages.steps import Steps

PLAIN, SQUISHED = scale_function(0.0), scale_function(0.5)
SYMMETRIC = scale_function(0.5, "symmetric")
SMALL = {"levels": 2, "steps": 2, "width": 8}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 2}
VARIATIONAL = {"dequantise": "variational", "dequantise_steps": 3}
FEATURES, SIDE = 5, 4


def level(channels: int, law: ScaleFunction = SQUISHED) -> Steps:
    parts = [
        ActNormInv1x1(channels),
        AffineInjector(),
        AffineCoupling(channels, 8, law, conditional=True),
        ActNormInv1x1(channels),
        AffineInjector(),
        SplitPrior(channels, 8, conditional=True),
    ]
    return Steps(parts, FEATURES, InjectorNets(2, channels, 8, law))


# name: (constructor, channels it takes, channels of the condition a level or 0)
BIJECTIONS = {
    "actnorm, 1x1": (lambda c: ActNormInv1x1(c), 3, 0),
    "actnorm, 1x1, LU": (lambda c: ActNormInv1x1(c, "lu"), 4, 0),
    "coupling plain": (lambda c: AffineCoupling(c, 8, PLAIN), 4, 0),
    "coupling squished": (lambda c: AffineCoupling(c, 8, SQUISHED), 4, 0),
    "coupling symmetric": (lambda c: AffineCoupling(c, 8, SYMMETRIC), 4, 0),
    "coupling additive": (lambda c: AffineCoupling(c, 8), 4, 0),
    "coupling of 3 channels": (lambda c: AffineCoupling(c, 8, PLAIN), 3, 0),
    "coupling of 9 channels": (lambda c: AffineCoupling(c, 8, SQUISHED), 9, 0),
    "coupling conditional": (lambda c: AffineCoupling(c, 8, SQUISHED, conditional=True), 4, 8),
    "coupling mixture": (lambda c: MixtureCoupling(c, 8, SQUISHED), 4, 0),
    "coupling mixture conditional": (
        lambda c: MixtureCoupling(c, 8, SYMMETRIC, components=3, conditional=True),
        3,
        8,
    ),
    "coupling mixture of one": (lambda c: MixtureCoupling(c, 8, PLAIN, components=1), 4, 0),
    "coupling gated": (
        lambda c: AffineCoupling(c, 8, SQUISHED, conditional=True, net=net_maker("gated", 2)),
        4,
        8,
    ),
    "coupling transformer": (
        lambda c: AffineCoupling(c, 8, SQUISHED, conditional=True, net=net_maker("vit", 2, True)),
        4,
        8,
    ),
    "prior": (lambda c: SplitPrior(c, 8), 4, 0),
    "prior conditional": (lambda c: SplitPrior(c, 8, conditional=True), 4, 8),
    "chain": (lambda c: Chain(ActNormInv1x1(c), AffineCoupling(c, 8, PLAIN)), 4, 0),
    "squeeze": (
        lambda c: Squeeze(Chain(ActNormInv1x1(4 * c), AffineCoupling(4 * c, 8, PLAIN))),
        1,
        0,
    ),
    "dequantiser": (lambda c: Dequantiser(c, 8, bits=3, features=FEATURES), 4, FEATURES),
    "dequantiser of 3 channels, 1 step": (lambda c: Dequantiser(c, 8, 1, 1), 3, 0),
    "split": (
        lambda c: Split(Chain(ActNormInv1x1(c // 2), AffineCoupling(c // 2, 8, PLAIN))),
        5,
        0,
    ),
    "steps": (level, 4, FEATURES),
    "steps symmetric": (lambda c: level(c, SYMMETRIC), 3, FEATURES),
    "steps, LU": (
        lambda c: Steps(
            [ActNormInv1x1(c, "lu"), ActNormInv1x1(c, "lu"), AffineCoupling(c, 8, PLAIN)]
        ),
        4,
        0,
    ),
    "two levels": (lambda c: Chain(level(c), Split(Squeeze(level(2 * c)))), 4, FEATURES),
    "glow body, 1 channel": (lambda c: glow((c, SIDE, SIDE), **SMALL).body, 1, 0),
    "glow body, 3 channels": (lambda c: glow((c, SIDE, SIDE), **SMALL).body, 3, 0),
}


def inputs(name: str):
    make, channels, condition = BIJECTIONS[name]
    module = randomise(make(channels))
    x = torch.randn(3, channels, SIDE, SIDE, dtype=torch.float64)
    fine = torch.randn(3, condition, SIDE, SIDE, dtype=torch.float64)
    return module, x, ((fine, fine[:, :, ::2, ::2]) if condition else ())


@pytest.mark.parametrize("name", BIJECTIONS)
def test_inverse_inverts(name):
    module, x, cond = inputs(name)
    z, log_det = module(x, cond)
    back, inverse_log_det = module.inverse(z, cond)
    assert z.shape == x.shape and log_det.shape == (3,)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-9)
    assert not torch.allclose(z, x)


@pytest.mark.parametrize("name", BIJECTIONS)
def test_log_det_is_that_of_the_jacobian(name):
    module, x, cond = inputs(name)
    one_cond = tuple(c[:1] for c in cond)
    matrix = jacobian(lambda v: module(v[None], one_cond)[0][0], x[0])
    expected = torch.linalg.slogdet(matrix.reshape(x[0].numel(), -1)).logabsdet
    torch.testing.assert_close(module(x, cond)[1][0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("maps", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name, of in BIJECTIONS.items() if not of[2]])
def test_a_bijection_without_a_condition_ignores_feature_maps(name, maps):
    module, x, _ = inputs(name)
    cond = tuple(torch.randn(3, 7, SIDE, SIDE, dtype=torch.float64) for _ in range(maps))
    for apply in (module, module.inverse):
        torch.testing.assert_close(apply(x, cond), apply(x), rtol=0, atol=0)


FLOWS = {
    "glow grey": (lambda: glow((1, 8, 8), **SMALL), None),
    "glow colour, classes": (lambda: glow((3, 8, 8), **SMALL, classes=3, squish=0.5), None),
    "glow symmetric": (
        lambda: glow((1, 8, 8), **SMALL, squish=0.5, squish_range="symmetric"),
        None,
    ),
    "glow mixture, gated": (
        lambda: glow((1, 8, 8), **SMALL, coupling="mixture", components=2, nets="gated"),
        None,
    ),
    "glow additive": (lambda: glow((1, 8, 8), **SMALL, coupling="additive"), None),
    "srflow grey": (lambda: srflow((1, 8, 8), **SMALL, **ENCODER), 1),
    "srflow colour, classes": (lambda: srflow((3, 8, 8), **SMALL, **ENCODER, classes=3), 3),
    "srflow residual": (
        lambda: srflow((1, 8, 8), **SMALL, **ENCODER, residual=True, conditional_prior=True),
        1,
    ),
    "srflow details": (lambda: srflow((1, 8, 8), **SMALL, **ENCODER, details=True), 1),
    "srflow colour details, classes": (
        lambda: srflow((3, 8, 8), **SMALL, **ENCODER, details=True, classes=3),
        3,
    ),
    "glow dequantised, classes": (
        lambda: glow((1, 8, 8), **SMALL, **VARIATIONAL, classes=3),
        None,
    ),
    "srflow residual, dequantised": (
        lambda: srflow((1, 8, 8), **SMALL, **ENCODER, **VARIATIONAL, residual=True),
        1,
    ),
    "srflow colour details, dequantised": (
        lambda: srflow((3, 8, 8), **SMALL, **ENCODER, **VARIATIONAL, details=True),
        3,
    ),
    "srflow mixture, vit": (
        lambda: srflow(
            (1, 8, 8), **SMALL, **ENCODER, coupling="mixture", nets="vit", conditional_prior=True
        ),
        1,
    ),
    "srflow ablated": (
        lambda: srflow(
            (1, 8, 8), **SMALL, **ENCODER, injector=False, transition_steps=0, coupling="additive"
        ),
        1,
    ),
}


def flow_inputs(name: str):
    make, low_channels = FLOWS[name]
    flow = randomise(make(), scale=0.1)
    x = torch.rand(3, *flow.shape, dtype=torch.float64) - 0.5
    low = None if low_channels is None else torch.rand(3, low_channels, 4, 4).double() - 0.5
    return flow, x, low, torch.tensor([0, 1, 2])


@pytest.mark.parametrize("name", FLOWS)
def test_flow_round_trip_and_jacobian(name):
    flow, x, low, label = flow_inputs(name)
    z, log_det = flow.encode(x, low, label)
    torch.testing.assert_close(flow.decode(z, low, label), x, rtol=0, atol=1e-9)
    one_low = None if low is None else low[1:2]
    matrix = jacobian(lambda v: flow.encode(v[None], one_low, label[1:2])[0][0], x[1])
    expected = torch.linalg.slogdet(matrix.reshape(x[1].numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[1], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FLOWS)
def test_log_prob_is_the_normal_density_times_the_jacobian(name):
    flow, x, low, label = flow_inputs(name)
    z, log_det = flow.encode(x, low, label)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(x, low, label), normal + log_det, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_class_log_probs_hold_every_label(name):
    flow, x, low, _ = flow_inputs(name)
    columns = flow.class_log_probs(x, low)
    assert columns.shape == (3, flow.classes or 1)
    for y in range(columns.shape[1]):
        expected = flow.log_prob(x, low, torch.full((3,), y))
        torch.testing.assert_close(columns[:, y], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("law", [SQUISHED, SYMMETRIC])
def test_squish_bounds_the_scale(law):
    scale = law(torch.linspace(-100, 100, 999, dtype=torch.float64))
    assert scale.min() >= 0.5 - 1e-12 and scale.max() <= 2 + 1e-12


def test_squish_reaches_the_injector():
    flow = srflow((1, 8, 8), **SMALL, **ENCODER, squish=0.75)
    injections = [m for m in flow.modules() if isinstance(m, InjectorNets)]
    assert len(injections) == 2
    for part in injections:
        assert part.scale_fn(torch.tensor(-100.0)) == pytest.approx(0.75)


def test_sigma_is_softly_bounded():
    raw = torch.linspace(-50, 50, 999, dtype=torch.float64)
    log_sigma = -inverse_sigma(raw).log()
    assert LOG_SIGMA[0] - 1e-4 < log_sigma.min() and log_sigma.max() <= LOG_SIGMA[1]
    middle = raw.abs() < 0.5
    assert (log_sigma - raw)[middle].abs().max() < 0.3
    assert (log_sigma.diff() >= 0).all()


def test_latents_are_split_and_merged():
    z = torch.randn(2, 3, 8, 8)
    top, rest = split_latents(z, 3)
    assert top.shape == (2, 48, 1, 1) and len(rest) == 2
    assert torch.equal(merge_latents(top, rest), z)
    top, rest = split_latents(z, 3, squeezed=False)
    assert top.shape == (2, 8, 2, 2) and [r.shape[1] for r in rest] == [2, 2]
    assert torch.equal(merge_latents(top, rest, squeezed=False), z)


def normed(layer: torch.nn.Module, args: tuple, output: object) -> list[torch.Tensor]:
    """What a layer's norms make of what the layer was given."""
    if isinstance(layer, ActNormInv1x1):
        return [layer.norm(args[0])]
    if isinstance(layer, CouplingNet):
        condition = args[1] if len(args) > 1 and args[1] is not None else 0.0
        first = layer.first(args[0])
        return [first, *normed(layer.head, (F.relu(first + condition),), None)]
    return [layer.mix(args[0])] if isinstance(layer, AffineHead) else [output]


def test_initialise_fits_every_norm_once_and_only_when_asked():
    flow = srflow((3, 8, 8), **SMALL, **ENCODER)
    x, low = torch.rand(64, 3, 8, 8) - 0.5, torch.rand(64, 3, 4, 4) - 0.5
    flow.encode(x, low)
    layers = [m for m in flow.modules() if isinstance(m, ActNorm)]
    assert not any(layer.fitted for layer in layers)
    outputs = []
    initialise(flow.body, x, flow.encoder(low))
    assert all(layer.fitted for layer in layers)
    owners = [m for m in flow.modules() if isinstance(m, ActNormInv1x1 | CouplingNet | AffineHead)]
    owners += [m.project for m in flow.modules() if isinstance(m, Steps)]
    hooks = [m.register_forward_hook(lambda *a: outputs.extend(normed(*a))) for m in owners]
    flow.encode(x, low)
    assert len(outputs) == len(layers)
    for y in outputs:
        assert y.mean((0, 2, 3)).abs().max() < 1e-3
        assert (y.std((0, 2, 3), correction=0) - 1).abs().max() < 2e-2
    for hook in hooks:
        hook.remove()
    before = [layer.bias.clone() for layer in layers]
    initialise(flow.body, x + 1, flow.encoder(low))
    assert all(torch.equal(b, layer.bias) for b, layer in zip(before, layers, strict=True))


@pytest.mark.parametrize("make", [glow, srflow])
def test_sizes_that_do_not_fit_are_named(make):
    with pytest.raises(ValueError, match=r"divisible by 16 \(16, 32, 48, ...\), got 24x24"):
        make((3, 24, 24), levels=4)


def test_algebra_stays_in_float32_under_autocast():
    flow = glow((1, 8, 8), **SMALL)
    x = torch.rand(2, 1, 8, 8) - 0.5
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = flow.encode(x)
    assert z.dtype == log_det.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        back = flow.decode(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("matrix", ["dense", "lu"])
def test_affine_constants_are_actnorm_then_1x1(matrix):
    """The affine map is ActNorm, then the matrix; several layers at once equal each alone."""
    layers = [randomise(ActNormInv1x1(5, matrix), seed=seed) for seed in range(3)]
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for inverse in (False, True):
        constants = ActNormInv1x1.affine_constants(layers, inverse)
        for layer, cond in zip(layers, ActNormInv1x1.conditions(constants, x), strict=True):
            direction = layer.inverse if inverse else layer
            for together, alone in zip(direction(x, cond), direction(x), strict=True):
                torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
            if not inverse:
                expected = torch.einsum("oi,bihw->bohw", layer.matrix.weight(), layer.norm(x))
                torch.testing.assert_close(layer(x, cond)[0], expected, rtol=0, atol=1e-12)


def test_what_is_joined_is_parted_again_in_the_backward_pass():
    tensors = [torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.equal(joined(tensors), torch.cat(tensors))
    weight = torch.randn(6, 3, 1, 1, dtype=torch.float64)
    check = (torch.autograd.gradcheck, torch.autograd.gradgradcheck)
    assert all(c(lambda *t: (joined(t).sin() * weight).sum(), tensors) for c in check)


def test_what_is_kept_in_evaluation_follows_the_weights():
    """After a step, a load, a move or a new tensor, an evaluation is that of the new weights.

    `stages.steps` keeps what is made of them.
    """
    flow, other, third = (randomise(glow((1, 8, 8), **SMALL), 0.1, seed) for seed in range(3))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) - 0.5

    def train(flow: nn.Module) -> None:
        optimiser = torch.optim.Adamax(flow.parameters(), lr=0.1, foreach=True)
        (-flow.log_prob(x).mean()).backward()
        optimiser.step()

    def exchange(flow: nn.Module) -> None:
        for parameter, new in zip(flow.parameters(), other.parameters(), strict=True):
            parameter.data = new.data.clone()

    changes = (
        train,
        lambda flow: flow.load_state_dict(other.state_dict()),
        lambda flow: torch._foreach_lerp_(list(flow.parameters()), list(third.parameters()), 0.5),
        exchange,
        lambda flow: flow.float().double(),
    )
    for change in changes:
        with torch.no_grad():
            flow.eval()
            before = flow.log_prob(x)
            assert torch.equal(flow.log_prob(x), before)
            torch.testing.assert_close(flow.decode(flow.encode(x)[0]), x, rtol=0, atol=1e-9)
        with torch.set_grad_enabled(change is train):
            change(flow.train())
        flow.eval()
        fresh = flow.log_prob(x).detach()  # with gradients on, nothing kept is used
        with torch.no_grad():
            kept = flow.log_prob(x)
            torch.testing.assert_close(kept, fresh, rtol=0, atol=1e-10)
            torch.testing.assert_close(flow.decode(flow.encode(x)[0]), x, rtol=0, atol=1e-9)
        assert not torch.equal(kept, before)


@pytest.mark.parametrize("name", [name for name in FLOWS if name.startswith("srflow")])
def test_many_images_of_one_condition(name):
    """Noise for several images a low image gives what each low image repeated gives."""
    flow, _, low, label = flow_inputs(name)
    noise = torch.randn(6, *flow.shape, dtype=torch.float64)
    label = label.repeat_interleave(2)
    expected = flow.sample(noise, low.repeat_interleave(2, 0), label)
    torch.testing.assert_close(flow.sample(noise, low, label), expected, rtol=0, atol=1e-9)


def test_lu_starts_as_the_rotation_and_keeps_its_form():
    torch.manual_seed(0)
    dense = DenseMatrix(6).double()
    torch.manual_seed(0)
    lu = LUMatrix(6).double()
    torch.testing.assert_close(lu.weight(), dense.entries, rtol=0, atol=1e-6)
    assert lu.log_dets([lu], lu.weight()[None]).abs() < 1e-5
    randomise(lu, scale=1.0)
    weight = lu.weight()
    log_det = lu.log_dets([lu], weight[None])[0]
    torch.testing.assert_close(log_det, torch.linalg.slogdet(weight).logabsdet)
    unpivoted = lu.permutation.T @ weight
    torch.testing.assert_close(unpivoted[0], lu.upper.triu(1)[0] + torch.diag(
        lu.sign * lu.log_size.exp())[0])  # fmt: skip
