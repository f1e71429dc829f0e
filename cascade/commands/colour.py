"""Colour grey photos: python tools/colour.py runs/colour/photos photo.png --num 4 --out out/"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade import InputError
from cascade.commands.shared import cli
from cascade.conditions.colouring import bytes_of, check_colours, colourings, colours_bpd
from cascade.figures.grid import save_grid
from cascade.labels import label_named
from cascade.manifest import stage_folders
from cascade.photos.photo import FORMATS, Photo
from cascade.pretrained import find_model
from cascade.stage import Stage, load_stage, per_stage
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
    stage = load_colours(args.run, cli.device_of(args))
    label = None if args.label is None else label_named(args.label, names_of(stage))
    for photo in photos:
        cli.check_memory(bytes_of(stage, *photo.size), "photos as large", "give smaller ones")
    results, shown = [], []
    for photo, file, names in zip(photos, args.photos, files, strict=True):
        started = time.perf_counter()
        pixels = photo.pixels(3)
        luma, chroma = colour.split(pixels)
        images = colourings(stage, luma, args.num, label, temperature, args.seed)
        result: dict[str, Any] = {"photo": file, "spread": spread(images)}
        if chroma.any():
            result["bpd"] = colours_bpd(stage, pixels, label, args.seed)
        result["seconds"] = time.perf_counter() - started
        for image, name in zip(images, names, strict=True):
            photo.recoloured(image).save(name)
        shown.append(torch.stack([luma.expand(3, -1, -1), *images, *[pixels] * bool(chroma.any())]))
        results.append(result)
        show(result, names)
    if args.sheet:
        save_sheet(shown, args.sheet)
    if args.json:
        settings = {"run": args.run, "seed": args.seed, "temperature": temperature, "num": args.num}
        cli.write_json({**settings, "label": label, "photos": results}, args.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a stage of kind colour, or a hub's owner/repository")
    parser.add_argument("photos", nargs="+", help="image files of any size, mode and format")
    parser.add_argument("--num", type=cli.positive, default=1, help="versions of each")
    parser.add_argument("--temperature", default="0.8")
    parser.add_argument("--label", help="class, by name or number, for a stage with classes")
    parser.add_argument("--out", default=".", help="folder to write to")
    parser.add_argument("--format", choices=tuple(FORMATS), default="png")
    parser.add_argument("--sheet", help="also write luma, versions and truth as one picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()


def load_colours(run: str, device: str | torch.device) -> Stage:
    """The stage of kind colour of a name; `InputError` where it is another."""
    folders, _ = stage_folders(find_model(run))
    if len(folders) > 1:
        raise InputError(f"{run} is a cascade: colours come from one stage, of kind colour")
    stage = load_stage(folders[0], device)
    check_colours(stage)
    return stage


def names_of(stage: Stage) -> list[str]:
    if not stage.classes:
        raise InputError(f"--label was given, but {stage.name} uses no labels")
    return stage.class_names


def spread(images: Tensor) -> float:
    """The mean deviation of a value between versions uint8 (n, 3, H, W), in grey levels."""
    return images.double().std(0, correction=0).mean().item()


def show(result: dict[str, Any], files: list[str]) -> None:
    own = f"; its own colours take {result['bpd']:.3f} bits/dim" if "bpd" in result else ""
    more = f" to {Path(files[-1]).name}" * (len(files) > 1)
    cli.say(
        f"{files[0]}{more}: spread {result['spread']:.1f} grey levels{own}; "
        f"{result['seconds']:.1f} s"
    )


def save_sheet(rows: list[Tensor], file: str) -> None:
    """A row a photo; smaller ones are filled up with black, at the right and below."""
    columns = max(map(len, rows))
    height, width = (max(row.shape[side] for row in rows) for side in (2, 3))
    canvas = torch.zeros(len(rows), columns, 3, height, width, dtype=torch.uint8)
    for place, row in zip(canvas, rows, strict=True):
        place[: len(row), :, : row.shape[2], : row.shape[3]] = row
    save_grid(canvas.flatten(0, 1), file, columns)
