"""Two neighbouring stages trained together, and with them the low image that is between them.

Of any map D' of images to smaller images of integers, P(x) ≥ P(D'(x))·P(x | D'(x)). Where D' is
fixed, the two factors share no weights, and training them together is training them apart. Here it
is learned (`stages.downscaler`), so that the stages find a low image that suits them both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade.config import StageConfig
from cascade.manifest import check_chain
from cascade.pretrained import load_one
from cascade.stage import Stage
from cascade.transforms.dequantise import centre, log_volume, quantise
from cascade.transforms.pyramid import halve
from stages import Flow, InputError

WEIGHTS = "model.safetensors"


class JointLoss(nn.Module):
    """The composed bound of a stage and the one ``below`` it, which training wraps.

    Args:
        flow: the stage's, with a downscaler.
        below: the stage below, whose weights are trained along.
    """

    def __init__(self, flow: Flow, below: Stage):
        super().__init__()
        self.flow, self.config = flow, below.config
        self.below: Flow = below.flow.train()
        if self.below.downscaler is not None:  # its low images stay as they are
            self.below.downscaler.requires_grad_(False)

    def forward(
        self, x: Tensor, low: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """log p(x | D'(x)) + log P(D'(x)) (B,), in nats, and class logits.

        Logits (B, classes) are of this stage, of the one below, or, if both have some, of both, one
        after the other, (2·B, classes). The low image's dequantisation noise is that of every
        second pixel of x.

        Args:
            x: dequantised images (B, C, H, W).
            low: bin centres of D(x), (B, C, H/2, W/2), from which D' starts.
            label: labels (B,), if a stage has classes.
        """
        bits = self.config.data.bits
        adapted = self.flow.downscaler(x, low)
        nats, logits = self.flow.score(x, adapted, label if self.flow.classes else None)
        place = x[..., ::2, ::2] * 2**bits
        y = adapted + (place - place.floor() - 0.5) / 2**bits
        lowest = None
        if self.config.upsamples:
            whole = halve(quantise(adapted.detach(), bits), bits, self.config.model.pyramid)
            lowest = centre(whole, x.dtype, bits)
            if self.below.downscaler is not None:
                lowest = self.below.downscaler(adapted.detach(), lowest)
        more, others = self.below.score(y, lowest, label if self.below.classes else None)
        known = [part for part in (logits, others) if part is not None]
        nats = nats + more - log_volume(y[0].numel(), bits)
        return nats, torch.cat(known) if known else None

    def log_prob(self, x: Tensor, low: Tensor, label: Tensor | None = None) -> Tensor:
        """What `forward` gives first, alone."""
        return self(x, low, label)[0]


class Below:
    """The ``stage`` below one in training, which is trained along, and written beside it.

    Its folder has the name that it had where it comes from.
    """

    def __init__(self, config: StageConfig):
        """Read the stage that ``train.joint`` names; of a run that goes on, what it left of it.

        Raises `InputError` where it is not one that a stage of ``config`` follows.
        """
        source = str(config.train.joint)
        self.folder = Path(config.out).parent / Path(source).name
        self.begun = (self.folder / WEIGHTS).is_file()
        stage = load_one(str(self.folder) if self.begun else source)
        try:
            check_chain([(stage.name, stage.config), (config.out, config)])
        except InputError as error:
            raise InputError(f"train.joint={source}: {error}") from None
        if not self.begun:
            out = replace(stage.config, out=str(self.folder))
            stage = stage.replace(config=out, record=replace(stage.record, start=stage.digest))
        self.stage = stage

    def begin(self) -> None:
        """Raise `InputError` where its folder is another stage's already."""
        if self.folder.exists():
            raise InputError(
                f"{self.folder}, where the stage below would be written, is there: use an out= in "
                "another folder"
            )

    def save(self, trained: nn.Module) -> None:
        """Write its folder, with the weights that were trained, those of a `JointLoss`."""
        assert isinstance(trained, JointLoss)
        self.folder.mkdir(exist_ok=True)
        self.stage.replace(flow=trained.below).save(self.folder)
