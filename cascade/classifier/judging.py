"""How samples of classes look to a classifier: as what they were asked to be, and how different."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.classifier.training import Classifier
from cascade.utils.chunks import LARGE


@dataclass(frozen=True)
class Judgement:
    """The share of images taken for their label's class, and how far those of a class are apart.

    ``diversity`` is the mean distance between the features of two images of one class, over all
    pairs of a class, then over classes.
    """

    accuracy: float
    diversity: float


@torch.no_grad()
def judge(net: Classifier, images: Tensor, labels: Tensor) -> Judgement:
    """What a classifier makes of uint8 images (N, C, H, W), at least two of each label (N,)."""
    features = torch.cat([net.features(net.placed(part)) for part in images.split(LARGE)])
    right = net.logits(features).argmax(1).cpu() == labels
    apart = [torch.pdist(features[(labels == y).to(net.device)]).mean() for y in labels.unique()]
    return Judgement(right.double().mean().item(), torch.stack(apart).mean().item())
