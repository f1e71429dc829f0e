"""Two neighbouring stages trained together, and with them the low image that is between them.

Of any map D' of images to smaller images of integers, P(x) ≥ P(D'(x))·P(x | D'(x)). Where D' is
fixed, the two factors share no weights, and training them together is training them apart. Here it
is learned (`stages.integers.downscaler`), so that the stages find a low image that suits them both.
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
from cascade.training.run_folder import StageFolder
from cascade.transforms.dequantise import log_volume
from cascade.utils.files import whole
from stages import Flow, InputError


class JointLoss(nn.Module):
    """The composed bound of a stage and the Glow ``below`` it, which training wraps.

    Args:
        flow: the stage's, with a downscaler.
        below: the Glow's, whose weights are trained along.
    """

    def __init__(self, flow: Flow, below: Flow):
        super().__init__()
        self.flow, self.below = flow, below

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
        downscaler = self.flow.downscaler
        adapted = downscaler(x, low)
        nats, logits = self.flow.score(x, adapted, label)
        place = x[..., ::2, ::2] * 2**downscaler.bits
        y = adapted + (place - place.floor() - 0.5) / 2**downscaler.bits
        more, others = self.below.score(y, None, label)
        known = [part for part in (logits, others) if part is not None]
        nats = nats + more - log_volume(y[0].numel(), downscaler.bits)
        return nats, torch.cat(known) if known else None

    def log_prob(self, x: Tensor, low: Tensor, label: Tensor | None = None) -> Tensor:
        """What `forward` gives first, alone."""
        return self.forward(x, low, label)[0]


class Below:
    """The Glow below a stage in training, which is trained along, and written beside it.

    ``stage`` is the Glow, ``folder`` where it is written, under the name that it has where it comes
    from.
    """

    def __init__(self, config: StageConfig, restart: bool = False):
        """Read the stage that ``train.joint`` names; of a run that goes on, what it left of it.

        Raises `InputError` where it is not one that a stage of ``config`` can be trained with, or
        where its folder is another stage's already.
        """
        source, out = str(config.train.joint), Path(config.out)
        self.folder = StageFolder(out.parent / Path(source).name)
        there = (self.folder.path / "model.safetensors").is_file()
        begun = any((out / "state").glob("step-*"))
        if there and not begun:
            raise InputError(
                f"{self.folder.path}, where the stage below would be written, is a stage already: "
                "use an out= in another folder"
            )
        goes_on = there and not restart
        stage = load_one(str(self.folder.path) if goes_on else source)
        try:
            check_chain([(stage.name, stage.config), (config.out, config)])
            _check(stage, config)
        except InputError as error:
            raise InputError(f"train.joint={source}: {error}") from None
        if not goes_on:
            settings = replace(stage.config, out=str(self.folder.path))
            stage = stage.replace(config=settings, record=replace(stage.record, start=stage.digest))
        stage.flow.train()
        self.stage, self.beside = stage, out.name

    def save(self, trained: nn.Module) -> None:
        """Write its folder, with the weights that were trained, those of a `JointLoss`."""
        assert isinstance(trained, JointLoss)
        self.stage.replace(flow=trained.below).save(self.folder.path)
        name = self.folder.path.name
        with whole(self.folder.path / "README.md") as aside:
            aside.write_text(
                f"# {name}\n\nA stage that was trained together with the one above it: see "
                f"[{self.beside}](../{self.beside}/README.md).\n",
                encoding="utf-8",
            )


def _check(stage: Stage, config: StageConfig) -> None:
    """Raise `InputError` for a stage below that joint training cannot train."""
    if stage.config.upsamples or stage.config.has_mixture:
        raise InputError(
            f"{stage.name} is an SRFlow or has a mixture, whose integers give the low image no "
            "gradient; name a Glow with model.first=none"
        )
    if stage.classes and not config.model.classes:
        raise InputError(f"{stage.name} has classes: set model.classes={stage.classes} here too")
