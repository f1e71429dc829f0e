"""Images into a lossless archive: csrflow compress IMAGES... --model digits-lossless --out FILE"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.progress import Progress

from cascade import Cascade
from cascade.codec.archive import MOST_TILES
from cascade.codec.blocks import range_coder
from cascade.codec.compression import BLOCK, compress
from cascade.codec.fixed_stages import check_codable
from cascade.codec.pictures import find_images
from cascade.commands.shared import cli
from cascade.pretrained import find_model
from cascade.utils.workers import ending_on_sigterm, usual_processes
from stages import InputError

WORTH_PROCESSES = 2**20  # bytes of image files: what processes take to begin is lost on fewer


def main() -> None:
    args = parse()
    cli.check_outputs([args.out, args.json], args.force)
    range_coder()
    if args.block > MOST_TILES:
        raise InputError(f"--block is at most {MOST_TILES}")
    folder = find_model(args.model)
    cascade = Cascade.load(folder)
    check_codable(cascade)
    files = find_images(args.images)
    if Path(args.out).resolve() in {file.resolve() for file in files.values()}:
        raise InputError(f"--out {args.out} is one of the images: give the archive another name")
    large = sum(file.stat().st_size for file in files.values()) >= WORTH_PROCESSES
    count = args.processes or (usual_processes() if large else 1)
    started = time.perf_counter()
    with ending_on_sigterm(), Progress(console=cli.console, transient=True) as bar:
        task = bar.add_task("compressing", total=len(files))
        sizes = compress(
            files, cascade, args.model, folder, Path(args.out), args.block, args.verify, count,
            lambda images: bar.advance(task, images),
        )  # fmt: skip
    seconds = time.perf_counter() - started
    result = {
        "model": args.model,
        "images": sizes.images,
        "values": sizes.values,
        "bytes": sizes.blocks + sizes.rest,
        "blocks": sizes.blocks,
        "rest": sizes.rest,
        "bpd": sizes.bits_per_value,
        "verified": args.verify,
        "seconds": seconds,
    }
    if args.json:
        cli.write_json(result, args.json)
    checked = ", verified" if args.verify else ""
    cli.say(
        f"{args.out}: {sizes.images:,} images, {result['bytes']:,} bytes ({sizes.rest:,} of them "
        f"names, sizes and checksums), {sizes.bits_per_value:.3f} bits/dim{checked}"
    )
    cli.say(f"{seconds:.1f} s, {sizes.images / seconds:.1f} images/s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", help="image files, and folders of them")
    parser.add_argument("--model", required=True, help=cli.RUN)
    parser.add_argument("--out", required=True, help="the archive")
    parser.add_argument(
        "--block", type=cli.positive, default=BLOCK, metavar="N",
        help=f"tiles of the model's size that are coded together (default: {BLOCK})",
    )  # fmt: skip
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True,
        help="decode every block, and compare it with the images",
    )  # fmt: skip
    parser.add_argument("--processes", type=cli.positive, help="that work at once")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()
