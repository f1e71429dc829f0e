"""What a GAN is trained by: logistic losses, a gradient penalty, distances of features.

Sources: non-saturating logistic losses, Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661;
R1, Mescheder et al., 2018, section 4.1, https://arxiv.org/abs/1801.04406; features normalised to
unit length, LPIPS, Zhang et al., 2018, section 3, https://arxiv.org/abs/1801.03924.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.evaluation.features import SCRIPT_FAULTS, load_script, reason_of
from cascade.utils.seeds import generator
from stages import InputError


def generator_loss(fake: Tensor) -> Tensor:
    """−log σ(D(fake)), the mean over logits."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(real)) − log(1 − σ(D(fake))), the means over logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """½·|∇D(real)|², the mean over images (B, C, H, W).

    D is the mean of an image's logits, of which the discriminator gives (B, n).
    """
    real = real.detach().requires_grad_()
    logits = discriminator(real).mean(1).sum()
    (gradient,) = torch.autograd.grad(logits, real, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def windows(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) cut into squares side by side, (B·n, C, side, side), an image's together.

    What is left over at the lower and the right border is not seen.
    """
    tiles = images.unfold(2, side, side).unfold(3, side, side)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def feature_distance(one: Tensor, two: Tensor) -> Tensor:
    """|f/|f| − g/|g||² of features (N, F), (N,): between 0 and 4."""
    return (F.normalize(one, dim=1) - F.normalize(two, dim=1)).square().sum(1)


class Guide:
    """A TorchScript net in whose features images are compared window by window, with gradients.

    It takes float32 (B, C, h, w) of values 0..255, and gives features (B, F).
    """

    def __init__(self, file: str | Path, side: int, device: torch.device):
        self.file, self.side = str(file), side
        self.net, self.digest = load_script(file, device)
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)

    def __call__(self, one: Tensor, two: Tensor, place: tuple[int, int] = (0, 0)) -> Tensor:
        """The mean distance of two images' windows, values in ±½; the first begins at ``place``.

        The gradient is that of ``one``. Raises `InputError` where the net cannot take them.
        """
        top, left = place
        mine, theirs = (windows(x[..., top:, left:], self.side) for x in (one, two))
        try:
            with torch.jit.optimized_execution(False):
                with torch.no_grad():
                    wanted = self.net((theirs + 0.5) * 255)
                return feature_distance(self.net((mine + 0.5) * 255), wanted).mean()
        except SCRIPT_FAULTS as error:
            shape = "x".join(map(str, mine.shape[1:]))
            raise InputError(
                f"{self.file} cannot take {shape} images: {reason_of(error)}"
            ) from None

    def place(self, size: int, seed: int, step: int) -> tuple[int, int]:
        """Where the first window of a training step begins, so that no pixel is always a border."""
        free = min(self.side, size - self.side + 1)
        drawn = torch.randint(free, (2,), generator=generator(seed, "window", step))
        return int(drawn[0]), int(drawn[1])
