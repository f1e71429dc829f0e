"""Train a net whose features scores compare: python tools/features.py cifar10 --out cifar10.pt"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cascade.classifier.training import Classifier, Schedule, check_labels, train
from cascade.commands.shared import cli
from cascade.commands.shared.images import add_reading_arguments
from cascade.data.named import open_data_set
from cascade.data.sources import ImageSource
from stages import InputError

SCORED = ("validation", "test")  # splits whose images are told apart afterwards


def main() -> None:
    args = parse()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("features trains in one process: run it without a launcher")
    if args.batch < 2:
        raise InputError("--batch 1 is too few: batch normalisation takes two images or more")
    cli.check_outputs([args.out, args.json], args.force)
    device = cli.device_of(args)
    sources = open_labelled(args)
    schedule = Schedule(args.epochs, args.width, args.batch, args.seed, args.flip)
    started = time.perf_counter()
    classifier = trained(sources["train"], schedule, device)
    result = {
        "accuracy": {split: classifier.accuracy(sources[split]) for split in SCORED},
        "features": 4 * args.width,
        "sha256": classifier.save(args.out),
        "seconds": time.perf_counter() - started,
        **origin(sources, schedule, device, args),
    }
    show(result)
    if args.json:
        cli.write_json(result, args.json)


def open_labelled(args: argparse.Namespace) -> dict[str, ImageSource]:
    """The splits to train and to score with; `InputError` where they have no labels."""
    splits = open_data_set(
        args.data, args.channels, args.resize, args.skip_bad, args.root, f"{args.root}/cache"
    )
    sources = {split: splits(split) for split in ("train", *SCORED)}
    for split, source in sources.items():
        check_labels(args.data, split, source)
    return sources


def origin(
    sources: dict[str, ImageSource],
    schedule: Schedule,
    device: str | torch.device,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What it takes to train the same net again."""
    source = sources["train"]
    return {
        "out": args.out,
        "data": args.data,
        **({"data_version": source.version} if source.version else {}),
        "channels": args.channels,
        "resize": args.resize,
        "images": {split: len(source) for split, source in sources.items()},
        "skipped": len(getattr(source, "skipped", ())),
        **asdict(schedule),
        "device": torch.device(device).type,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("csrflow", "torch", "torchvision")},
    }


def show(result: dict[str, Any]) -> None:
    """What came of it, in lines."""
    if result["skipped"]:
        cli.say(f"unreadable images left out: {result['skipped']}")
    for split, share in result["accuracy"].items():
        cli.say(f"{share:.2%} of {result['images'][split]:,} {split} images told apart")
    where = f"{result['seconds']:.0f} s, {result['device']}, {result['threads']} threads"
    cli.say(f"{result['out']}: {result['features']} features ({where})")
    cli.say(f"SHA-256 {result['sha256']}")


def trained(source: ImageSource, schedule: Schedule, device: str | torch.device) -> Classifier:
    """A classifier of the source's images; a bar shows how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("steps, {task.fields[right]:.0%} of the last told apart,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=cli.console, transient=True) as bar:
        task = bar.add_task("training", total=schedule.steps(len(source)), right=0.0)
        recent = 0.0

        def watch(step: int, right: float) -> None:
            nonlocal recent
            recent += (right - recent) / min(step, 50)
            bar.update(task, completed=step, right=recent)

        return train(source, schedule, device, watch)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="labelled data set, folder, .npz or hf:NAME")
    parser.add_argument("--out", required=True, metavar="FILE.pt", help="where to write the net")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="of its images")
    add_reading_arguments(parser)
    usual = Schedule()
    parser.add_argument(
        "--epochs", type=cli.positive, default=usual.epochs, help="passes over the training images"
    )
    parser.add_argument(
        "--width", type=cli.positive, default=usual.width, help="of the net: 4 features each"
    )
    parser.add_argument("--batch", type=cli.positive, default=usual.batch, help="images a step")
    parser.add_argument("--flip", action="store_true", help="mirror every other training image")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()
