"""What is said, measured and drawn of a photo's enlargements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.commands.shared import cli
from cascade.commands.shared.display_scores import say_judges
from cascade.evaluation.enlargements.no_reference import NAMES, Judge, origins, scores_of
from cascade.figures.grid import save_grid
from cascade.photos.canvas import Canvas, Pixels
from cascade.photos.deviation import Range, draw_deviation
from cascade.photos.fidelity import cubic, cubic_psnr, image_psnr, low_psnr
from cascade.photos.photo import Photo
from cascade.photos.typicality import recorded_bpd, typicality
from cascade.stage import Stage

SHOWN = 128  # side of what a sheet shows of each image


def judge(stage: Stage, folder: Path, low: Tensor, label: int | None) -> dict[str, Any]:
    """Say how the stage finds the photo's own pair, and warn where it finds it unusual."""
    result = typicality(stage, low, label)
    if result is None:
        cli.say(f"note: too small a photo for {stage.name} to judge")
        return {}
    both = stage.config.train.joint is not None  # what was recorded is the figure of two stages
    recorded = None if both else recorded_bpd(folder)
    beside = "" if recorded is None else f" ({recorded:.3f} held out in training)"
    cli.say(
        f"the photo itself: {result.bpd:.3f} bits/dim under {stage.name}{beside}, "
        f"{result.surprise:+.3f} beside samples"
    )
    if not result.usual:
        cli.say(
            "note: this photo lies far outside what the stage was trained on: it has "
            + ("more detail" if result.surprise > 0 else "less detail")
            + " than the stage's samples of the same low image"
        )
    return {"bpd": result.bpd, "bpd_recorded": recorded, "surprise": result.surprise}


def measure(
    stages: list[Stage], low: Tensor, images: Sequence[Canvas], truth: Tensor | None
) -> dict[str, Any]:
    """How well each sample halves to the low image, and how near it is to the true one."""
    result: dict[str, Any] = {"lr_psnr": [low_psnr(stages, image, low) for image in images]}
    if truth is not None:
        result["psnr"] = [image_psnr(image, truth) for image in images]
        result["cubic_psnr"] = cubic_psnr(low, truth)
    return result


def without_reference(
    judges: Sequence[Judge], low: Tensor, images: Sequence[Canvas], truth: Tensor | None
) -> dict[str, Any]:
    """Scores of each sample alone, of the cubic interpolation, and of the true image."""
    whole = range(images[0].shape[1])
    return {
        "samples": [scores_of(image[:], judges) for image in images],
        "cubic": scores_of(cubic(low, images[0], whole), judges),
        **({} if truth is None else {"real": scores_of(truth, judges)}),
        "files": origins(judges),
    }


def show(result: dict[str, Any], files: list[str], map_file: str | None) -> None:
    alone = result.get("no_reference", {"samples": [{}] * len(files), "cubic": {}, "files": {}})
    for i, file in enumerate(files):
        psnr = {"PSNR": result["psnr"][i]} if "psnr" in result else {}
        of_pair = {"LR-PSNR": result["lr_psnr"][i]} | psnr
        said = [f"{name} {decibels:.2f} dB" for name, decibels in of_pair.items()]
        cli.say(f"{file}: {', '.join([*said, *listed(alone['samples'][i])])}")
    said = [f"PSNR {result['cubic_psnr']:.2f} dB"] if "psnr" in result else []
    said += listed(alone["cubic"])
    if said:
        cli.say(f"cubic interpolation: {', '.join(said)}")
    if "real" in alone:
        cli.say(f"the photo itself: {', '.join(listed(alone['real']))}")
    say_judges(alone["files"])
    if map_file:
        found = result["deviation"]
        cli.say(
            f"{map_file}: deviation over samples, in grey levels: {found['mean']:.2f} in the mean, "
            f"black is 0, white {found['largest']:.2f}"
        )
    cli.say(f"{result['seconds']:.1f} s for {len(files)} samples")


def listed(scores: dict[str, float]) -> list[str]:
    return [f"{NAMES[key]} {value:.2f}" for key, value in scores.items()]


def save_deviation(images: Sequence[Canvas], work: Path, file: str) -> Range:
    """Write how far samples differ as a grey picture."""
    canvas = Canvas(work / "deviation", (1, *images[0].shape[1:]))
    result = draw_deviation(images, canvas)
    Photo.of(canvas).save(file)
    return result


def save_sheet(low: Tensor, images: Sequence[Canvas], truth: Tensor | None, file: str) -> None:
    """The middle of the low image, of its cubic interpolation, the samples, and the true image."""
    height, width = images[0].shape[1:]
    factor, tall, wide = height // low.shape[1], min(SHOWN, height), min(SHOWN, width)
    top, left = (height - tall) // 2, (width - wide) // 2
    rows, columns = range(top, top + tall), slice(left, left + wide)
    places = torch.arange(top, top + tall) // factor
    repeated = low[:, places][:, :, torch.arange(left, left + wide) // factor]
    shown = [repeated, cubic(low, images[0], rows)[:, :, columns]]
    others: list[Pixels] = [*images] if truth is None else [*images, truth]
    shown += [image[:, top : top + tall, columns] for image in others]
    save_grid(torch.stack(shown), file, len(shown))
