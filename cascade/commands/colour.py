"""Colour grey photos: python tools/colour.py runs/colour/photos photo.png --num 4 --out out/"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from cascade.commands.shared import cli, completing
from cascade.conditions.colouring import bytes_of, check_colours, colourings, colours_bpd
from cascade.photos.photo import Photo
from cascade.pretrained import load_one
from cascade.stage import per_stage
from cascade.transforms import colour


def main() -> None:
    args = parse()
    cli.check_picture(args.sheet)
    (temperature,) = per_stage(cli.temperatures(args.temperature), 1)
    photos = [Photo.open(file) for file in args.photos]
    stems = [Path(args.out) / Path(photo).stem for photo in args.photos]
    files = [[f"{stem}-{i}.{args.format}" for i in range(args.num)] for stem in stems]
    every = [file for names in files for file in names]
    cli.check_outputs([*every, args.sheet, args.json], args.force)
    stage = load_one(args.run, cli.device_of(args))
    check_colours(stage)
    label = completing.label_of(stage, args.label)
    for photo in photos:
        cli.check_memory(bytes_of(stage, *photo.size), "photos as large", "give smaller ones")
    results, shown = [], []
    for photo, file, names in zip(photos, args.photos, files, strict=True):
        started = time.perf_counter()
        pixels = photo.pixels(3)
        luma, chroma = colour.split(pixels)
        images = colourings(stage, luma, args.num, label, temperature, args.seed)
        result: dict[str, Any] = {"photo": file, "spread": completing.spread(images)}
        if chroma.any():
            result["bpd"] = colours_bpd(stage, pixels, label, args.seed)
        result["seconds"] = time.perf_counter() - started
        for image, name in zip(images, names, strict=True):
            photo.recoloured(image).save(name)
        shown.append(torch.stack([luma.expand(3, -1, -1), *images, *[pixels] * bool(chroma.any())]))
        results.append(result)
        show(result, names)
    if args.sheet:
        completing.save_sheet(shown, args.sheet)
    if args.json:
        settings = {"run": args.run, "seed": args.seed, "temperature": temperature, "num": args.num}
        cli.write_json({**settings, "label": label, "photos": results}, args.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a stage of kind colour, or a hub's owner/repository")
    parser.add_argument("photos", nargs="+", help="image files of any size, mode and format")
    completing.add_arguments(parser)
    return parser.parse_args()


def show(result: dict[str, Any], files: list[str]) -> None:
    own = [f"its own colours take {result['bpd']:.3f} bits/dim"] if "bpd" in result else []
    more = f" to {Path(files[-1]).name}" * (len(files) > 1)
    completing.say(f"{files[0]}{more}", own, result)
