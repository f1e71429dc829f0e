"""Figures of cascades and runs: python tools/figures.py reconstructions runs/mnist5k --out r.png"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

from cascade import InputError
from cascade.commands.shared import cli
from cascade.commands.shared.figures_of_images import (
    draw_interpolation,
    draw_neighbours,
    draw_samples,
    draw_temperatures,
    draw_versions,
    draw_walk,
)
from cascade.commands.shared.figures_of_measurements import (
    draw_conditions,
    draw_failures,
    draw_guidance,
    draw_reconstructions,
    draw_stability,
    draw_training,
)
from cascade.config.sigma import LARGEST
from cascade.data import SPLITS
from cascade.utils.files import CSV, whole

MOVING = (".gif", ".webp")
FIGURES = {
    "reconstructions": (draw_reconstructions, "a stage's images as noise on latents rises"),
    "failures": (draw_failures, "noisy reconstructions that failed, through training"),
    "conditions": (draw_conditions, "a stage's bits/dim given disturbed low images"),
    "stability": (draw_stability, "failed samples by temperature"),
    "guidance": (draw_guidance, "samples, and how a classifier sees them, as guidance rises"),
    "training": (draw_training, "bits/dim through the training of every stage of a folder"),
    "samples": (draw_samples, "every stage's image; of several cascades, the same noise"),
    "versions": (draw_versions, "many high images for one low image"),
    "temperatures": (draw_temperatures, "samples as each stage's temperature rises"),
    "interpolation": (draw_interpolation, "from real images to others, in latent space"),
    "walk": (draw_walk, "a closed random walk in latent space, a GIF or WebP"),
    "neighbours": (draw_neighbours, "samples and the training images nearest to them"),
}
OF_LOGS = {"failures": "stage folders trained with watch_sigmas", "training": "a cascade folder"}
OF_SEVERAL = ("failures", "conditions", "samples", "stability")
NUM: dict[str, tuple[Any, str]] = {
    "conditions": (256, "images"),
    "guidance": (1000, "samples at each strength"),
    "interpolation": (3, "pairs of images"),
    "neighbours": (200, "samples; 8 are shown"),
    "reconstructions": (8, "images"),
    "samples": (12, "samples"),
    "stability": (10_000, "samples"),
    "temperatures": (2, "samples a stage"),
    "versions": (4, "low images"),
    "walk": (9, "samples that walk"),
}
AT_TEMPERATURE = (
    "samples", "stability", "temperatures", "versions", "walk", "neighbours", "guidance"
)  # fmt: skip
OF_REAL_IMAGES = (
    "reconstructions", "conditions", "stability", "versions", "interpolation", "neighbours",
    "guidance",
)  # fmt: skip


def main() -> None:
    args = parse()
    numbers = str(Path(args.out).with_suffix(".csv"))
    if args.figure != "walk":
        cli.check_plot(args.out)
    elif Path(args.out).suffix not in MOVING:
        raise InputError(f"{args.out} must end in {' or '.join(MOVING)}")
    cli.check_outputs([args.out, numbers], args.force)
    draw, _ = FIGURES[args.figure]
    rows = draw(args)
    with whole(numbers) as aside, open(aside, "w", **CSV) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    cli.say(f"{args.out} shows it, {numbers} holds the numbers")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    figures = parser.add_subparsers(required=True, metavar="FIGURE", dest="figure")
    for name, (_, words) in FIGURES.items():
        figure = figures.add_parser(name, help=words, description=words)
        of = OF_LOGS.get(name, "folders or models of cascades, by name")
        figure.add_argument("runs", nargs="+" if name in OF_SEVERAL else 1, help=of)
        if name not in OF_LOGS:
            _add_cascade_arguments(figure, name)
        figure.add_argument("--out", required=True, help="picture; its .csv holds the numbers")
        figure.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()


def _add_cascade_arguments(figure: argparse.ArgumentParser, name: str) -> None:
    figure.add_argument("--seed", type=int, default=0, help="of noise, and of which real images")
    figure.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    figure.set_defaults(stages=None, told_sigma=None, chunk=None, compile=False)
    default, words = NUM[name]
    figure.add_argument("--num", type=cli.positive, default=default, help=words)
    if name in AT_TEMPERATURE:
        default = "0.8,1.0,1.2" if name == "stability" else "0.8"
        figure.add_argument("--temperature", type=numbers_of, default=default)
    if name in OF_REAL_IMAGES:
        figure.add_argument("--data", help="data set, folder or .npz; what the cascade learned")
        figure.add_argument("--split", choices=SPLITS, default="test")
    if name in ("reconstructions", "conditions"):
        default = "0,0.02,0.1,0.25,0.5,1"
        figure.add_argument("--sigmas", type=sigmas_of, default=default)
    if name == "reconstructions":
        figure.add_argument("--scaling", choices=("whitened", "raw"), default="whitened")
    if name == "versions":
        figure.add_argument("--each", type=cli.positive, default=6, help="versions of a low image")
        figure.add_argument("--low", type=cli.positive, help="size of low images; the base's")
        figure.add_argument("--drawn", action="store_true", help="low images are samples too")
    if name == "temperatures":
        default = "0,0.4,0.6,0.8,1,1.2"
        figure.add_argument("--values", type=numbers_of, default=default, help="of one stage")
    if name == "interpolation":
        figure.add_argument("--steps", type=cli.positive, default=9, help="images, ends included")
    if name == "guidance":
        default = "0,0.5,1,1.5,2,3"
        figure.add_argument("--strengths", type=numbers_of, default=default)
        epochs = "of the classifier that judges, on the training images"
        figure.add_argument("--epochs", type=cli.positive, default=12, help=epochs)
    if name == "walk":
        figure.add_argument("--frames", type=cli.positive, default=48)


def numbers_of(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if not all(0 <= value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"{text} must be finite numbers not below 0")
    return values


def sigmas_of(text: str) -> list[float]:
    values = numbers_of(text)
    if max(values) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text} must be numbers from 0 to {LARGEST:g}")
    return values
