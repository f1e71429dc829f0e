"""Enlarge a photo: python tools/upscale.py runs/photos/srf2x photo.png --num 4 --out out/"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from cascade import InputError
from cascade.commands.shared import cli
from cascade.evaluation.image_metrics import bicubic, psnr_between
from cascade.figures.grid import save_grid
from cascade.labels import label_named
from cascade.photos.photo import Photo
from cascade.photos.tiling import TILING, Tiling, count_tiles
from cascade.photos.typicality import recorded_bpd, typicality
from cascade.photos.upscaling import (
    check,
    cropped,
    doubler_folders,
    load_doublers,
    low_psnr,
    lowered,
    upscale,
)
from cascade.pretrained import find_model
from cascade.stage import Stage, per_stage

MOST = 10_000  # samples of a photo
BYTES = 8  # held of a sample's pixel, at most: twice three values, and what is being written
SHOWN = 128  # side of what a sheet shows of each image


def main() -> None:
    args = parse()
    cli.check_picture(args.sheet)
    scale, photo, truth = cli.temperatures(args.temperature), Photo.open(args.photo), None
    folders = doubler_folders(find_model(args.run), args.factor, cli.stages_of(args))
    check_cost(photo, args)
    stem = f"{Path(args.photo).stem}-x{args.factor}"
    files = [str(Path(args.out) / f"{stem}-{i}.png") for i in range(args.num)]
    cli.check_outputs([*files, args.sheet, args.json], args.force)
    stages = load_doublers(folders, cli.device_of(args))
    if args.halve:
        truth = cropped(photo.pixels(stages[0].shape[0]), args.factor)
        photo = Photo.of(lowered(stages, truth))
    low = photo.pixels(stages[0].shape[0])
    tiling = Tiling(args.tile, args.overlap)
    label = None if args.label is None else label_of(stages, args.label)
    check(stages, low, label, tiling)
    per_stage(scale, len(stages))
    judged = judge(stages[0], folders[0], low, label)
    started = time.perf_counter()
    with Progress(console=cli.console, transient=True) as bar:
        total = args.num * count_tiles(stages, low.shape[1], low.shape[2], tiling)
        task = bar.add_task("enlarging", total=total)
        images = upscale(
            stages, low, args.num, scale, args.seed, label, tiling,
            partial(bar.advance, task),
        )  # fmt: skip
    result = {
        "run": args.run,
        "stages": [stage.name for stage in stages],
        "photo": args.photo,
        "factor": args.factor,
        "seed": args.seed,
        "temperature": scale,
        "tile": args.tile,
        "overlap": args.overlap,
        "seconds": time.perf_counter() - started,
        **judged,
        **measure(stages, low, images, truth),
    }
    for image, file in zip(images, files, strict=True):
        photo.enlarged(image).save(file)
    if args.sheet:
        save_sheet(low, images, truth, args.sheet)
    if args.json:
        cli.write_json(result, args.json)
    show(result, files)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_run_arguments(parser)
    parser.add_argument("photo", help="an image file of any size, mode and format")
    parser.add_argument("--factor", type=int, default=2, help="2 by one stage, 4 by two, ...")
    parser.add_argument("--num", type=cli.positive, default=1, help="samples to draw")
    parser.add_argument("--temperature", default="0.8", help="one number, or one a stage: 0.8,0.7")
    parser.add_argument("--label", help="class, by name or number, of class-conditional stages")
    parser.add_argument("--tile", type=int, default=TILING.tile, help="side of a tile, enlarged")
    parser.add_argument(
        "--overlap", type=int, default=TILING.overlap, help="what a tile sees beyond its sides"
    )
    parser.add_argument(
        "--halve", action="store_true", help="enlarge the photo's halved copy, and compare"
    )
    parser.add_argument("--sheet", help="also draw a detail of everything, side by side")
    parser.add_argument("--out", default="out", help="folder to write to")
    return parser.parse_args()


def check_cost(photo: Photo, args: argparse.Namespace) -> None:
    """Raise `InputError` for more samples than can be held, before any of them is made."""
    if args.num > MOST:
        raise InputError(f"--num is at most {MOST:,} samples of a photo, got {args.num:,}")
    height, width = photo.size
    pixels = height * width * (1 if args.halve else args.factor**2)
    cli.check_memory(BYTES * args.num * pixels, f"{args.num:,} samples of {pixels:,} pixels")


def label_of(stages: list[Stage], text: str) -> int:
    """The label that --label gives, of the class-conditional stages."""
    names = next((stage.class_names for stage in stages if stage.classes), None)
    if names is None:
        raise InputError("--label was given, but no stage uses labels")
    return label_named(text, names)


def judge(stage: Stage, folder: Path, low: Tensor, label: int | None) -> dict[str, Any]:
    """Say how the stage finds the photo's own pair, and warn where it finds it unusual."""
    result = typicality(stage, low, label)
    if result is None:
        cli.say(f"note: too small a photo for {stage.name} to judge")
        return {}
    recorded = recorded_bpd(folder)
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
    stages: list[Stage], low: Tensor, images: Tensor, truth: Tensor | None
) -> dict[str, Any]:
    """How well each sample halves to the low image, and how near it is to the true one."""
    result: dict[str, Any] = {"lr_psnr": [low_psnr(stages, image, low) for image in images]}
    if truth is not None:
        result["psnr"] = [psnr_between(image, truth) for image in images]
        result["cubic_psnr"] = psnr_between(bicubic(low, truth.shape[1] // low.shape[1]), truth)
    return result


def show(result: dict[str, Any], files: list[str]) -> None:
    for i, file in enumerate(files):
        truth = f", PSNR {result['psnr'][i]:.2f} dB" if "psnr" in result else ""
        cli.say(f"{file}: LR-PSNR {result['lr_psnr'][i]:.2f} dB{truth}")
    if "psnr" in result:
        cli.say(f"cubic interpolation: PSNR {result['cubic_psnr']:.2f} dB")
    cli.say(f"{result['seconds']:.1f} s for {len(files)} samples")


def save_sheet(low: Tensor, images: Tensor, truth: Tensor | None, file: str) -> None:
    """The middle of the low image, of its cubic interpolation, the samples, and the true image."""
    factor = images.shape[2] // low.shape[1]
    repeated = low.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    shown: Any = [repeated, bicubic(low, factor), *images]
    shown = torch.stack(shown if truth is None else [*shown, truth])
    tall, wide = (min(SHOWN, side) for side in shown.shape[2:])
    top, left = (shown.shape[2] - tall) // 2, (shown.shape[3] - wide) // 2
    save_grid(shown[:, :, top : top + tall, left : left + wide], file, len(shown))
