"""What a comparison's YAML file says, as dataclasses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from cascade.config import StageConfig, load_config
from cascade.config.reading import load_as
from stages import InputError

FACTORS = (2, 4)


@dataclass
class Net:
    """Adam, of the generators of L1 and of the GAN."""

    lr: float = 1.0e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])


@dataclass
class GAN:
    """The GAN's loss, and its discriminator."""

    pretrain: float = 0.2  # share of the steps that L1 alone trains the generator
    l1: float = 0.3  # weights of the terms, values of images in ±½
    perceptual: float = 1.0
    adversarial: float = 0.01
    window: int = 16  # side of the windows whose features are compared
    width: int = 16  # of the discriminator's first layer
    lr: float = 5.0e-4  # of the discriminator
    betas: list[float] = field(default_factory=lambda: [0.0, 0.99])
    r1: float = 1.0  # weight of the gradient penalty
    r1_every: int = 4  # steps


@dataclass
class Versus:
    """One comparison. Data, batch, steps, schedule, average and clipping are the stage's."""

    title: str = MISSING
    stage: str = MISSING  # the SRFlow's configuration
    settings: list[str] = field(default_factory=list)  # changes to it, as key=value
    runs: str = MISSING  # the folder of all that is trained
    factor: int = 2  # 4: two doublers in a chain, for each of the three
    seeds: list[int] = field(default_factory=lambda: [0])
    evaluations: int = 20  # of held-out images during a training
    guide: str | None = None  # a TorchScript net, in whose features the GAN is trained
    features: str | None = None  # another, in whose features all are scored
    window: int = 16  # side of the windows whose features are scored
    split: str = "test"
    limit: int | None = None  # of the split's images
    temperature: float = 0.8
    samples: int = 4  # of each low image
    net: Net = field(default_factory=Net)
    gan: GAN = field(default_factory=GAN)


def load_versus(file: str | Path, overrides: Sequence[str] = ()) -> Versus:
    """Read a comparison's YAML file and apply ``key=value`` overrides.

    Raises `InputError` where there is no such file, for an unknown key (with the nearest one), and
    for values that cannot work.
    """
    versus: Versus = load_as(Versus, file, overrides, "comparison", "versus")
    _check(versus, file)
    return versus


def _check(versus: Versus, file: str | Path) -> None:
    """Raise `InputError` for settings that cannot work."""
    gan, net = versus.gan, versus.net
    rates = (net.lr, gan.lr)
    weights = (gan.l1, gan.perceptual, gan.adversarial, gan.r1)
    betas = [*net.betas, *gan.betas]
    for key, fits, must in (
        ("factor", versus.factor in FACTORS, "be 2 or 4"),
        ("seeds", bool(versus.seeds), "name at least one seed"),
        ("seeds", len(set(versus.seeds)) == len(versus.seeds), "be different ones"),
        ("seeds", all(seed >= 0 for seed in versus.seeds), "not be below 0"),
        ("evaluations", versus.evaluations >= 2, "be at least 2"),
        ("window", versus.window >= 1, "be at least 1"),
        ("limit", versus.limit is None or versus.limit >= 2, "be at least 2"),
        ("temperature", 0 <= versus.temperature < math.inf, "be finite and not below 0"),
        ("samples", versus.samples >= 2, "be at least 2, or there is no diversity to measure"),
        ("net.lr and gan.lr", all(0 < rate <= 1 for rate in rates), "lie above 0, up to 1"),
        ("net.betas and gan.betas", len(betas) == 4, "be two numbers each"),
        ("net.betas and gan.betas", all(0 <= beta < 1 for beta in betas), "lie in [0, 1)"),
        ("gan.pretrain", 0 <= gan.pretrain < 1, "lie in [0, 1)"),
        ("gan's weights", all(0 <= w < math.inf for w in weights), "be finite and not below 0"),
        ("gan.window", gan.window >= 1, "be at least 1"),
        ("gan.width", gan.width >= 1, "be at least 1"),
        ("gan.r1_every", gan.r1_every >= 1, "be at least 1"),
    ):
        if not fits:
            raise InputError(f"{file}: {key} must {must}")


def stage_configs(versus: Versus, seed: int) -> list[StageConfig]:
    """The doublers' configurations, smallest images first: one for ×2, two for ×4.

    They are those of the flows; the other nets share all but ``model``. Raises `InputError` for a
    stage that the others cannot be held against.
    """
    results = []
    for halvings in reversed(range(versus.factor.bit_length() - 1)):
        base = load_config(versus.stage, versus.settings)
        size = base.data.size >> halvings
        every = max(1, base.train.steps // versus.evaluations)
        out = Path(versus.runs, f"seed{seed}", f"flow-{size}")
        changes = [f"data.size={size}", f"seed={seed}", f"out={out}"]
        changes += [f"train.save_every={every}", f"train.sample_every={base.train.steps}"]
        results.append(load_config(versus.stage, [*versus.settings, *changes]))
    _check_stage(versus, results[-1])
    return results


def _check_stage(versus: Versus, config: StageConfig) -> None:
    train, model = config.train, config.model
    for fits, must in (
        (config.upsamples, "be an SRFlow's"),
        (not config.of_details, "have model.pyramid=bicubic: Haar details keep their low image"),
        (not config.has_mixture, "have model.first=none"),
        (not model.classes, "have model.classes=0: the other nets know no labels"),
        (config.augment.previous is None, "learn from clean low images, without augment.previous"),
        (train.seconds is None, "count steps, without train.seconds: all three take as many"),
        (not train.patience, "have train.patience=0: all three take as many steps"),
        (not train.pretrain_steps, "have train.pretrain_steps=0: all three learn from the start"),
        (not train.frozen_steps, "have train.frozen_steps=0: all three learn from the start"),
        (train.steps >= versus.evaluations, "take a step for each of the evaluations at least"),
        (train.precision == "no" and not train.compile, "train in float32, not compiled"),
    ):
        if not fits:
            raise InputError(f"the stage {versus.stage} must {must}")
    for key, window in (("window", versus.window), ("gan.window", versus.gan.window)):
        size = config.data.size * 2 // versus.factor if key == "gan.window" else config.data.size
        if window > size:
            raise InputError(f"{key}={window} is larger than the images, {size}x{size}")
