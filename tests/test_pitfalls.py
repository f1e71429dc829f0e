"""Where likelihood code usually goes wrong: a test for each pitfall, numbered as in the design."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import randomise
from torch import nn
from torch.autograd.functional import jacobian

from cascade.chain import Cascade
from cascade.config import Data, GlowModel, SRFlowModel, StageConfig, Train
from cascade.data import open_images
from cascade.data.batches import Batches
from cascade.data.sources import ArrayImages
from cascade.likelihood import class_columns
from cascade.stage import Stage
from cascade.training.held_out import HeldOut
from cascade.transforms.coding import Pixels
from cascade.transforms.dequantise import density_bpd, dequantise, quantise
from cascade.transforms.pyramid import halve_to
from cascade.utils.chunks import CHUNK, in_chunks
from stages import Flow, InputError, StageLoss, glow, srflow
from stages.actnorm import ActNorm, ActNormInv1x1
from stages.bijection import Split, Squeeze, split_latents
from stages.coupling import AffineCoupling, AffineInjector, InjectorNets, scale_function
from stages.nets import AffineHead, CouplingNet
from stages.prior import ClassPrior, SplitPrior, inverse_sigma, log_normal

LAW = scale_function(0.2)
SMALL = {"levels": 2, "steps": 1, "width": 8}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affine_layers():
    """Every layer of the form s·x + t with its inputs: module, x, condition, channels kept."""
    features = (normal(2, 8, 4, 4, seed=1),)
    for module, channels, cond, kept in (
        (AffineInjector(), 5, (normal(2, 5, 4, 4, seed=2), LAW(normal(2, 5, 4, 4, seed=3))), 0),
        (AffineCoupling(5, 8, LAW), 5, (), 2),
        (AffineCoupling(6, 8, LAW, conditional=True), 6, features, 3),
        (AffineCoupling(6, 8, scale_function(0.5, "symmetric")), 6, (), 3),
        (SplitPrior(5, 8), 5, (), 2),
        (SplitPrior(6, 8, conditional=True), 6, features, 3),
    ):
        yield randomise(module), normal(2, channels, 4, 4), cond, kept


def flows(classes: int = 0):
    """A Glow and a residual SRFlow for 8×8 images of one channel, with images and low images."""
    x, low = normal(3, 1, 8, 8) / 4, normal(3, 1, 4, 4, seed=1) / 4
    conditional = {"conditional_prior": True, "residual": True, **ENCODER}
    yield randomise(glow((1, 8, 8), **SMALL, classes=classes), 0.1), x, None
    yield randomise(srflow((1, 8, 8), **SMALL, **conditional, classes=classes), 0.1), x, low


def stage_config(
    size: int, kind: str = "glow", flip: bool = False, batch: int = 16, classes: int = 0
) -> StageConfig:
    return StageConfig(
        out=f"{kind}{size}",
        data=Data(name="mnist5k", size=size, channels=1, flip=flip),
        model=(GlowModel if kind == "glow" else SRFlowModel)(kind=kind, classes=classes),
        train=Train(steps=1, batch_size=batch, lr=0.001, validate_images=0),
    )


def small_cascade(classes: int = 0, flip: bool = False) -> Cascade:
    """Glow 4, SRFlow 8, of random weights that are the same for either ``flip``."""
    torch.manual_seed(0)
    base = randomise(glow((1, 4, 4), levels=1, steps=1, width=8, classes=classes), 0.1)
    top = randomise(srflow((1, 8, 8), **SMALL, **ENCODER, classes=classes, residual=True), 0.1)
    configs = (
        stage_config(4, "glow", flip, classes=classes),
        stage_config(8, "srflow", flip, classes=classes),
    )
    return Cascade([Stage(c.out, c, f) for c, f in zip(configs, (base, top), strict=True)])


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def digits_source():
    return open_images("mnist5k", "test", 1)


@pytest.fixture(scope="module")
def eights(digits_source) -> torch.Tensor:
    """Real digits at 8×8."""
    return halve_to(digits_source.read(torch.arange(0, 500, 9)), 8)


def as_set(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def log_abs_det(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """log |det J| of a map at one image (1, C, H, W), by autograd, (1,)."""
    matrix = jacobian(function, x.detach()).reshape(x.numel(), x.numel())
    return torch.linalg.slogdet(matrix).logabsdet[None]


def on_cube(y: torch.Tensor) -> torch.Tensor:
    """The log-density that is uniform on [−½, ½)^D, (B, 1)."""
    inside = ((y >= -0.5) & (y < 0.5)).flatten(1).all(1, keepdim=True)
    return torch.where(inside, 0.0, -math.inf)


def noisy(images: torch.Tensor, bits: int):
    return partial(Pixels(bits).dequantise, images, 0, 0)


def test_01_constant_is_per_dimension():
    """log 256 counts once for each of C·H·W dimensions, and bins tile the cube (not x/255)."""
    for bits in (8, 5):
        values = torch.arange(2**bits)[:, None, None, None]
        ends = [torch.full(values.shape, u, dtype=torch.float64) for u in (0.0, 1.0)]
        below, above = (dequantise(values, u, bits) for u in ends)
        assert below[0] == -0.5 and above[-1] == 0.5 and torch.equal(below[1:], above[:-1])
        nats = class_columns(on_cube, noisy(values.byte(), bits), 1, bits)
        assert nats.exp().sum() == pytest.approx(1)
        images = torch.randint(0, 2**bits, (2, 3, 4, 5), dtype=torch.uint8)
        nats = class_columns(on_cube, noisy(images, bits), 3, bits)
        torch.testing.assert_close(nats, torch.full_like(nats, -60 * bits * math.log(2)))
        uniform, twice = density_bpd(torch.tensor([0.0, 60 * math.log(2)]), images, bits)
        assert uniform == pytest.approx(bits) and twice == pytest.approx(bits - 1)


@torch.no_grad()
def test_02_noise_bounds_the_density():
    """Without dequantisation noise a spike on a grey value has an unbounded density."""
    black, config = torch.zeros(16, 1, 16, 16, dtype=torch.uint8), stage_config(16)
    batches = Batches(ArrayImages(black), config)
    flow = Flow(ActNormInv1x1(1), (1, 16, 16), 0).double()
    for place in (0.0, 0.5):  # of the bin
        for sharpness in (0.0, 5.0, 6.8, 9.0, 14.0):
            flow.body.norm.bias.fill_(0.5 - place / 256)
            flow.body.norm.log_scale.fill_(sharpness)
            assert Cascade([Stage("spike", config, flow)]).log_prob(black[:1]) < 0
            for batch in (batches(0), batches.fixed(16)):
                y = batch.target.double()
                assert density_bpd(flow.log_prob(y), y, 8).min() > 0


def test_03_nats_add_and_bpds_do_not(eights):
    """Stages' nats are summed and divided once, by the dimensions of the full image."""
    cascade = small_cascade()
    report = cascade.likelihood(eights)
    bpd = -cascade.log_prob(eights).mean().item() / (64 * math.log(2))
    assert report.bpd == pytest.approx(bpd)
    assert sum(stage["share"] for stage in report.stages) == pytest.approx(bpd)
    assert sum(stage["bpd"] for stage in report.stages) > 1.1 * bpd


@pytest.mark.parametrize("matrix", ["dense", "lu"])
def test_04_log_dets_count_the_pixels_of_their_own_level(matrix):
    """The log-dets of actnorm and 1×1 are H·W times a pixel's, at their own level."""
    layer = randomise(ActNormInv1x1(8, matrix))
    one = log_abs_det(lambda v: layer(v)[0], normal(1, 8, 1, 1)).item()
    assert abs(one) > 0.01
    for height, width in ((1, 3), (2, 6), (5, 4)):
        x = normal(2, 8, height, width)
        for log_det in (layer(x)[1], -layer.inverse(x)[1]):
            assert log_det.tolist() == pytest.approx([height * width * one] * 2)
    second_level = Squeeze(Split(Squeeze(layer)))  # 1 → 4 channels → 2 kept → 8
    log_det = second_level(normal(2, 1, 8, 12))[1]
    assert log_det.tolist() == pytest.approx([2 * 3 * one] * 2)


def test_05_log_det_is_of_the_scale_applied_and_of_nothing_else():
    """The injector's log-det covers all channels; a norm inside a coupling net adds none."""
    for module, x, cond, kept in affine_layers():
        y, log_det = module(x.requires_grad_(), cond)
        (slope,) = torch.autograd.grad(y[:, kept:].sum(), x)
        expected = slope[:, kept:].abs().log().flatten(1).sum(1)
        torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(module.inverse(y, cond)[1], -expected, rtol=0, atol=1e-9)
    additive = randomise(AffineCoupling(6, 8))
    for direction in (additive.forward, additive.inverse):
        assert not direction(normal(2, 6, 4, 4))[1].any()


def test_06_inverse_undoes_scale_and_shift_in_the_right_order():
    """(z + t)·s is not z·s + t: each inverse matches its forward, and the fit matches both."""
    for module, x, cond, _ in affine_layers():
        z, _ = module(x, cond)
        assert (z - x).abs().max() > 0.1
        torch.testing.assert_close(module.inverse(z, cond)[0], x, rtol=0, atol=1e-9)
        torch.testing.assert_close(module(module.inverse(x, cond)[0], cond)[0], x)
    x, label = 3 * normal(3, 4, 2, 2) + 5, torch.tensor([0, 1, 2])
    prior = randomise(ClassPrior(3, 4))
    torch.testing.assert_close(prior.inverse(prior(x, label)[0], label), x)
    norm = ActNorm(4).double()
    norm.fit(x)
    y = norm(x)
    assert y.mean((0, 2, 3)).abs().max() < 1e-5
    assert (y.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_07_slogdet_and_float32_under_autocast():
    """det under- and overflows; log-dets, log s and Gaussian terms stay float32 under autocast."""
    for size in (1e-8, 1e8):
        mix = ActNormInv1x1(64).double()
        mix.matrix.entries.data *= size
        for log_det in (mix(normal(2, 64, 2, 3))[1], -mix.inverse(normal(2, 64, 2, 3))[1]):
            assert log_det.tolist() == pytest.approx([6 * 64 * math.log(size)] * 2)
    mix = randomise(ActNormInv1x1(5)), normal(2, 5, 4, 4), (), 0
    for module, x, cond, _ in (*affine_layers(), mix):
        keeps_float32(module.float(), x.float(), tuple(c.float() for c in cond))
    raw = torch.linspace(-3, 3, 1000)
    for law in (LAW, scale_function(0.5, "symmetric"), inverse_sigma):
        with torch.autocast("cpu", torch.bfloat16):
            assert len(law(raw).log().unique()) > 900  # bfloat16 has not so many
    latent, prior = normal(3, 4, 6, 6), randomise(ClassPrior(3, 4))
    exact = log_normal(latent), prior.log_probs(latent)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_normal(latent.float()), prior.float().log_probs(latent.float())
    for a, b in zip(found, exact, strict=True):
        close_in_float32(a, b)
    for flow, *inputs in flows(classes=3):
        inputs = [None if i is None else i.float() for i in inputs]
        exact = flow.float().class_log_probs(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found = flow.class_log_probs(*inputs)
        close_in_float32(found, exact.double(), rtol=0.02)


@torch.no_grad()
def keeps_float32(module: nn.Module, x: torch.Tensor, cond: tuple[torch.Tensor, ...]) -> None:
    """Under autocast: log-dets of what the net predicted, as float64 has them, and a round trip."""
    predicted = []
    if hasattr(module, "net"):
        module.net.register_forward_hook(lambda net, inputs, output: predicted.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = module(x, cond)
        back, inverse_log_det = module.inverse(z, cond)
    if isinstance(module, ActNormInv1x1):
        own = torch.linalg.slogdet(module.matrix.weight().double()).logabsdet
        expected = 16 * (module.norm.log_scale.double().sum() + own).expand(2)
    elif isinstance(module, AffineInjector):
        expected = cond[1].double().log().flatten(1).sum(1)
    else:
        raw = predicted[0].double().chunk(2, dim=1)[1]
        expected = module.scale_fn(raw).log().flatten(1).sum(1)
    for found, exact in ((log_det, expected), (-inverse_log_det, expected), (back, x.double())):
        close_in_float32(found, exact)


def close_in_float32(found: torch.Tensor, exact: torch.Tensor, rtol: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=2e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_08_each_latent_is_counted_once(classes):
    """log p is log N of the D = C·H·W numbers of the noise, plus the log-det: no latent twice."""
    label = torch.tensor([0, 2, 1])
    for flow, x, low in flows(classes):
        z, log_det = flow.encode(x, low, label)
        top, dropped = split_latents(z, flow.levels)
        pieces = torch.cat([part.flatten() for part in (top, *dropped)])
        assert torch.equal(pieces.sort().values, z.flatten().sort().values)
        squares = z.square().sum((1, 2, 3))
        expected = log_det - 0.5 * squares - 0.5 * 64 * math.log(2 * math.pi)
        column = label[:, None] if classes else torch.zeros(3, 1, dtype=torch.int64)
        for found in (
            flow.log_prob(x, low, label),
            StageLoss(flow)(x, low, label)[0],
            flow.class_log_probs(x, low).gather(1, column)[:, 0],
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


AFFINE = (ActNormInv1x1, AffineCoupling, SplitPrior, ClassPrior)


def calls(flow: Flow, kind: type | tuple[type, ...], *inputs: torch.Tensor | None) -> dict:
    """What every layer of a kind is given and gives while the flow encodes, by its name."""
    seen, hooks = {}, []
    names = {layer: name for name, layer in flow.named_modules() if isinstance(layer, kind)}
    for layer in names:
        hook = layer.register_forward_hook(
            lambda m, given, out: seen.update({names[m]: (given, out)})
        )
        hooks.append(hook)
    flow.encode(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_09_fresh_nets_predict_nothing_and_randomised_ones_do():
    """With zero-initialised last layers a fresh model is nearly linear: tests move it first."""
    options = {"classes": 3, **SMALL}
    label = torch.tensor([0, 1, 2])
    for flow, x, low in (
        (glow((1, 8, 8), **options), normal(3, 1, 8, 8), None),
        (srflow((1, 8, 8), **options, **ENCODER), normal(3, 1, 8, 8), normal(3, 1, 4, 4)),
    ):
        last = calls(flow.double(), (CouplingNet, AffineHead), x, low, label)
        assert last and not any(predicted.any() for _, predicted in last.values())
        affine, injected = (calls(flow, kinds, x, low, label) for kinds in (AFFINE, InjectorNets))
        moved = dict(randomise(flow, 0.1).named_modules())
        for name, (inputs, before) in injected.items():
            for (_, old, _), (_, new, _) in zip(before, moved[name](*inputs), strict=True):
                assert old.std() < 1e-9 and new.std() > 1e-4, name
        for name, (inputs, before) in affine.items():
            x, given = inputs
            if not isinstance(moved[name], ClassPrior):
                given = moved[name].given(given)  # without what is made of the old weights
            after = moved[name](x, given)
            for a, b in zip(before, after, strict=True):
                assert (a - b).abs().amax(tuple(range(1, a.dim()))).min() > 1e-4, name
            if hasattr(moved[name], "net"):  # its scale now depends on what the net reads
                assert before[1].std() < 1e-9 and after[1].std() > 1e-4, name


@pytest.mark.parametrize("classes", [0, 3])
def test_10_log_det_is_that_of_the_jacobian(classes):
    """A forward/inverse pair that only cancels proves nothing: autograd's Jacobian, both ways."""
    label = torch.tensor([1])
    for flow, x, low in flows(classes):
        x, low = x[:1], None if low is None else low[:1]
        cond = () if low is None else flow.encoder(low)
        encode, decode = (
            partial(flow.encode, low=low, label=label),
            partial(flow.body.inverse, cond=cond),
        )
        for function in (encode, decode):
            expected = log_abs_det(lambda v, f=function: f(v)[0], x)
            torch.testing.assert_close(function(x)[1], expected, rtol=0, atol=1e-8)


def test_11_evaluation_never_flips(digits_source, eights):
    """Augmentation and flips change the trained density: what is evaluated is upright."""
    upright = as_set(halve_to(digits_source.pixels, 16))
    plain, flipping = (Batches(digits_source, stage_config(16, flip=f)) for f in (False, True))
    assert not as_set(quantise(flipping(0).target)) <= upright  # training does flip
    assert as_set(quantise(flipping.fixed(64).target)) <= upright
    assert torch.equal(flipping.fixed(64).target, plain.fixed(64).target)
    held_out = HeldOut(stage_config(16, flip=True), digits_source, torch.device("cpu"))
    assert as_set(quantise(held_out.batch.target)) <= upright
    cascades = small_cascade(), small_cascade(flip=True)
    assert torch.equal(*(c.log_prob(eights) for c in cascades))
    assert not torch.equal(cascades[1].log_prob(eights), cascades[1].log_prob(eights.flip(3)))
    assert torch.equal(cascades[1].decode(cascades[1].encode(eights)), eights)


@torch.no_grad()
def test_12_every_image_counts_once(digits_source, eights):
    """Values are per image, in order; a padded or short last batch does not count twice."""
    sizes = set()

    def tenfold(x: torch.Tensor, none: None) -> torch.Tensor:
        sizes.add(len(x))
        return 10 * x

    for count in (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5):
        rows = torch.arange(count)
        assert torch.equal(in_chunks(tenfold, rows, None), 10 * rows)
    assert sizes == {CHUNK}
    cascade, images = small_cascade(), eights[: CHUNK + 3]
    nats, _ = cascade.stage_log_probs(images)
    assert nats.shape == (CHUNK + 3, 2)
    assert torch.equal(cascade.stage_log_probs(images.flip(0))[0].flip(0), nats)
    for i in (0, CHUNK, CHUNK + 2):
        assert torch.equal(cascade.stage_log_probs(images[i : i + 1])[0], nats[i : i + 1])
    mean = nats.sum(1).sum().item() / (CHUNK + 3)
    assert cascade.likelihood(images).bpd == pytest.approx(-mean / (64 * math.log(2)))

    held_out = HeldOut(
        stage_config(8, batch=63), digits_source, torch.device("cpu")
    )  # 63 images, then 1
    y = held_out.batch.target
    flow = next(flows())[0].float()
    expected = density_bpd(flow.log_prob(y), y, 8)
    assert len(y) == 64
    assert held_out.bpd(StageLoss(flow)) == pytest.approx(expected.mean().item(), rel=1e-5)


def test_13_given_a_class_is_not_without(eights):
    """p(x | y) is not p(x) = Σ_y π_y p(x | y), summed over classes after stages are multiplied."""
    cascade, images = small_cascade(classes=3), eights[:5]
    given = torch.stack([cascade.log_prob(images, [y] * 5) for y in range(3)], dim=1)
    nats, posterior = cascade.stage_log_probs(images)
    torch.testing.assert_close(nats.sum(1), given.logsumexp(1) - math.log(3))
    torch.testing.assert_close(posterior, given.log_softmax(1))
    torch.testing.assert_close(cascade.log_prob(images), nats.sum(1))
    assert (nats.sum(1) - given.max(1).values).max() < -0.01
    for flow, x, low in flows(classes=3):
        with pytest.raises(InputError, match="class-conditional"):
            StageLoss(flow)(x, low)
