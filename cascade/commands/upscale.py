"""Enlarge a photo: python tools/upscale.py runs/photos/srf2x photo.png --num 4 --out out/"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import psutil
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from cascade import InputError
from cascade.commands.shared import cli, judging
from cascade.commands.shared.upscaling_report import (
    judge,
    measure,
    save_deviation,
    save_sheet,
    show,
    without_reference,
)
from cascade.labels import label_named
from cascade.photos.canvas import Canvas
from cascade.photos.fidelity import cropped, lowered
from cascade.photos.photo import FORMATS, Photo
from cascade.photos.strips import Decode, Sample, TileDecoder
from cascade.photos.tiling import TILING, Tiling, count_tiles
from cascade.photos.upscaling import check, doubler_folders, enlarge, load_decoder, load_doublers
from cascade.photos.work_folder import interrupted, work_folder
from cascade.pretrained import find_model
from cascade.stage import Stage, per_stage
from cascade.utils.seeds import image_digest
from cascade.utils.workers import Workers, ending_on_sigterm, one_thread, usual_processes

MOST = 10_000  # samples of a photo
WHILE_WRITTEN = 24  # bytes that Pillow holds of a pixel, at most
WHILE_JUDGED = 300  # bytes that scores of a picture alone hold of a pixel, about
WORTH_A_PROCESS = 8  # tiles: what one takes to begin is lost on fewer


def main() -> None:
    args = parse()
    cli.check_picture(args.sheet)
    alone = judging.judges_of(args)
    scale, photo, truth = cli.temperatures(args.temperature), Photo.open(args.photo), None
    folders = doubler_folders(find_model(args.run), args.factor, cli.stages_of(args))
    check_cost(photo, args)
    stem = f"{Path(args.photo).stem}-x{args.factor}"
    files = [str(Path(args.out) / f"{stem}-{i}.{args.format}") for i in range(args.num)]
    map_file = str(Path(args.out) / f"{stem}-deviation.png") if args.deviation else None
    work = Path(args.out) / f"{stem}.part"
    resuming = args.resume and interrupted(work)
    cli.check_outputs([*files, map_file, args.sheet, args.json], args.force or resuming)
    device = cli.device_of(args)
    stages = load_doublers(folders, device)
    if args.halve:
        truth = cropped(photo.pixels(stages[0].shape[0]), args.factor)
        photo = Photo.of(lowered(stages, truth))
    low = photo.pixels(stages[0].shape[0])
    tiling = Tiling(args.tile, args.overlap)
    label = None if args.label is None else label_of(stages, args.label)
    check(stages, low, label, tiling)
    temperatures = per_stage(scale, len(stages))
    judged = judge(stages[0], folders[0], low, label)
    settings = {
        "photo": image_digest(low),
        "stages": [stage.digest for stage in stages],
        "device": str(device),
        "seed": args.seed,
        "temperature": temperatures,
        "label": label,
        "tile": args.tile,
        "overlap": args.overlap,
    }
    samples = [Sample(args.seed, i, temperatures, label) for i in range(args.num)]
    started = time.perf_counter()
    with (
        ending_on_sigterm(),
        saying_what_is_kept(work),
        work_folder(work, settings, args.resume, args.force),
    ):
        images = draw(args, folders, stages, low, samples, tiling, work)
        seconds = time.perf_counter() - started
        measured = measure(stages, low, images, truth)
        if alone:
            measured["no_reference"] = without_reference(alone, low, images, truth)
        for image, file in zip(images, files, strict=True):
            photo.enlarged(image).save(file)
        if map_file:
            measured["deviation"] = asdict(save_deviation(images, work, map_file))
        if args.sheet:
            save_sheet(low, images, truth, args.sheet)
    result = {
        "run": args.run,
        "stages": [stage.name for stage in stages],
        "photo": args.photo,
        "factor": args.factor,
        "seed": args.seed,
        "temperature": scale,
        "tile": args.tile,
        "overlap": args.overlap,
        "seconds": seconds,
        **judged,
        **measured,
    }
    if args.json:
        cli.write_json(result, args.json)
    show(result, files, map_file)


def draw(
    args: argparse.Namespace,
    folders: Sequence[Path],
    stages: Sequence[Stage],
    low: Tensor,
    samples: Sequence[Sample],
    tiling: Tiling,
    work: Path,
) -> list[Canvas]:
    """Every sample, one after the other, as a file of the work folder."""
    total = len(samples) * count_tiles(stages, low.shape[1], low.shape[2], tiling)
    with decoder(args, folders, stages, total) as decode, progress_bar() as bar:
        advance = partial(bar.advance, bar.add_task("", total=total))
        return [enlarge(stages, low, sample, work, tiling, decode, advance) for sample in samples]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_run_arguments(parser, nargs="?")
    parser.add_argument("--model", help="the same, by a word of its own")
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
        "--processes", type=cli.positive,
        help="that share the tiles; one for each core unless CSRFLOW_PROCESSES says otherwise, one "
        "on a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true", help="continue a run that was interrupted, if there is one"
    )
    parser.add_argument(
        "--halve", action="store_true", help="enlarge the photo's halved copy, and compare"
    )
    judging.add_arguments(parser)
    parser.add_argument(
        "--deviation", action="store_true", help="also draw how far the samples differ"
    )
    parser.add_argument("--sheet", help="also draw a detail of everything, side by side")
    parser.add_argument("--out", default="out", help="folder to write to")
    parser.add_argument("--format", choices=list(FORMATS), default="png", help="of the files")
    args = parser.parse_args()
    if (args.run is None) == (args.model is None):
        raise InputError("name the model once: upscale MODEL PHOTO, or PHOTO --model MODEL")
    args.run = args.run or args.model
    return args


def check_cost(photo: Photo, args: argparse.Namespace) -> None:
    """Raise `InputError` for what cannot be held or written, before any of it is made."""
    if args.num > MOST:
        raise InputError(f"--num is at most {MOST:,} samples of a photo, got {args.num:,}")
    if args.deviation and args.num < 2:
        raise InputError("--deviation is that of several samples: pass --num 2 or more")
    sides = [side * (1 if args.halve else args.factor) for side in photo.size]
    if max(sides) > FORMATS[args.format].longest:
        raise InputError(
            f"a {args.format} file is at most {FORMATS[args.format].longest:,} pixels long, this "
            f"one would be {max(sides):,}: choose another --format"
        )
    pixels = sides[0] * sides[1]
    alone = args.niqe or args.brisque or args.piqe
    needed = (WHILE_JUDGED if alone else WHILE_WRITTEN) * pixels
    cli.check_memory(needed, f"{pixels:,} pixels", "lower --factor")
    out = Path(args.out).absolute()
    free = psutil.disk_usage(str(next(p for p in (out, *out.parents) if p.exists()))).free
    values = args.num * len(photo.picture.getbands()) + args.deviation
    needed = 2 * values * pixels  # as values, and as files
    if needed > free:
        raise InputError(
            f"{args.num:,} samples of {pixels:,} pixels take up to {needed / 2**30:,.0f} GiB in "
            f"{args.out}, {free / 2**30:,.0f} GiB are free: lower --num"
        )


@contextmanager
def saying_what_is_kept(work: Path) -> Iterator[None]:
    """Where an interruption leaves something to continue from, say so."""
    try:
        yield
    except BaseException:
        if interrupted(work):
            cli.say(f"note: {work} keeps what is done; the same command with --resume continues")
        raise


@contextmanager
def decoder(
    args: argparse.Namespace, folders: Sequence[Path], stages: Sequence[Stage], tiles: int
) -> Iterator[Decode]:
    """What makes tiles: this process, or several others; each with one thread, to the same bits."""
    device = next(stages[0].flow.parameters()).device.type
    usual = min(usual_processes(), tiles // WORTH_A_PROCESS) if device == "cpu" else 1
    count = args.processes or max(1, usual)
    if count == 1:
        with one_thread():
            yield TileDecoder(stages).map
        return
    with Workers(count, load_decoder, folders, device) as workers:
        yield workers.map


def progress_bar() -> Progress:
    return Progress(
        TextColumn("enlarging"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=cli.console,
        transient=True,
    )


def label_of(stages: list[Stage], text: str) -> int:
    """The label that --label gives, of the class-conditional stages."""
    names = next((stage.class_names for stage in stages if stage.classes), None)
    if names is None:
        raise InputError("--label was given, but no stage uses labels")
    return label_named(text, names)
