"""The diagnosis: a random stage is sound, and a planted fault is found in the layer that has it."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import randomise

from cascade import Cascade, InputError
from cascade.building import build
from cascade.config import Data, GlowModel, Model, SRFlowModel, StageConfig
from cascade.evaluation.layer_checks import ROUND_TRIP, StageCheck, check_cascade
from cascade.stage import Stage
from stages.actnorm import ActNormInv1x1
from stages.bijection import Bijection
from stages.coupling import AffineCoupling, AffineInjector, Coupling
from stages.integers.mixture import LogisticMixture

SMALL = {"levels": 2, "steps": 2, "width": 8, "squish": 0.3, "classes": 3}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}
STAGES = ["glow8", "srf16"]
IMAGES = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.manual_seed(0)).to(torch.uint8)
LABELS = [0, 1, 2, 0]


def stage(name: str, size: int, model: Model, bits: int = 8) -> Stage:
    config = StageConfig(data=Data(size=size, bits=bits), model=model)
    return Stage(name, config, randomise(build(config), 0.1).float())


@pytest.fixture
def cascade() -> Cascade:
    return small_cascade()


def small_cascade(bits: int = 8, **options: str) -> Cascade:
    base = stage("glow8", 8, GlowModel(kind="glow", **SMALL, **options), bits)
    upper = SRFlowModel(kind="srflow", **SMALL, **ENCODER, **options)
    return Cascade([base, stage("srf16", 16, upper, bits)])


def layer_of(cascade: Cascade, number: int, kind: type) -> tuple[str, Bijection]:
    """The last layer of a kind in a stage: faults must not be found merely for being first."""
    modules = cascade.stages[number].flow.named_modules()
    return [(name, layer) for name, layer in modules if type(layer) is kind][-1]


def checked(cascade: Cascade, number: int) -> StageCheck:
    return check_cascade(cascade, IMAGES, LABELS)[number]


@pytest.mark.parametrize(
    ("bits", "options"),
    [
        (8, {}),
        (5, {}),
        (8, {"coupling": "mixture", "nets": "vit"}),
        (8, {"dequantise": "variational"}),
        (8, {"first": "mixture", "mixture_width": 8}),
    ],
)
def test_random_stages_are_sound(bits, options):
    cascade = small_cascade(bits, **options)
    for check, name, mine in zip(
        check_cascade(cascade, IMAGES, LABELS), STAGES, cascade.stages, strict=True
    ):
        assert check.name == name
        assert str(check.verdict) == "sound" and not check.verdict.fault
        assert check.exact == 1
        assert math.isfinite(check.noise_mean) and 0 < check.noise_std < math.inf
        kinds = (ActNormInv1x1, Coupling, AffineInjector, LogisticMixture)
        expected = [n for n, m in mine.flow.named_modules() if isinstance(m, kinds)]
        assert [layer.name for layer in check.layers] == expected
        for layer in check.layers:
            assert layer.round_trip < ROUND_TRIP / 10 and layer.log_det_error < 1e-10
            assert layer.condition >= 1 and layer.finite and layer.given_finite
            assert layer.condition < 100 or layer.kind == "LogisticMixture"
        assert not any(module._forward_hooks for module in mine.flow.modules())


class HalvedLogDet(AffineCoupling):
    def forward(self, x, cond=()):
        z, log_det = super().forward(x, cond)
        return z, log_det / 2


class ForgottenPixels(ActNormInv1x1):
    def forward(self, x, cond=()):
        z, log_det = super().forward(x, cond)
        return z, log_det / (x.shape[2] * x.shape[3])


class WrongInverse(ActNormInv1x1):
    def inverse(self, z, cond=()):
        x, log_det = super().inverse(z, cond)
        return x + 2 * self.norm.bias, log_det


def becomes(kind: type) -> Callable[[Bijection], None]:
    return lambda layer: setattr(layer, "__class__", kind)


def shrink(smallest: float) -> Callable[[Bijection], None]:
    """Give a 1×1's matrix this smallest singular value, for a largest near one."""

    def plant(layer: Bijection) -> None:
        u, s, vh = torch.linalg.svd(layer.matrix.entries.data)
        s[-1] = smallest * s[0]
        layer.matrix.entries.data = u @ s.diag() @ vh

    return plant


def not_a_number(layer: Bijection) -> None:
    next(layer.parameters()).data[0] = math.nan


# fault: (the kind of layer it is planted in, how, what the verdict says, whether it is a fault)
FAULTS = {
    "log_det halved": (AffineCoupling, becomes(HalvedLogDet), "reports a log_det", True),
    "pixels forgotten": (ActNormInv1x1, becomes(ForgottenPixels), "reports a log_det", True),
    "wrong inverse": (ActNormInv1x1, becomes(WrongInverse), "does not undo itself", True),
    "nearly singular": (ActNormInv1x1, shrink(1e-6), "nearly singular", True),
    "singular": (
        ActNormInv1x1,
        lambda layer: layer.matrix.entries.data.zero_(),
        "a log_det, not finite",
        True,
    ),
    "ill-conditioned": (ActNormInv1x1, shrink(9e-5), "warning: .* is ill-conditioned", False),
    "nan in a coupling": (
        AffineCoupling,
        not_a_number,
        "gives values, or a log_det, not finite",
        True,
    ),
    "nan in a 1x1": (ActNormInv1x1, not_a_number, "gives values, or a log_det, not finite", True),
}


@pytest.mark.parametrize("number", [0, 1], ids=STAGES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(cascade, fault, number):
    kind, plant, says, is_fault = FAULTS[fault]
    name, layer = layer_of(cascade, number, kind)
    plant(layer)
    verdict = checked(cascade, number).verdict
    assert name in verdict.text and verdict.fault is is_fault
    assert re.search(says, verdict.text)


def test_the_other_stage_stays_sound(cascade):
    not_a_number(layer_of(cascade, 1, AffineCoupling)[1])
    verdicts = [check.verdict for check in check_cascade(cascade, IMAGES, LABELS)]
    assert [verdict.fault for verdict in verdicts] == [False, True]


def test_a_broken_encoder_is_not_blamed_on_the_layer_that_reads_it(cascade):
    not_a_number(cascade.stages[1].flow.encoder)
    check = checked(cascade, 1)
    assert "is given values that are not finite, by the encoder" in check.verdict.text
    assert check.exact == 0


def test_a_broken_class_prior_is_named(cascade):
    not_a_number(cascade.stages[0].flow.prior)
    assert "the class prior gives values" in checked(cascade, 0).verdict.text


def test_rounding_that_adds_up_is_put_down_to_the_layer_with_most(cascade):
    check = replace(checked(cascade, 0), exact=0.75)
    worst = max(check.layers, key=lambda layer: layer.round_trip)
    assert check.verdict.text.startswith("25.0% of images come back changed")
    assert worst.name in check.verdict.text and check.verdict.fault


def test_labels_are_asked_for(cascade):
    with pytest.raises(InputError, match="give labels"):
        check_cascade(cascade, IMAGES)
