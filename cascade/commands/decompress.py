"""Images out of an archive: csrflow decompress FILE --out FOLDER"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from cascade import Cascade
from cascade.codec.archive import Archive
from cascade.codec.blocks import range_coder
from cascade.codec.compression import check_weights, decompress
from cascade.codec.fixed_stages import check_codable
from cascade.commands.shared import cli
from cascade.pretrained import find_model, shipped_models
from cascade.utils.workers import ending_on_sigterm, usual_processes
from stages import InputError

WORTH_PROCESSES = 2**18  # bytes of an archive: what processes take to begin is lost on fewer


def main() -> None:
    args = parse()
    archive = Archive(args.archive)
    names = [entry.name for entry in archive.index.files]
    if args.list:
        show(archive)
        return
    if args.out is None:
        raise InputError("name a folder to write to by --out, or pass --list")
    if unknown := set(args.only or ()) - set(names):
        raise InputError(f"{args.archive} holds no {min(unknown)}: --list shows its images")
    names = args.only or names
    out = Path(args.out)
    range_coder()
    cli.check_outputs([str(out / name) for name in names], args.force)
    folder = find_model(args.model or named(archive))
    cascade = Cascade.load(folder)
    check_weights(archive, cascade)
    check_codable(cascade)
    large = Path(args.archive).stat().st_size >= WORTH_PROCESSES
    count = args.processes or (usual_processes() if large else 1)
    started = time.perf_counter()
    with ending_on_sigterm(), Progress(console=cli.console, transient=True) as bar:
        task = bar.add_task("decompressing", total=len(names))
        decompress(
            archive, cascade, folder, out, names, count, lambda images: bar.advance(task, images)
        )
    seconds = time.perf_counter() - started
    cli.say(f"{out}: {len(names):,} images, {seconds:.1f} s, {len(names) / seconds:.1f} images/s")


def named(archive: Archive) -> str:
    """The model that an archive names, if it comes with the package: no other name is trusted."""
    name = archive.index.model
    if name not in shipped_models():
        raise InputError(
            f"{archive.file} was made with a model named {name!r}, which does not come with the "
            "package: name it by --model"
        )
    return name


def show(archive: Archive) -> None:
    """Print what an archive holds."""
    index = archive.index
    cli.say(f"{len(index.files):,} images, compressed with {index.model}, csrflow {index.version}")
    table = Table("image", "mode", "size")
    for entry in index.files:
        table.add_row(cli.one_line(entry.name), entry.mode, f"{entry.width}x{entry.height}")
    cli.say(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", help="what csrflow compress wrote")
    parser.add_argument("--out", help="folder to write the images to, as PNG files")
    parser.add_argument("--model", help="that made it, if it does not come with the package")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="images to take out, not all")
    parser.add_argument("--list", action="store_true", help="show what it holds, and end")
    parser.add_argument("--processes", type=cli.positive, help="that work at once")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()
