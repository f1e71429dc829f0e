"""A stage as a density: images in, nats out; noise in, images out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, peel, unpeel
from stages.coupling import Coupling, Injections, for_each
from stages.encoder import RRDB, Encoder
from stages.errors import InputError
from stages.gaussian import log_normal
from stages.prior import ClassPrior
from stages.steps import Steps


def upsampled(low: Tensor) -> Tensor:
    """The low image (B, C, h, w) at twice the size, by cubic interpolation with a = −0.5."""
    return F.interpolate(low, scale_factor=2, mode="bicubic", antialias=True)


class Flow(nn.Module):
    """One stage: a body that maps an image to noise of the same shape, and the priors around it.

    ``shape`` is that of the images it trains on, (C, H, W); the body has ``levels``, each of which
    begins with a squeeze, the first one only if ``squeezed``. With an ``encoder`` it is conditional
    on a low image (of half the size, or of the same where it models details); ``residual`` makes
    the body model the image minus the upsampled low one, a shift without log-determinant.
    With ``classes`` above 0 the label sets mean and deviation of the coarsest latent, and a linear
    read-out of that latent, before the label has touched it, gives class logits.

    An encoder that reads one channel more than the low image has is told there by how much the low
    image was disturbed (σ); without that channel it is told 0.

    Images and low images are floats in [−½, ½), details in (−2, 2); labels int64 (B,); all
    log-probabilities and log-determinants are (B,), in nats, of the continuous density.
    """

    def __init__(
        self,
        body: Bijection,
        shape: tuple[int, int, int],
        levels: int,
        classes: int = 0,
        encoder: Encoder | None = None,
        residual: bool = False,
        squeezed: bool = True,
    ):
        super().__init__()
        self.shape = shape
        self.levels = levels
        self.squeezed = squeezed
        self.classes = classes
        self.body = body
        self.encoder: Any = encoder  # or None
        self.residual = residual
        if classes:
            top, _ = self._peel(torch.empty(1, *shape))
            self.prior = ClassPrior(classes, top.shape[1])
            self.readout = nn.Linear(top.numel(), classes)

    def keep(self, memory: str) -> None:
        """What a backward pass finds kept of the forward one, from now on; the gradients stay.

        ``store`` all activations; ``checkpoint`` the inputs of nets and encoder blocks, which run
        again; ``reversible`` of each level's steps the output alone, from which the backward pass
        goes back step by step, and of injectors' nets and encoder blocks the inputs.
        """
        for module in self.modules():
            if isinstance(module, Steps):
                module.reversible = memory == "reversible"
            elif isinstance(module, Coupling):
                module.net.recompute = memory == "checkpoint"
            elif isinstance(module, Injections):
                module.net.recompute = memory != "store"
            elif isinstance(module, RRDB):
                module.recompute = memory != "store"

    def _condition(self, low: Tensor | None) -> tuple[Tensor, ...]:
        if self.encoder is None:
            return ()
        if low is None:
            raise InputError("this stage is conditional: give the low image")
        return self.encoder(low)

    def _centre(self, low: Any) -> Any:
        return upsampled(low[:, : self.shape[0]]) if self.residual else 0.0

    def _latent(self, x: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        """The body's output, before any label, and the log-determinant so far."""
        x = (x - self._centre(low)).contiguous(memory_format=torch.channels_last)
        return self.body(x, self._condition(low))

    def _peel(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        return peel(z, self.levels, self.squeezed)

    def _need(self, label: Tensor | None) -> Tensor:
        if label is None:
            raise InputError("this stage is class-conditional: give labels, or marginalise them")
        return label

    def encode(
        self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) → noise of the same shape, and the log-determinant (B,)."""
        z, log_det = self._latent(x, low)
        if not self.classes:
            return z, log_det
        top, rest = self._peel(z)
        top, change = self.prior(top, self._need(label))
        return unpeel(top, rest, self.squeezed), log_det + change

    def noise_of(self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The noise alone of `encode`."""
        return self.encode(x, low, label)[0]

    def decode(
        self, noise: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Noise (B, C, H, W) → images: the inverse of `encode`."""
        if self.classes:
            top, rest = self._peel(noise)
            noise = unpeel(self.prior.inverse(top, self._need(label)), rest, self.squeezed)
        noise = noise.contiguous(memory_format=torch.channels_last)
        x, _ = self.body.inverse(noise, self._condition(low))
        if not self.residual:
            return x
        (centre,) = for_each((self._centre(low),), x)
        return x + centre

    def sample(
        self, noise: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Images from standard normal ``noise``; scale the noise by a temperature beforehand.

        ``noise`` may be of n images for each low one, (n·B, C, H, W), those of one side by side:
        what the low image alone decides is then computed once for all n.
        """
        return self.decode(noise, low, label)

    def score(
        self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-density (B,) in nats, and class logits (B, classes) where there are classes.

        The read-out behind the logits takes images of the training size alone; `log_prob` takes
        any that the levels divide.
        """
        nats, top = self._log_prob(x, low, label)
        return nats, None if top is None else self.readout(top.flatten(1))

    def log_prob(self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """log p(x | low, label) in nats, (B,)."""
        return self._log_prob(x, low, label)[0]

    def _log_prob(
        self, x: Tensor, low: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-density (B,), and where there are classes the coarsest latent before the label."""
        z, log_det = self._latent(x, low)
        if not self.classes:
            return log_normal(z) + log_det, None
        top, rest = self._peel(z)
        whitened, change = self.prior(top, self._need(label))
        return log_normal(whitened) + sum(map(log_normal, rest)) + log_det + change, top

    def class_log_probs(self, x: Tensor, low: Tensor | None = None) -> Tensor:
        """log p(x | low, y) for every class y, (B, classes), in one pass through the body.

        An unconditional stage gives one column, which broadcasts over classes.
        """
        z, log_det = self._latent(x, low)
        if not self.classes:
            return (log_normal(z) + log_det)[:, None]
        top, rest = self._peel(z)
        shared = sum(map(log_normal, rest)) + log_det
        return self.prior.log_probs(top) + shared[:, None]


class StageLoss(nn.Module):
    """What training wraps: forward gives nats and class logits, so every parameter is inside."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(
        self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.flow.score(x, low, label)


def check_size(name: str, height: int, width: int, levels: int) -> None:
    """Raise unless ``levels`` halvings fit into the image."""
    step = 2**levels
    if height % step or width % step or height < step or width < step:
        raise InputError(
            f"a {levels}-level {name} needs sides divisible by {step} "
            f"({step}, {2 * step}, {3 * step}, ...), got {height}x{width}"
        )
