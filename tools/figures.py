"""Figures of cascades and runs: python tools/figures.py reconstructions runs/mnist5k --out r.png"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import cli
import plots
import torch
from torch import Tensor

from cascade import Cascade, InputError
from cascade.data import SPLITS, labels_by_name, open_images
from cascade.dequantise import reduce_bits
from cascade.files import whole
from cascade.likelihood import consistency
from cascade.robust import conditional_bpd, reconstructions, round_trip, stability
from cascade.seeds import generator
from cascade.watch import check_images

Row = dict[str, object]


def main() -> None:
    args = parse()
    numbers = str(Path(args.out).with_suffix(".csv"))
    if Path(args.out).suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"{args.out} must end in .png, .pdf or .svg")
    cli.refuse_to_overwrite([args.out, numbers], args.force)
    rows = args.draw(args)
    with whole(numbers) as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    cli.say(f"{args.out} shows it, {numbers} holds the numbers")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    figures = parser.add_subparsers(required=True, metavar="FIGURE")
    for name, draw, words in (
        ("reconstructions", draw_reconstructions, "a stage's images as noise on latents rises"),
        ("failures", draw_failures, "noisy reconstructions that failed, through training"),
        ("conditions", draw_conditions, "a stage's bits/dim given disturbed low images"),
        ("samples", draw_samples, "samples of several cascades from the same noise"),
        ("stability", draw_stability, "failed samples by temperature"),
    ):
        figure = figures.add_parser(name, help=words, description=words)
        figure.set_defaults(draw=draw)
        if name == "failures":
            figure.add_argument("runs", nargs="+", help="stage folders trained with watch_sigmas")
        else:
            figure.add_argument(
                "runs", nargs=1 if name == "reconstructions" else "+", help="cascade folders"
            )
            _add_cascade_arguments(figure, name)
        figure.add_argument("--out", required=True, help="picture; its .csv holds the numbers")
        figure.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_args()


def _add_cascade_arguments(figure: argparse.ArgumentParser, name: str) -> None:
    figure.add_argument("--seed", type=int, default=0)
    figure.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    figure.set_defaults(stages=None, told_sigma=None)
    num = {"samples": 12, "stability": 10_000, "conditions": 256}.get(name, 8)
    figure.add_argument("--num", type=cli.positive, default=num, help="images or samples")
    if name in ("samples", "stability"):
        default = "0.8,1.0,1.2" if name == "stability" else "0.8"
        figure.add_argument("--temperature", type=numbers_of, default=default)
    if name in ("reconstructions", "conditions"):
        default = "0,0.02,0.1,0.25,0.5,1"
        figure.add_argument("--sigmas", type=numbers_of, default=default)
    if name == "reconstructions":
        figure.add_argument("--scaling", choices=("whitened", "raw"), default="whitened")
    if name != "samples":
        figure.add_argument("--data", help="data set, folder or .npz; what the cascade learned")
        figure.add_argument("--split", choices=SPLITS, default="test")


def numbers_of(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if not all(0 <= value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text} must be numbers not below 0")
    return values


def load(run: str, args: argparse.Namespace) -> Cascade:
    return cli.load_cascade(argparse.Namespace(**vars(args) | {"run": run}))


def real_images(
    cascade: Cascade, args: argparse.Namespace, count: int
) -> tuple[Tensor, Tensor | None]:
    """So many images of the data set, drawn by chance, and their labels where they are needed."""
    channels, size, _ = cascade.shape
    data = cascade.stages[-1].config.data
    name = args.data or data.name
    source = open_images(name, args.split, channels, data.resize, data.skip_bad, data.root)
    check_images(cascade.stages[-1].name, size, name, source.shape)
    known = next((s.config.data.classes for s in cascade.stages if s.classes), [])
    labels = labels_by_name(source, known)
    if cascade.classes and labels is None:
        raise InputError(f"{name} has no labels of the cascade's classes")
    chosen = torch.randperm(len(source), generator=generator("figure"))[:count]
    images = cascade.fit(source.read(chosen))
    return images, labels[chosen] if cascade.classes else None


def draw_reconstructions(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    images, labels = real_images(cascade, args, args.num)
    found = [
        reconstructions(cascade, images, labels, i, args.sigmas, args.scaling, args.seed)
        for i in range(len(cascade.stages))
    ]
    panels = [(f"{f.stage}, {args.scaling} latents", f.images) for f in found]
    plots.image_panels(panels, [f"σ = {sigma:g}" for sigma in args.sigmas], args.out)
    return [
        {"stage": f.stage, "scaling": args.scaling, "sigma": sigma, "grey_levels": d, "exploded": e}
        for f in found
        for sigma, d, e in zip(f.sigmas, f.distance, f.exploded, strict=True)
    ]


def draw_failures(args: argparse.Namespace) -> list[Row]:
    args.runs = [str(Path(run)) for run in args.runs]
    rows = [row for run in args.runs for row in _watched(Path(run))]
    kinds = list(dict.fromkeys(row["watched"] for row in rows))
    lines = {
        kind: {
            run: [(r["step"], r["share"]) for r in rows if r["run"] == run and r["watched"] == kind]
            for run in args.runs
        }
        for kind in kinds
    }
    some = [kind for kind in kinds if any(r["share"] for r in rows if r["watched"] == kind)]
    panels = {kind.replace("_", " "): lines[kind] for kind in some or kinds}
    plots.curves(panels, "step", "share of images", args.out)
    return rows


def _watched(run: Path) -> list[Row]:
    log = run / "metrics.jsonl"
    if not log.is_file():
        raise InputError(f"{run} is not a stage folder: it has no metrics.jsonl")
    rows = []
    for line in log.read_text().splitlines():
        metrics = json.loads(line)
        for key, share in metrics.items():
            if key.startswith(("not_finite_", "exploded_")):
                row = {"run": str(run), "step": metrics["step"], "watched": key, "share": share}
                rows.append(row)
    if not rows:
        raise InputError(f"{run} was trained without train.watch_sigmas=[0.5,1.0]")
    return rows


def draw_conditions(args: argparse.Namespace) -> list[Row]:
    rows = []
    for run in args.runs:
        cascade = load(run, args)
        if len(cascade.stages) == 1:
            raise InputError(f"{run} has no stage with another below it")
        images, labels = real_images(cascade, args, args.num)
        for i, stage in enumerate(cascade.stages[1:], start=1):
            found = conditional_bpd(cascade, images, labels, i, args.sigmas, args.seed)
            rows += [
                {"run": run, "stage": stage.name, "sigma": sigma, "own_bpd": bpd, "exploded": gone}
                for sigma, (bpd, gone) in zip(args.sigmas, found, strict=True)
            ]
    names = list(dict.fromkeys(row["stage"] for row in rows))
    lines = {
        name: {
            run: [(r["sigma"], r["own_bpd"]) for r in rows if (r["run"], r["stage"]) == (run, name)]
            for run in args.runs
        }
        for name in names
    }
    plots.curves(lines, "σ on the low image's latents", "own bits/dim", args.out)
    return rows


def draw_samples(args: argparse.Namespace) -> list[Row]:
    rows, panels = [], []
    for run in args.runs:
        cascade = load(run, args)
        draw = cascade.draw(args.num, None, args.temperature, args.seed)
        panels.append((run, draw.images))
        levels = [reduce_bits(images, cascade.bits) for images in draw.images]
        pairs = consistency(levels, cascade.bits, cascade.pyramid)
        for i, stage in enumerate(cascade.stages):
            rows.append(
                {
                    "run": run,
                    "stage": stage.name,
                    "temperature": ",".join(f"{t:g}" for t in args.temperature),
                    "clipped": draw.clipped[:, i].mean().item(),
                    "beyond_one_range": (draw.beyond[:, i] > 1).double().mean().item(),
                    "grey_levels_from_input": pairs[i - 1]["mean"] if i else "",
                }
            )
    plots.sample_rows(panels, args.out)
    return rows


def draw_stability(args: argparse.Namespace) -> list[Row]:
    rows = []
    for run in args.runs:
        cascade = load(run, args)
        images, labels = real_images(cascade, args, 256)
        of_images = {
            "round_trip": round_trip(cascade, images, labels),
            "bpd": cascade.likelihood(images, labels, seed=args.seed).bpd,
        }
        for temperature in args.temperature:
            found = stability(cascade, args.num, temperature, seed=args.seed)
            rows.append({"run": run, "temperature": temperature, **vars(found), **of_images})
    lines = {
        run: [(r["temperature"], r["failed"]) for r in rows if r["run"] == run] for run in args.runs
    }
    plots.curves({f"failed among {args.num} samples": lines}, "temperature", "share", args.out)
    return rows


if __name__ == "__main__":
    cli.run(main)
