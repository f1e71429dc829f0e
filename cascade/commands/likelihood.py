"""Bits/dim of a data set: python tools/likelihood.py runs/mnist5k --data mnist5k --split test"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.progress import Progress
from torch import Tensor

from cascade import Cascade, InputError, Report
from cascade.commands.shared import cli
from cascade.commands.shared.display import show_bounds, show_checks, show_comparison, show_report
from cascade.commands.shared.images import add_data_arguments, drawn, open_source
from cascade.data import SPLITS
from cascade.data.sources import ImageSource
from cascade.evaluation.bits_by_position import spent
from cascade.evaluation.codecs import SETTINGS
from cascade.evaluation.comparison import separation
from cascade.evaluation.layer_checks import check_cascade
from cascade.evaluation.records import Records
from cascade.evaluation.scoring import Journal, Protocol, Row, score_source
from cascade.evaluation.variational import variational
from cascade.figures.heatmap import save_heatmaps
from cascade.likelihood import SampleCheck
from cascade.stage import DTYPES

CHECKED = 16  # images that --check looks at


def main() -> None:
    args = parse()
    outputs = [args.csv, args.npz, args.json]
    cli.check_outputs([*outputs, args.heatmap], args.force)
    cli.check_picture(args.heatmap)
    state = PartialState(cpu=not torch.cuda.is_available())
    args.device = args.device or state.device
    cascade = cli.load_cascade(args, args.dtype)
    args.data = args.data or cascade.stages[-1].config.data.name
    source = open_source(cascade, args, args.data, args.split)
    if args.check:
        check(cascade, source, args)
        return
    other = None
    if args.compare:
        other = open_source(cascade, args, args.compare, args.compare_split)
    protocol = Protocol(args.samples, args.seed, *label_treatment(cascade, source, args))
    indices = drawn(source, args.limit)
    provenance = origin(cascade, source, protocol, args) | {"images": len(indices)}
    saved_to = next((file for file in outputs if file), None)
    journal = Journal(Path(f"{saved_to}.partial"), provenance) if saved_to else None
    done = journal.open(args.resume, args.force, state) if journal else []
    started = time.perf_counter()
    rows = score(cascade, source, indices, protocol, args, state, journal, done)
    seconds = time.perf_counter() - started
    if not state.is_main_process:
        return
    report = assemble(cascade, rows)
    records = Records.of(report, source, indices)
    speed = (len(rows) - len(done)) / seconds or None
    fresh = cascade.check_samples(seed=args.seed)
    result = {
        **figures(report, fresh, records.labels),
        **provenance,
        **measured(rows, speed, state),
    }
    show_report(report, fresh, result)
    if other is not None:
        result["auroc"] = compare(cascade, report, column(rows, "WebP"), other, protocol, args)
    if args.heatmap:
        draw_heatmap(cascade, source, records, args)
    if args.variational:
        result["variational"] = {"sigma": args.variational} | bounds(cascade, source, records, args)
    if args.csv:
        records.write_csv(args.csv)
    if args.npz:
        records.write_npz(args.npz)
    if args.json:
        cli.write_json(result, args.json)
    if journal:
        journal.remove()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_cascade_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--samples", type=cli.positive, default=1, help="dequantisation samples K")
    parser.add_argument("--label-mode", choices=("given", "marginal"), default="marginal")
    parser.add_argument(
        "--prior", choices=("uniform", "empirical"), default="uniform",
        help="probabilities of the classes that marginal sums over",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--compare", metavar="DATA", help="how well likelihood tells DATA apart")
    parser.add_argument("--compare-split", choices=SPLITS, default="test")
    parser.add_argument("--heatmap", metavar="PNG", help="draw where bits are spent")
    parser.add_argument(
        "--variational", metavar="SIGMA", type=sigma, help="score disturbed conditions too"
    )
    parser.add_argument("--check", action="store_true", help="check every layer, score nothing")
    parser.add_argument("--csv", help="also write figures of every image to this file")
    parser.add_argument("--npz", help="the same as arrays, with log p(y | image)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    return parser.parse_args()


def sigma(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def label_treatment(
    cascade: Cascade, source: ImageSource, args: argparse.Namespace
) -> tuple[str | None, tuple[float, ...] | None]:
    """How labels enter, and the classes' probabilities where they are not equal."""
    if not cascade.classes:
        if args.label_mode == "given":
            raise InputError("--label-mode given, but no stage of this cascade uses labels")
        return None, None
    unlabelled = [stage.name for stage in cascade.stages if not stage.classes]
    if unlabelled:
        cli.say(f"labels are ignored by the unconditional {', '.join(unlabelled)}")
    if args.label_mode == "given" and args.compare:
        raise InputError("--compare needs --label-mode marginal: other images have no such labels")
    if args.label_mode == "given" and source.labels is None:
        raise InputError(f"--label-mode given, but {args.data} has no labels of these classes")
    if args.label_mode == "given" or args.prior == "uniform":
        return args.label_mode, None
    counts = next((s.record.counts for s in cascade.stages if s.record.counts), None)
    if counts is None:
        raise InputError("--prior empirical, but the stages do not know their training labels")
    if len(counts) != cascade.classes or not sum(counts):
        raise InputError(
            f"--prior empirical, but the stages' record.json does not count the images of "
            f"{cascade.classes} classes: {len(counts)} numbers, {sum(counts)} images"
        )
    return "marginal", tuple(count / sum(counts) for count in counts)


def score(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    protocol: Protocol,
    args: argparse.Namespace,
    state: PartialState | None = None,
    journal: Journal | None = None,
    done: list[Row] | None = None,
) -> list[Row]:
    hidden = state is not None and not state.is_main_process
    with Progress(console=cli.console, transient=True, disable=hidden) as bar:
        task = bar.add_task("scoring", total=len(indices), completed=len(done or []))
        return score_source(
            cascade, source, indices, protocol, args.batch, journal, done, state,
            lambda count: bar.advance(task, count),
        )  # fmt: skip


def assemble(cascade: Cascade, rows: list[Row]) -> Report:
    nats = torch.tensor([row.nats for row in rows], dtype=torch.float64)
    posterior = None
    if rows[0].posterior is not None:
        posterior = torch.tensor([row.posterior for row in rows], dtype=torch.float64)
    return cascade.report(nats, posterior)


def column(rows: list[Row], codec: str) -> Tensor:
    return torch.tensor([row.files[codec] for row in rows], dtype=torch.float64)


def origin(
    cascade: Cascade, source: ImageSource, protocol: Protocol, args: argparse.Namespace
) -> dict[str, Any]:
    """What it takes to repeat the figures."""
    return {
        "run": args.run,
        "data": args.data,
        "split": args.split,
        "of": len(source),
        "skipped": len(getattr(source, "skipped", ())),
        **asdict(protocol),
        "dtype": args.dtype,
        "told_sigma": args.told_sigma,
        "compile": args.compile,
        "bits": cascade.bits,
        "weights": {stage.name: stage.digest for stage in cascade.stages},
        "versions": {name: version(name) for name in ("csrflow", "torch")},
    }


def measured(rows: list[Row], speed: float | None, state: PartialState) -> dict[str, Any]:
    """Mean bits/dim as lossless files, and images a second by the clock: read, scored, compressed.

    Of this run, by all processes together; images that an interrupted run had scored do not count.
    """
    return {
        "files": {codec: column(rows, codec).mean().item() for codec in SETTINGS},
        "images_per_s": speed,
        "processes": state.num_processes,
    }


def figures(report: Report, drawn: SampleCheck, labels: Tensor | None) -> dict[str, Any]:
    return {
        "bpd": report.bpd,
        "stderr": report.stderr if len(report.nats) > 1 else None,
        "stages": report.stages,
        "accuracy": None if labels is None else report.accuracy(labels),
        "pyramid": report.pyramid,
        "consistency": drawn.consistency,
        "clipped": drawn.clip_rates,
        "statement": report.statement,
    }


def compare(
    cascade: Cascade,
    ours: Report,
    sizes: Tensor,
    other: ImageSource,
    protocol: Protocol,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Score the other data set by the same protocol, and print how well it is told apart."""
    indices = drawn(other, args.limit)
    rows = score(cascade, other, indices, protocol, args)
    theirs = assemble(cascade, rows)
    result = separation(ours, theirs, (sizes, column(rows, "WebP")))
    show_comparison(f"{args.data} against {args.compare}, {len(indices)} images", result, theirs)
    return result


def labels_of(cascade: Cascade, records: Records) -> tuple[Tensor | None, str | None]:
    """The images' labels where they are known, else their most likely classes; and which it is."""
    if not cascade.classes:
        return None, None
    if records.labels is not None:
        return records.labels, "given"
    assert records.report.posterior is not None
    return records.report.posterior.argmax(1), "most likely"


def draw_heatmap(
    cascade: Cascade, source: ImageSource, records: Records, args: argparse.Namespace
) -> None:
    """The four worst and the four best images, and where each stage spends its bits on them."""
    order = records.report.image_bpd.argsort(descending=True)
    rows = torch.cat([order[:4], order[4:][-4:]])
    images = cascade.resize(source.read(records.indices[rows]))
    labels, _ = labels_of(cascade, records)
    maps = spent(cascade, images, None if labels is None else labels[rows], args.seed)
    bpd = records.report.image_bpd[rows]
    save_heatmaps(images, maps, records.report.names, bpd, args.heatmap)
    cli.say(f"{args.heatmap}: the worst and best images, and where their bits are spent")


def bounds(
    cascade: Cascade, source: ImageSource, records: Records, args: argparse.Namespace
) -> dict[str, Any]:
    """Every stage but the first on disturbed conditions, printed; mean figures for the JSON."""
    images = cascade.resize(source.read(records.indices))
    labels, whose = labels_of(cascade, records)
    result = {}
    for i, stage in enumerate(cascade.stages[1:], start=1):
        result[stage.name] = variational(
            cascade, images, labels, i, args.variational, args.samples, args.seed
        )
    show_bounds(args.variational, result, whose)
    return {"labels": whose} | {
        name: {
            "clean": report.clean.mean().item(),
            "noisy": report.noisy.mean().item(),
            "kl": report.kl.mean().item(),
            "bound": report.bound.mean().item(),
        }
        for name, report in result.items()
    }


def check(cascade: Cascade, source: ImageSource, args: argparse.Namespace) -> None:
    """Check every layer on a few images; exit code 1 where a stage is at fault."""
    indices = drawn(source, CHECKED)
    labels = None
    if cascade.classes:
        labels = torch.arange(len(indices)) % cascade.classes
        if source.labels is not None:
            labels = source.labels[indices]
    checks = check_cascade(cascade, cascade.resize(source.read(indices)), labels)
    show_checks(checks)
    if args.json:
        cli.write_json(
            {"checks": [asdict(c) | {"verdict": str(c.verdict)} for c in checks]}, args.json
        )
    if any(c.verdict.fault for c in checks):
        sys.exit(1)
