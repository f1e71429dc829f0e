"""What a stage trains, one phase after another, and what each phase minimises.

An SRFlow's encoder may first be trained alone, as a super-resolution net, or as one that guesses
chroma from luma (``encoder``), then stay as it is while the flow is trained around it (``frozen``),
then be trained along (``all``), as any Glow is from the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from cascade.config import StageConfig
from cascade.data.batches import Batch
from cascade.transforms.dequantise import density_bpd
from stages import Flow
from stages.encoder import SuperResolution
from stages.labels import NO_LABEL


@dataclass(frozen=True)
class Phase:
    """One of ``encoder``, ``frozen`` and ``all``, and the step at which it ends."""

    name: str
    end: int


def phases(config: StageConfig) -> list[Phase]:
    """The phases of a run, in order; those of no steps are left out, but for the last."""
    pretrain, frozen = config.train.pretrain_steps, config.train.frozen_steps
    last = Phase("all", pretrain + config.train.steps)
    result = [Phase("encoder", pretrain), Phase("frozen", pretrain + frozen)]
    starts = (0, pretrain)
    return [p for p, start in zip(result, starts, strict=True) if p.end > start] + [last]


def super_resolution(flow: Flow, config: StageConfig) -> SuperResolution:
    """The net that trains a flow's encoder: it predicts what the flow models, chroma too."""
    doubles = config.upsamples and config.model.pyramid == "bicubic"
    return SuperResolution(flow.encoder, flow.shape[0], doubles)


def encoder_loss(
    module: nn.Module, batch: Batch, config: StageConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 between what the low images predict and the target."""
    l1 = F.l1_loss(module(batch.low).float(), batch.target)
    return l1, {"l1": l1.detach()}


def flow_loss(
    module: nn.Module, batch: Batch, config: StageConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Bits/dim, plus the weighted loss of the class read-out where there are classes."""
    model = config.model
    nats, logits = module(*batch.parts)
    bpd = density_bpd(nats, batch.target, config.data.bits).mean() / config.share
    class_loss = bpd.new_zeros(())
    if logits is not None:
        assert batch.label is not None
        stages = len(logits) // len(batch.label)  # two, in joint training
        class_loss = stages * classification(logits, batch.label.repeat(stages), model.class_loss)
        class_loss = class_loss / (1 - config.train.label_dropout)
    result = {"bpd": bpd.detach(), "class_loss": class_loss.detach()}
    return bpd + model.class_weight * class_loss, result


def classification(logits: Tensor, label: Tensor, kind: str) -> Tensor:
    """The loss on the class read-out: binary (the thesis) or softmax (Glow) cross-entropy.

    The mean over all images, to which those without a label add 0: so parts of a batch have the
    gradients of the whole, whichever of its labels are left out.
    """
    if kind == "softmax":
        summed = F.cross_entropy(logits, label, ignore_index=NO_LABEL, reduction="sum")
        return summed / len(label)
    known = (label != NO_LABEL)[:, None].to(logits.dtype)
    one_hot = F.one_hot(label.clamp(min=0), logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, one_hot, weight=known)
