"""What good photos are like: python tools/pristine.py photos/ --out pristine.safetensors"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cascade import InputError
from cascade.commands.shared import cli
from cascade.data.decoding import UNREADABLE, decode
from cascade.data.folders import EXTENSIONS
from cascade.evaluation.enlargements.niqe import PATCH, Pristine


def main() -> None:
    args = parse()
    cli.check_outputs([args.out], args.force)
    files = photos(args.photos)
    Pristine.fit(images(files), args.patch).save(args.out)
    digest = Pristine.load(args.out).digest
    cli.say(f"{args.out}: {len(files)} photos, patches of {args.patch}x{args.patch}")
    cli.say(f"SHA-256 {digest}")


def photos(places: Sequence[str]) -> list[Path]:
    """The files that are named, and all images in folders, in order of their names."""
    found = []
    for place in map(Path, places):
        inner = sorted(p for p in place.rglob("*") if p.suffix.lower() in EXTENSIONS)
        found += inner if place.is_dir() else [place]
    if not found:
        raise InputError(f"{', '.join(places)} hold no images")
    return found


def images(files: Sequence[Path]) -> Iterator[Tensor]:
    """Their pixels, uint8 (3, h, w), one after the other."""
    for file in files:
        try:
            yield decode(file, 3, None, None)
        except UNREADABLE as error:
            raise InputError(f"cannot read image {file}: {error}") from None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "--out", required=True, metavar="FILE.safetensors", help="where to write the model"
    )
    parser.add_argument(
        "--patch", type=cli.positive, default=PATCH,
        help=f"side of a patch, pixels (default: {PATCH}); an image needs two to be scored",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()
