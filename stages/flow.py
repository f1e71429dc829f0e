"""A flow of one stage: log-densities of images in nats, latents of images, images from noise.

Source: Glow, https://arxiv.org/abs/1807.03039 (unconditional, class-conditional); SRFlow,
https://arxiv.org/abs/2006.14200 (conditional on a low-resolution image).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from stages.bijection import (
    Bijection,
    Cond,
    Identity,
    merge_latents,
    split_latents,
    squeeze,
    unsqueeze,
)
from stages.coupling import Coupling, InjectorNets, repeat_condition
from stages.encoder import RRDB, Encoder
from stages.errors import InputError
from stages.integers.downscaler import Downscaler
from stages.integers.mixture import LogisticMixture
from stages.integers.support import upsampled
from stages.labels import NO_LABEL
from stages.nets import ResidualBlock
from stages.prior import ClassPrior, SplitPrior, log_normal
from stages.steps import Steps


class Flow(nn.Module):
    """log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|, for a bijection f and the priors around it.

    Images and low images are floats in [−½, ½), Haar details in (−2, 2), labels int64 (B,), or
    multiples of what each class adds, floats (B, classes), see `stages.labels.ClassTable`. All
    log-densities and log-determinants are (B,), in nats, of the continuous density.

    With classes, the label determines mean and deviation of the coarsest latent (`ClassPrior`), and
    a linear layer predicts class logits from this latent, before `ClassPrior` is applied.

    A mixture may come first: it maps integers, whichever part of a bin was added to them, to noise,
    and the body models what is left of it. Without a body the log-density is exactly that of the
    integers' probabilities. The mixture's nets read the label in place of a `ClassPrior`; there are
    no class logits.

    An encoder may read one channel more than the low image has: the deviation σ of the noise by
    which the low image was disturbed. If the low image comes without this channel, σ is 0.

    Args:
        body: f, which maps images (B, C, H, W) to latents of the same shape.
        shape: (C, H, W) of the training images.
        levels: levels of the body; each begins with a squeeze and ends with a split, except that
            the last has no split.
        classes: number of classes; 0 is a flow without classes.
        encoder: computes the condition of the body from a low image, of half the size of the images
            (of the same size if the images are Haar details); None is an unconditional flow.
        residual: the body models the image minus the upsampled low image.
        squeezed: whether the first level begins with a squeeze.
        dequantiser: T, which moves each value within the bin of its integer (`Dequantiser`), before
            anything else; None leaves it where it is. With T, log p(x) is log p(T(x)) +
            log |det ∂T/∂x|.
        mixture: comes before the body, at the resolution of its first level; None for none.
        holes: what the encoder reads is as large as the image, and squeezed before: the image, of
            which some pixels are given, and one channel more, see `HoleSupport`.
        label_optional: whether the flow, if it has classes, may be used without labels.
        downscaler: makes the low images of images, None where something else makes them. It has no
            part in a density.
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
        dequantiser: Bijection | None = None,
        mixture: LogisticMixture | None = None,
        label_optional: bool = False,
        holes: bool = False,
        downscaler: Downscaler | None = None,
    ):
        super().__init__()
        self.shape = shape
        self.levels = levels
        self.squeezed, self.holes = squeezed, holes
        self.classes, self.label_optional = classes, label_optional
        self.dequantiser = dequantiser or Identity()
        self.mixture: Any = mixture  # or None
        self.body = body
        self.encoder: Any = encoder  # or None
        self.residual = residual
        self.downscaler: Any = downscaler  # or None
        if classes and mixture is None:
            top, _ = self._split_latents(torch.empty(1, *shape))
            self.prior = ClassPrior(classes, top.shape[1])
            self.readout = nn.Linear(top.numel(), classes)

    def set_activation_memory(self, mode: str) -> None:
        """Choose which activations are stored for the backward pass; gradients stay the same.

        Args:
            mode: ``store``: all. ``checkpoint``: the inputs of nets and encoder blocks, which the
                backward pass runs again. ``reversible``: the output of each level's steps, from
                which the backward pass reconstructs the others (`stages.reversible`), and the
                inputs of the injectors' nets and of encoder blocks.
        """
        for module in self.modules():
            if isinstance(module, Steps):
                module.reversible = mode == "reversible"
            elif isinstance(module, Coupling):
                module.net.recompute = mode == "checkpoint"
            elif isinstance(module, InjectorNets):
                module.net.recompute = mode != "store"
            elif isinstance(module, RRDB | ResidualBlock):
                module.recompute = mode != "store"

    @property
    def exact(self) -> bool:
        """Whether log-densities do not depend on the part of a bin that is added to integers."""
        return self.mixture is not None and isinstance(self.body, Identity)

    @property
    def has_prior(self) -> bool:
        """Whether the label is read by a `ClassPrior`."""
        return bool(self.classes) and self.mixture is None

    @property
    def bounded(self) -> bool:
        """Whether all noise makes values that images have."""
        return self.mixture is not None

    def _condition(self, low: Tensor | None) -> tuple[Tensor, ...]:
        if self.encoder is None:
            return ()
        if low is None:
            raise InputError("this stage is conditional: give the low image")
        return self.encoder(self._read(low))

    def _read(self, low: Tensor) -> Tensor:
        """The low image at the resolution of the first level."""
        return squeeze(low) if self.holes else low

    def _offset(self, low: Any) -> Any:
        """What is subtracted from the image before the body: an image, or 0."""
        return upsampled(low[:, : self.shape[0]]) if self.residual else 0.0

    def _latent(self, x: Tensor, low: Tensor | None, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of the body, before `ClassPrior`, and the log-determinant up to there."""
        condition = self._condition(low)
        x, moved = self.dequantiser(x, condition)
        if self.mixture is not None:
            given = self._given(self._hidden(condition, x), x, low, label)
            z, log_det = self._through_mixture(x, condition, given)
            return z, log_det + moved
        x = (x - self._offset(low)).contiguous(memory_format=torch.channels_last)
        z, log_det = self.body(x, condition)
        return z, log_det + moved

    def _through_mixture(
        self, x: Tensor, condition: tuple[Tensor, ...], given: Cond
    ) -> tuple[Tensor, Tensor]:
        z, log_det = self.mixture(self._to_level(x), given)
        z = z.contiguous(memory_format=torch.channels_last)
        z, change = self.body(self._from_level(z), condition)
        return z, log_det + change

    def _hidden(self, condition: tuple[Tensor, ...], like: Tensor) -> Tensor:
        """What of the mixture's condition all labels have in common."""
        return self.mixture.hidden(condition[0] if condition else None, self._to_level(like))

    def _given(
        self, hidden: Tensor, like: Tensor, low: Tensor | None, label: Tensor | None
    ) -> Cond:
        """The mixture's condition."""
        label = self._required(label, like) if self.classes else None
        low = self._read(low) if low is not None and self.encoder is not None else None
        return self.mixture.condition(hidden, self._to_level(like), low, label)

    def _to_level(self, x: Tensor) -> Tensor:
        return squeeze(x) if self.squeezed else x

    def _from_level(self, x: Tensor) -> Tensor:
        return unsqueeze(x) if self.squeezed else x

    def _split_latents(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        return split_latents(z, self.levels, self.squeezed)

    def _required(self, label: Tensor | None, like: Tensor) -> Tensor:
        if label is not None:
            return label
        if not self.label_optional:
            raise InputError("this stage is class-conditional: give labels, or marginalise them")
        return torch.full((len(like),), NO_LABEL, device=like.device)

    def encode(
        self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """z = f(x), (B, C, H, W), and log |det ∂f/∂x|, (B,) in nats.

        Raises:
            InputError: without a low image or labels, if the flow needs them.
        """
        z, log_det = self._latent(x, low, label)
        if not self.has_prior:
            return z, log_det
        top, rest = self._split_latents(z)
        top, change = self.prior(top, self._required(label, z))
        return merge_latents(top, rest, self.squeezed), log_det + change

    def noise_of(self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The latents of `encode` without the log-determinant."""
        return self.encode(x, low, label)[0]

    def decode(
        self, noise: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """x = f⁻¹(z), (B, C, H, W): the inverse of `encode`."""
        if self.has_prior:
            top, rest = self._split_latents(noise)
            label = self._required(label, noise)
            noise = merge_latents(self.prior.inverse(top, label), rest, self.squeezed)
        noise = noise.contiguous(memory_format=torch.channels_last)
        condition = self._condition(low)
        x, _ = self.body.inverse(noise, condition)
        if self.mixture is not None:
            given = self._given(self._hidden(condition, x), x, low, label)
            x = self._from_level(self.mixture.inverse(self._to_level(x), given)[0])
        if self.residual:
            (offset,) = repeat_condition((self._offset(low),), x)
            x = x + offset
        return self.dequantiser.inverse(x, condition)[0]

    def sample(
        self, noise: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Images (n·B, C, H, W) from standard normal noise of the same shape.

        Args:
            noise: multiply it by a temperature beforehand to sample at this temperature.
            low: low images (B, C, h, w). ``noise`` holds n samples for each, stored one after the
                other; everything that depends on the low image alone is computed once for all n.
            label: labels of the n·B images.
        """
        return self.decode(noise, low, label)

    def score(
        self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """log p(x | low, label) (B,) in nats, and class logits (B, classes), None without classes.

        The linear layer of the logits needs images of the training size; `log_prob` takes images of
        any size that the levels divide.
        """
        nats, top = self._log_prob(x, low, label)
        return nats, None if top is None else self.readout(top.flatten(1))

    def log_prob(self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """log p(x | low, label), (B,) in nats."""
        return self._log_prob(x, low, label)[0]

    def _log_prob(
        self, x: Tensor, low: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The log-density, and before a `ClassPrior` the coarsest latent."""
        if self.exact:
            hidden = self._hidden(self._condition(low), x)
            return self.mixture.log_prob(
                self._to_level(x), self._given(hidden, x, low, label)
            ), None
        z, log_det = self._latent(x, low, label)
        if not self.has_prior:
            return log_normal(z) + log_det, None
        top, rest = self._split_latents(z)
        normal, change = self.prior(top, self._required(label, z))
        return log_normal(normal) + sum(map(log_normal, rest)) + log_det + change, top

    def unlabelled_log_probs(self, x: Tensor, low: Tensor | None = None) -> Tensor:
        """log p(x | low) in nats without a label, (B, 1), which broadcasts over classes."""
        return self.log_prob(x, low)[:, None]

    def class_log_probs(self, x: Tensor, low: Tensor | None = None) -> Tensor:
        """log p(x | low, y) in nats for every class y, (B, classes).

        In one pass through the body, or, where a mixture's nets read the label, in a pass a class
        through mixture and body, but a single one through the encoder. A flow without classes gives
        one column, which broadcasts over classes.
        """
        if not self.classes:
            return self.unlabelled_log_probs(x, low)
        if self.mixture is not None:
            return self._mixture_log_probs(x, low)
        z, log_det = self._latent(x, low, None)
        top, rest = self._split_latents(z)
        shared = sum(map(log_normal, rest)) + log_det
        return self.prior.log_probs(top) + shared[:, None]

    def _mixture_log_probs(self, x: Tensor, low: Tensor | None) -> Tensor:
        condition = self._condition(low)
        x, moved = self.dequantiser(x, condition)
        hidden = self._hidden(condition, x)
        columns = []
        for y in range(self.classes):
            given = self._given(hidden, x, low, torch.full((len(x),), y, device=x.device))
            if self.exact:
                columns.append(self.mixture.log_prob(self._to_level(x), given))
            else:
                z, log_det = self._through_mixture(x, condition, given)
                columns.append(log_normal(z) + log_det + moved)
        return torch.stack(columns, dim=1)


class StageLoss(nn.Module):
    """The module that training wraps: `forward` is `Flow.score`, which uses every parameter."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(
        self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.flow.score(x, low, label)

    def log_prob(self, x: Tensor, low: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """What `forward` gives first, alone."""
        return self.flow.log_prob(x, low, label)


def without_priors(flow: Flow) -> Flow:
    """A flow with `Identity` in place of every prior, of split-off halves and classes.

    Its latents are not divided by the predicted deviations, so noise that is added to them has the
    same scale for all. It shares the weights of ``flow``, and takes labels only for a mixture.
    """
    weights = {id(tensor): tensor for tensor in (*flow.parameters(), *flow.buffers())}
    bare = deepcopy(flow, weights)
    if flow.has_prior:
        bare.classes = 0
    for module in list(bare.modules()):
        for name, part in module.named_children():
            if isinstance(part, SplitPrior):
                setattr(module, name, Identity())
    return bare


def check_size(name: str, height: int, width: int, levels: int) -> None:
    """Check that an image can be squeezed ``levels`` times.

    Raises:
        InputError: if height or width is not divisible by 2^levels.
    """
    step = 2**levels
    if height % step or width % step or height < step or width < step:
        raise InputError(
            f"a {levels}-level {name} needs sides divisible by {step} "
            f"({step}, {2 * step}, {3 * step}, ...), got {height}x{width}"
        )
