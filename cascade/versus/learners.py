"""How the generators learn: by L1 alone, or as a GAN's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.config import StageConfig
from cascade.data.batches import Batch
from cascade.optimization.averages import averaged
from cascade.optimization.rates import learning_rate
from cascade.versus.losses import Guide, discriminator_loss, generator_loss, r1_penalty
from cascade.versus.nets import Discriminator, Generator
from cascade.versus.settings import GAN, Net


class Learner:
    """A generator that learns by L1, in the steps, schedule and average of the stage's training."""

    def __init__(self, generator: Generator, config: StageConfig, net: Net):
        self.generator, self.config, self.settings = generator, config, net
        train = config.train
        self.average = averaged(generator, train.ema) if train.ema else None
        first, second = net.betas
        self.optimizer = torch.optim.Adam(
            generator.parameters(), net.lr, (first, second), foreach=True
        )

    @property
    def net(self) -> Any:
        """The weights to use: the averaged ones where averaging is on."""
        return self.generator if self.average is None else self.average.module

    def update(self, batch: Batch, step: int) -> bool:
        """One step; False where it was not finite: what was not is left as it was."""
        assert batch.low is not None
        self._set_rate(self.optimizer, self.settings.lr, step)
        loss = F.l1_loss(self.generator(batch.low), batch.target)
        return self._averaged(self._descend(loss, self.optimizer, self.generator))

    def held_out(self, batch: Batch, step: int) -> Tensor:
        """What step ``step``, from 1, lowered, of held-out images, for the weights to use."""
        assert batch.low is not None
        return F.l1_loss(self.net(batch.low), batch.target)

    def phase(self, step: int) -> int:
        """The number, from 0, of the loss that ``step`` lowered; two of them do not compare."""
        return 0

    def _set_rate(self, optimizer: torch.optim.Optimizer, lr: float, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, replace(self.config.train, lr=lr))

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer, net: nn.Module) -> bool:
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), self.config.train.clip, foreach=True)
        if not (loss.detach() + norm).isfinite():
            return False
        optimizer.step()
        return True

    def _averaged(self, sound: bool) -> bool:
        if sound and self.average is not None:
            self.average.update_parameters(self.generator)
        return sound


class GANLearner(Learner):
    """A generator by L1 for a share of the steps, then by L1, features and a discriminator."""

    def __init__(
        self,
        generator: Generator,
        config: StageConfig,
        net: Net,
        gan: GAN,
        guide: Guide,
        device: torch.device,
    ):
        super().__init__(generator, config, net)
        self.gan, self.guide = gan, guide
        self.begin = round(gan.pretrain * config.train.steps)
        self.discriminator = Discriminator(config.data.channels, gan.width).to(device)
        first, second = gan.betas
        self.judging = torch.optim.Adam(
            self.discriminator.parameters(), gan.lr, (first, second), foreach=True
        )

    def update(self, batch: Batch, step: int) -> bool:
        if step < self.begin:
            return super().update(batch, step)
        assert batch.low is not None
        self._set_rate(self.optimizer, self.settings.lr, step)
        self._set_rate(self.judging, self.gan.lr, step)
        fake = self.generator(batch.low)
        place = self.guide.place(self.config.data.size, self.config.seed, step)
        _require(self.discriminator.parameters(), False)
        sound = self._descend(self._loss(fake, batch.target, place), self.optimizer, self.generator)
        _require(self.discriminator.parameters(), True)
        loss = discriminator_loss(
            self.discriminator(batch.target), self.discriminator(fake.detach())
        )
        if (step - self.begin) % self.gan.r1_every == 0:  # as seldom as it weighs more
            weight = self.gan.r1 * self.gan.r1_every
            loss = loss + weight * r1_penalty(self.discriminator, batch.target)
        sound &= self._descend(loss, self.judging, self.discriminator)
        return self._averaged(sound)

    def held_out(self, batch: Batch, step: int) -> Tensor:
        if not self.phase(step):
            return super().held_out(batch, step)
        assert batch.low is not None
        return self._loss(self.net(batch.low), batch.target, (0, 0))

    def phase(self, step: int) -> int:
        return int(step > self.begin)

    def _loss(self, fake: Tensor, real: Tensor, place: tuple[int, int]) -> Tensor:
        gan = self.gan
        pixels = F.l1_loss(fake, real)
        features = self.guide(fake, real, place)
        fooled = generator_loss(self.discriminator(fake))
        return gan.l1 * pixels + gan.perceptual * features + gan.adversarial * fooled


def _require(parameters: Iterable[nn.Parameter], gradient: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(gradient)
