"""Fill a part of a photo: python tools/inpaint.py runs/inpaint/mnist5k digit.png --mask mask.png"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from cascade.commands.shared import cli, completing
from cascade.conditions.inpainting import check_holes, completions, hole_bpd
from cascade.photos.photo import Photo
from cascade.pretrained import load_one
from cascade.stage import per_stage

WHITE = 128  # from here on a pixel of the mask is missing


def main() -> None:
    args = parse()
    cli.check_picture(args.sheet)
    (temperature,) = per_stage(cli.temperatures(args.temperature), 1)
    photo, mask = Photo.open(args.photo), Photo.open(args.mask)
    stem = Path(args.out) / Path(args.photo).stem
    files = [f"{stem}-{i}.{args.format}" for i in range(args.num)]
    cli.check_outputs([*files, args.sheet, args.json], args.force)
    stage = load_one(args.run, cli.device_of(args))
    check_holes(stage)
    label = completing.label_of(stage, args.label)
    pixels, hole = photo.pixels(stage.shape[0]), mask.pixels(1)[0] >= WHITE
    started = time.perf_counter()
    images = completions(stage, pixels, hole, args.num, label, temperature, args.seed)
    result = {
        "photo": args.photo,
        "mask": args.mask,
        "missing": int(hole.sum()),
        "spread": completing.spread(images[:, :, hole]),
        "bpd": hole_bpd(stage, pixels, hole, label, args.seed),
        "seconds": time.perf_counter() - started,
    }
    for image, file in zip(images, files, strict=True):
        photo.enlarged(image).save(file)
    if args.sheet:
        given = pixels.masked_fill(hole, WHITE)
        row = torch.stack([given, *images, pixels]).expand(-1, 3, -1, -1)
        completing.save_sheet([row], args.sheet)
    if args.json:
        settings = {"run": args.run, "seed": args.seed, "temperature": temperature, "num": args.num}
        cli.write_json({**settings, "label": label, **result}, args.json)
    own = f"those that were there take {result['bpd']:.3f} bits/dim"
    completing.say(", ".join(files), [f"{result['missing']} pixels filled", own], result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a stage of kind inpaint, or a hub's repository")
    parser.add_argument("photo", help="an image file of any size, mode and format")
    parser.add_argument("--mask", required=True, help="of its size: white is what is to be filled")
    completing.add_arguments(parser)
    return parser.parse_args()
