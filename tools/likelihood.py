"""Bits/dim of a data set: python tools/likelihood.py runs/mnist5k --data mnist5k --split test"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import dataclass

import cli
import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from cascade import Cascade, InputError, Report
from cascade.codecs import SETTINGS, file_bpd
from cascade.data import SPLITS, labels_by_name, open_images
from cascade.files import whole
from cascade.images import ImageSource
from cascade.likelihood import STATEMENT
from cascade.seeds import generator
from cascade.watch import check_images


@dataclass
class Scored:
    """The report, and what was learned about each image on the way."""

    report: Report
    indices: Tensor
    labels: Tensor | None
    files: dict[str, Tensor]  # bits/dim by codec
    images_per_s: float


def main() -> None:
    args = parse()
    cli.refuse_to_overwrite([args.csv, args.json], args.force)
    cascade = cli.load_cascade(args)
    source = open_source(cascade, args)
    scored = score(cascade, source, args)
    if args.csv:
        write_csv(scored, args.csv)
    if args.json:
        cli.write_json(result(scored, source, args), args.json)
    show(scored, source, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_cascade_arguments(parser)
    parser.add_argument("--data", required=True, help="data set, folder of images, or .npz")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument(
        "--limit", type=cli.positive, help="score this many images, drawn by chance"
    )
    parser.add_argument("--samples", type=cli.positive, default=1, help="dequantisation samples K")
    parser.add_argument("--label-mode", choices=("given", "marginal"), default="marginal")
    parser.add_argument("--resize", type=cli.positive, help="bring a folder's images to this side")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable images")
    parser.add_argument("--root", default="data", help="where downloads go")
    parser.add_argument("--csv", help="also write nats of every image to this file")
    return parser.parse_args()


def open_source(cascade: Cascade, args: argparse.Namespace) -> ImageSource:
    channels, size, _ = cascade.shape
    source = open_images(args.data, args.split, channels, args.resize, args.skip_bad, args.root)
    check_images(cascade.stages[-1].name, size, args.data, source.shape)
    if args.label_mode == "given" and not cascade.classes:
        raise InputError("--label-mode given, but no stage of this cascade uses labels")
    if not cascade.classes:
        args.label_mode = None
    known = next((s.config.data.classes for s in cascade.stages if s.classes), [])
    source.labels = labels_by_name(source, known)
    if args.label_mode == "given" and source.labels is None:
        raise InputError(
            f"--label-mode given, but {args.data} has no labels of {cascade.classes} classes"
        )
    unlabelled = [stage.name for stage in cascade.stages if not stage.classes]
    if cascade.classes and unlabelled:
        cli.say(f"labels are ignored by the unconditional {', '.join(unlabelled)}")
    return source


def score(cascade: Cascade, source: ImageSource, args: argparse.Namespace) -> Scored:
    count = min(args.limit or len(source), len(source))
    indices = torch.randperm(len(source), generator=generator("limit"))[:count].sort().values
    nats, posteriors, seconds = [], [], 0.0
    files = {codec: [] for codec in SETTINGS}
    with Progress(console=cli.console, transient=True) as bar:
        task = bar.add_task("scoring", total=count)
        for part in indices.split(args.batch):
            images = cascade.fit(source.read(part))
            labels = source.labels[part] if args.label_mode == "given" else None
            started = time.perf_counter()
            found, posterior = cascade.score(images, labels, args.samples, args.seed)
            seconds += time.perf_counter() - started
            nats.append(found)
            posteriors.append(posterior)
            for codec in files:
                files[codec].append(file_bpd(images, codec))
            bar.advance(task, len(part))
    posterior = None if posteriors[0] is None else torch.cat(posteriors)
    report = cascade.report(torch.cat(nats), posterior, args.seed)
    labels = None if source.labels is None else source.labels[indices]
    sizes = {codec: torch.cat(parts) for codec, parts in files.items()}
    return Scored(report, indices, labels, sizes, count / seconds)


def result(scored: Scored, source: ImageSource, args: argparse.Namespace) -> dict[str, object]:
    report = scored.report
    return {
        "bpd": report.bpd,
        "stderr": report.stderr if len(report.nats) > 1 else None,
        "images": len(report.nats),
        "stages": report.stages,
        "statement": STATEMENT,
        "consistency": report.consistency,
        "accuracy": None if scored.labels is None else report.accuracy(scored.labels),
        "files": {codec: sizes.mean().item() for codec, sizes in scored.files.items()},
        "skipped": getattr(source, "skipped", 0),
        "images_per_s": scored.images_per_s,
        "run": args.run,
        "data": args.data,
        "split": args.split,
        "samples": args.samples,
        "label_mode": args.label_mode,
        "seed": args.seed,
        "bits": report.bits,
    }


def write_csv(scored: Scored, file: str) -> None:
    report = scored.report
    columns = [f"nats_{name}" for name in report.names]
    labels = [""] * len(report.nats) if scored.labels is None else scored.labels.tolist()
    with whole(file) as aside, open(aside, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["index", "label", *columns, "nats", "bpd"])
        for row in zip(
            scored.indices.tolist(),
            labels,
            report.nats.tolist(),
            report.image_bpd.tolist(),
            strict=True,
        ):
            index, label, nats, bpd = row
            writer.writerow([index, label, *nats, sum(nats), bpd])


def show(scored: Scored, source: ImageSource, args: argparse.Namespace) -> None:
    report, say = scored.report, cli.say
    table = Table("stage", "nats", "own bits/dim", "share", title=f"{args.data}, {args.split}")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in report.stages:
        figures = (f"{stage['nats']:.1f}", f"{stage['bpd']:.3f}", f"{stage['share']:.3f}")
        table.add_row(stage["name"], *figures)
    treatment = f", classes {args.label_mode}" if args.label_mode else ""
    total = report.nats.sum(1).mean()
    table.add_section()
    table.add_row("cascade", f"{total:.1f}", "", f"{report.bpd:.3f} ± {report.stderr:.3f}")
    say(table)
    say(
        f"{report.bpd:.3f} ± {report.stderr:.3f} bits/dim over {len(report.nats)} images"
        f" (K = {args.samples}, seed {args.seed}{treatment});"
        f" {scored.images_per_s:.1f} images/s"
    )
    accuracy = None if scored.labels is None else report.accuracy(scored.labels)
    if accuracy is not None:
        say(f"accuracy of the most likely class: {accuracy:.1%}")
    skipped = getattr(source, "skipped", 0)
    if skipped:
        say(f"{skipped} unreadable image{'s' * (skipped > 1)} left out")
    sizes = ", ".join(f"{name} {size.mean():.3f}" for name, size in scored.files.items())
    say(f"the same images as lossless files, bits/dim: {sizes}")
    for pair, found in zip(report.names[1:], report.consistency, strict=True):
        say(
            f"consistency of {pair}'s samples with their input: |D(sample) - input| "
            f"{found['mean']:.2f} of {2**report.bits} grey levels on average, "
            f"{found['worst']:.0f} at worst, {found['exact']:.1%} of values exact"
        )
    say(STATEMENT)


if __name__ == "__main__":
    cli.run(main)
