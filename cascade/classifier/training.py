"""Training of a classifier on labelled images, its accuracy, and its features as a file."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.transforms import v2

from cascade.classifier.resnet import feature_net
from cascade.data.sources import ImageSource
from cascade.utils.chunks import LARGE
from cascade.utils.files import whole
from stages import InputError

RATE = 0.1  # the greatest learning rate, of batches of 128
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Schedule:
    """How a classifier is trained: passes over the images, width of the net, images a step."""

    epochs: int = 12
    width: int = 24
    batch: int = 128
    seed: int = 0
    flip: bool = False

    def steps(self, count: int) -> int:
        """All steps on ``count`` images: those of an epoch that fill no batch are left out."""
        return self.epochs * (count // min(self.batch, count))


@dataclass
class Classifier:
    """``features`` of images (B, C, H, W) of values 0..255, and the ``logits`` of classes."""

    features: nn.Module
    logits: nn.Module
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """The classes' logits (B, K) of uint8 images."""
        return self.logits(self.features(self.placed(images)))

    def placed(self, images: Tensor) -> Tensor:
        """Images as the net reads them."""
        return images.to(self.device).float().contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def accuracy(self, source: ImageSource) -> float:
        """The share of a source's images that are told to be of their own class."""
        right = 0
        for rows in torch.arange(len(source)).split(LARGE):
            images, labels = _batch(source, rows)
            right += int((self(images).argmax(1).cpu() == labels).sum())
        return right / len(source)

    def save(self, file: str | Path) -> str:
        """Write the features' net as TorchScript, whole or not at all; its file's SHA-256.

        It takes float32 (B, C, H, W) of values 0..255, of any size, and gives (B, F). The net moves
        to the CPU.
        """
        buffer = io.BytesIO()  # saved under a name, a file would hold the name
        with warnings.catch_warnings():  # TorchScript is the format that scores read
            warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
            warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
            script = torch.jit.script(self.features.cpu().eval())
            # frozen, or it would hold methods in an order that Python's hashes decide
            torch.jit.save(torch.jit.freeze(script), buffer)
        with whole(file) as aside:
            aside.write_bytes(buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()


def check_labels(name: str, split: str, source: ImageSource) -> None:
    """Raise `InputError` unless the images of a split have labels of two classes or more."""
    if source.labels is None:
        raise InputError(
            f"the {split} images of {name} have no labels: features come of telling classes apart"
        )
    if split == "train" and len(source.labels.unique()) < 2:
        raise InputError(f"the training images of {name} are of one class: it takes two or more")


def train(
    source: ImageSource, schedule: Schedule, device: str | torch.device, watch: Watch
) -> Classifier:
    """A classifier of a source's images, which have labels of two classes or more.

    By stochastic gradient descent with Nesterov momentum, along one cycle of the learning rate
    (Smith and Topin, 2018), against smoothed labels. Images are shifted by up to an eighth of
    their side, and with ``schedule.flip`` every other one is mirrored. ``watch`` is told of each
    step's number, from 1, and the share of its images that were told apart. The result is a
    function of images, schedule, device and number of threads.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices), exact:
        torch.manual_seed(schedule.seed % 2**63)
        result = _fresh(source, schedule, device)
        _fit(result, source, schedule, watch)
    result.features.eval()
    return result


def _fresh(source: ImageSource, schedule: Schedule, device: torch.device) -> Classifier:
    assert source.labels is not None
    features = feature_net(source.shape[0], schedule.width)
    logits = nn.Linear(4 * schedule.width, int(source.labels.max()) + 1)
    features.to(device).to(memory_format=torch.channels_last)
    return Classifier(features, logits.to(device), device)


def _fit(net: Classifier, source: ImageSource, schedule: Schedule, watch: Watch) -> None:
    batch = min(schedule.batch, len(source))
    rate = RATE * batch / 128
    weights = [*net.features.parameters(), *net.logits.parameters()]
    optimizer = torch.optim.SGD(weights, rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cycle = OneCycleLR(optimizer, rate, total_steps=schedule.steps(len(source)))
    disturb, step = _disturb(source, schedule.flip), 0
    for _ in range(schedule.epochs):
        for rows in _epoch(len(source), batch):
            images, labels = _batch(source, rows)
            labels, step = labels.to(net.device), step + 1
            guess = net(torch.stack([disturb(image) for image in images]))
            loss = F.cross_entropy(guess, labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            watch(step, (guess.argmax(1) == labels).float().mean().item())


def _disturb(source: ImageSource, flip: bool) -> v2.Transform:
    """Shifts by up to an eighth of the images' side, and mirrors if told."""
    _, height, width = source.shape
    shift = v2.RandomCrop((height, width), (width // 8, height // 8), padding_mode="reflect")
    return v2.Compose([shift, v2.RandomHorizontalFlip()]) if flip else shift


def _epoch(count: int, batch: int) -> list[Tensor]:
    """The batches of one pass over all images, by chance; what fills no batch is left out."""
    order = torch.randperm(count)
    return list(order[: count - count % batch].split(batch))


def _batch(source: ImageSource, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The images of a source at ``rows``, uint8, and their labels."""
    assert source.labels is not None
    return source.read(rows), source.labels[rows]
