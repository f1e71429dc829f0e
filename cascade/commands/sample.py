"""Draw a grid of samples: python tools/sample.py runs/mnist5k --num 100 --out grid.png"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from rich.progress import Progress
from torch import Tensor

from cascade import Cascade, InputError
from cascade.commands.shared import cli, processes
from cascade.commands.shared.display import clip_line, on_device
from cascade.figures.grid import save_grid
from cascade.labels import label_named
from cascade.sample_checks import clip_rates
from cascade.stage import per_stage
from cascade.utils.distributed import spread
from cascade.utils.files import whole
from cascade.utils.non_finite import NONE_FINITE

WIDEST = 20  # images in a row of the grid


def main() -> None:
    args = parse()
    cli.check_outputs([args.out, args.npz, args.json], args.force)
    cli.check_picture(args.out)
    temperature = cli.temperatures(args.temperature)
    args.device = cli.device_of(args)
    cli.use_one_core(args.device)
    count = processes.wanted(args, args.device)
    cascade = cli.load_cascade(args)
    per_stage(temperature, len(cascade.stages))
    cascade.check_guidance(args.guidance)
    cli.check_memory(4 * args.num * math.prod(cascade.shape), f"{args.num:,} samples")
    rows = class_rows(cascade, args.classes, args.num)
    labels: Any = rows and cascade.needed_labels(
        [label for label, n in rows for _ in range(n)], args.num
    )
    chunks = -(-args.num // cascade.chunk)
    processes.run(min(count, chunks), partial(sample, cascade, args, rows, labels, temperature))


def sample(
    cascade: Cascade,
    args: argparse.Namespace,
    rows: list[tuple[int, int]] | None,
    labels: Tensor | None,
    temperature: list[float],
) -> None:
    """Draw all samples, by the processes that share them; the first writes them."""
    state = cli.process_state(args.device)
    started = time.perf_counter()
    images, failed, clipped = draw(cascade, args, labels, temperature, state)
    if not state.is_main_process:
        return
    speed = args.num / (time.perf_counter() - started)
    if failed == args.num and not args.allow_not_finite:
        raise InputError(f"{NONE_FINITE}; --allow-not-finite writes them all the same")
    save_rows(images, rows, cascade.class_names, args.out)
    if args.npz:
        save_npz(images, labels, args.npz)
    result = {
        "run": args.run,
        "stages": [stage.name for stage in cascade.stages],
        "num": args.num,
        "seed": args.seed,
        "temperature": temperature,
        "classes": args.classes,
        "guidance": args.guidance,
        "device": torch.device(args.device).type,
        "chunk": cascade.chunk,
        "processes": state.num_processes,
        "images_per_s": speed,
        "not_finite": failed,
        "clipped": clipped,
        "out": args.out,
    }
    if args.json:
        cli.write_json(result, args.json)
    drawn = f"{args.num} samples, {speed:.1f} images/s ({on_device(result)})"
    cli.say(f"{args.out}: {drawn}, {failed} not finite")
    if not cascade.bounded:
        cli.say(clip_line(clipped))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_cascade_arguments(parser)
    processes.add_argument(parser)
    parser.add_argument("--num", type=cli.positive, default=100)
    parser.add_argument(
        "--classes", help="draw these classes, a row each: cat,dog or 3,5 (default: all)"
    )
    parser.add_argument("--temperature", default="1.0", help="one number, or one a stage: 0.9,0.8")
    parser.add_argument(
        "--guidance", type=float, default=1.0, metavar="W",
        help="multiply what classes add: 0 is without labels, above 1 exaggerates them",
    )  # fmt: skip
    parser.add_argument("--out", default="grid.png", help="picture to write")
    parser.add_argument("--npz", help="also write images (N, H, W, C) and labels to this file")
    parser.add_argument(
        "--allow-not-finite", action="store_true", help="write samples though none is finite"
    )
    return parser.parse_args()


def class_rows(cascade: Cascade, classes: str | None, num: int) -> list[tuple[int, int]] | None:
    """The rows of the picture: the label of each, and how many samples it has."""
    if not cascade.classes:
        if classes:
            raise InputError("--classes was given, but no stage of this cascade uses labels")
        return None
    chosen = list(range(cascade.classes))
    if classes:
        chosen = [label_named(part.strip(), cascade.class_names) for part in classes.split(",")]
    if classes and num < len(chosen):
        raise InputError(f"--classes names {len(chosen)} rows, --num {num} is too few to fill them")
    unlabelled = [stage.name for stage in cascade.stages if not stage.classes]
    if unlabelled:
        cli.say(f"labels are ignored by the unconditional {', '.join(unlabelled)}")
    ends = [-(-i * num // len(chosen)) for i in range(len(chosen) + 1)]
    counts = [last - first for first, last in itertools.pairwise(ends)]
    return [(label, count) for label, count in zip(chosen, counts, strict=True) if count]


def draw(
    cascade: Cascade,
    args: argparse.Namespace,
    labels: Tensor | None,
    temperature: list[float],
    state: PartialState,
) -> tuple[Tensor, int, dict[str, Any]]:
    """Samples, how many were not finite, and how often they were clipped."""

    def rows_of(first: int, number: int) -> list[Tensor]:
        part = None if labels is None else labels[first : first + number]
        result = cascade.draw(number, part, temperature, args.seed, first, args.guidance)
        return [result.images[-1], result.finite.byte()[:, None], result.clipped]

    with Progress(console=cli.console, transient=True, disable=not state.is_main_process) as bar:
        task = bar.add_task("sampling", total=args.num)
        images, finite, clipped = spread(
            rows_of, args.num, cascade.chunk, state, lambda count: bar.advance(task, count)
        )
    names = [stage.name for stage in cascade.stages]
    return images, int((finite == 0).sum()), clip_rates(clipped, names)


def save_rows(
    images: Tensor, rows: list[tuple[int, int]] | None, names: Sequence[str], file: str
) -> None:
    """A square grid, or with labels one named class a row (more rows where a class has many)."""
    if rows is None:
        save_grid(images, file, min(math.ceil(math.sqrt(len(images))), WIDEST))
        return
    groups = images.split([count for _, count in rows])
    columns = min(max(map(len, groups)), WIDEST)
    padded = [torch.cat([g, g.new_zeros(-len(g) % columns, *g.shape[1:])]) for g in groups]
    captions = []
    for (label, _), group in zip(rows, padded, strict=True):
        captions += [names[label]] + [""] * (len(group) // columns - 1)
    save_grid(torch.cat(padded), file, columns, captions)


def save_npz(images: Tensor, labels: Tensor | None, file: str) -> None:
    arrays: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).numpy()}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with whole(file) as aside, open(aside, "wb") as handle:
        np.savez_compressed(handle, **arrays)
