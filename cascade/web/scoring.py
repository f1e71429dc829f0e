"""What a cascade thinks of images: bits, where they are spent, classes, how usual that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.data.decoding import UNREADABLE, decode
from cascade.data.downsampled import open_downsampled
from cascade.data.folders import image_files
from cascade.data.hub import PREFIX
from cascade.data.named import BUILT_IN, PACKAGED, open_images
from cascade.data.splits import part_by_name
from cascade.data.stage_images import check_images
from cascade.evaluation.bits_by_position import spent
from cascade.evaluation.codecs import SETTINGS, file_bpd
from cascade.figures.heatmap import save_heatmaps
from cascade.likelihood import Report
from cascade.percentiles import Usual
from cascade.transforms.dequantise import bits_per_dim
from cascade.utils.seeds import generator
from stages import InputError

USUAL = 64  # images that others are ranked among
LIKELY = 2  # classes shown of each image


def usual(cascade: Cascade, own: bool = True) -> Usual:
    """Held-out images of the cascade's data set, where it lies on this machine, or its samples.

    Nothing is downloaded for it, and where the cascade is not one's ``own`` no file is read that
    its configuration names.
    """
    try:
        images, name = _held_out(cascade, own), cascade.stages[-1].config.data.name
        what = f"{len(images)} held-out images of {Path(name).name}"
    except (InputError, OSError):
        images = cascade.sample(USUAL, seed=0)
        what = f"{USUAL} of the model's own samples, as no held-out images are at hand"
    return Usual(cascade.likelihood(images).image_bpd, what)


def _held_out(cascade: Cascade, own: bool) -> Tensor:
    data, folder = cascade.stages[-1].config.data, Path(cascade.stages[-1].config.data.name)
    elsewhere = data.name in BUILT_IN and data.name not in PACKAGED
    if data.split == "all" or elsewhere or data.name.startswith(PREFIX):
        raise InputError(f"none of {data.name} was held out, or it might be downloaded")
    if data.name not in PACKAGED and not own:
        raise InputError(f"{data.name} is named by a configuration that may be anyone's")
    if folder.is_dir() and open_downsampled(folder, data.channels, data.skip_bad, None) is None:
        images = _of_folder(folder, data.channels, data.resize)
    else:
        bad, root = data.skip_bad, data.root
        source = open_images(data.name, "test", data.channels, data.resize, bad, root)
        images = source.read(_some(len(source)))
    channels, height, width = images[0].shape
    check_images(cascade.stages[-1].name, data.size, data.name, (channels, height, width))
    return cascade.resize(images)


def _some(count: int) -> Tensor:
    """Places of the images that others are ranked among."""
    return torch.randperm(count, generator=generator("usual"))[:USUAL]


def _of_folder(folder: Path, channels: int, resize: int | None) -> Tensor:
    """Some of a folder's test images; no other one is decoded, as opening it all would do."""
    files = image_files(folder)
    places = part_by_name([file.relative_to(folder).as_posix() for file in files], "test")
    try:
        chosen = [files[i] for i in places[_some(len(places))].tolist()]
        images = [decode(file, channels, resize, None) for file in chosen]
    except UNREADABLE as error:
        raise InputError(f"an image of {folder} cannot be read: {error}") from None
    if len({image.shape for image in images}) != 1:
        raise InputError(f"{folder} has no test images, or some of different sizes")
    return torch.stack(images)


@dataclass(frozen=True)
class Scores:
    """The figures of N images: the cascade's report, and bits/dim as files of each format."""

    report: Report
    files: dict[str, Tensor]

    def rows(self, names: Sequence[str], usual: Usual, classes: Sequence[str]) -> list[list[str]]:
        """A row an image, with what `columns` names; the stages' are shares of the bits/dim."""
        report = self.report
        shares = bits_per_dim(report.nats, report.dimensions)
        result = []
        for i, bpd in enumerate(report.image_bpd.tolist()):
            files = (f"{self.files[codec][i]:.3f}" for codec in self.files)
            stages = (f"{share:.3f}" for share in shares[i].tolist())
            likely = [] if report.posterior is None else [self._classes(i, classes)]
            place = f"{usual.percentile(bpd):.0f}"
            result.append([names[i], f"{bpd:.3f}", place, *likely, *files, *stages])
        return result

    def _classes(self, row: int, names: Sequence[str]) -> str:
        assert self.report.posterior is not None
        share, label = self.report.posterior[row].exp().topk(min(LIKELY, len(names)))
        pairs = zip(share.tolist(), label.tolist(), strict=True)
        return ", ".join(f"{names[y]} ({p:.1%})" for p, y in pairs if p >= 0.001)


def columns(cascade: Cascade) -> list[str]:
    """Names of the columns of a cascade's scores."""
    names = [stage.name for stage in cascade.stages]
    classes = ["classes"] if cascade.classes > 1 else []
    return ["image", "bits/dim", "percentile", *classes, *SETTINGS, *names]


def score(cascade: Cascade, images: Tensor) -> Scores:
    """The figures of images uint8 (N, C, H, W), classes summed over."""
    files = {codec: file_bpd(images, codec) for codec in SETTINGS}
    return Scores(cascade.likelihood(images), files)


def save_maps(cascade: Cascade, images: Tensor, report: Report, file: str | Path) -> None:
    """Write where each stage spends bits on each image, see `save_heatmaps`.

    Where there are classes, given each image's most likely one.
    """
    labels = None if report.posterior is None else report.posterior.argmax(1)
    maps = spent(cascade, images, labels)
    save_heatmaps(images, maps, report.names, report.image_bpd, file)
