"""Bits/dim of a data set: python tools/likelihood.py runs/mnist5k --data mnist5k --split test"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.progress import Progress
from torch import Tensor

from cascade import Cascade, InputError, Report
from cascade.commands.shared import cli, processes
from cascade.commands.shared.display import show_bounds, show_checks, show_comparison, show_report
from cascade.commands.shared.images import open_source
from cascade.commands.shared.likelihood_arguments import label_treatment, parse
from cascade.data.sources import ImageSource, drawn
from cascade.evaluation.bits_by_position import spent
from cascade.evaluation.codecs import SETTINGS
from cascade.evaluation.comparison import separation
from cascade.evaluation.layer_checks import check_cascade
from cascade.evaluation.records import Part, Records, merge
from cascade.evaluation.scoring import Journal, Protocol, Row, score_source
from cascade.evaluation.variational import VariationalReport, variational
from cascade.figures.heatmap import save_heatmaps
from cascade.percentiles import percentiles
from cascade.sample_checks import SampleCheck
from cascade.utils.distributed import spread
from stages.labels import NO_LABEL

CHECKED = 16  # images that --check looks at


def main() -> None:
    args = parse(__doc__)
    cli.check_outputs([args.csv, args.npz, args.json, args.heatmap], args.force)
    cli.check_picture(args.heatmap)
    if args.merge:
        put_together(args)
        return
    args.device = cli.device_of(args)
    cli.use_one_core(args.device)
    count = processes.wanted(args, args.device)
    cascade = cli.load_cascade(args, args.dtype)
    args.data = args.data or cascade.stages[-1].config.data.name
    source = open_source(cascade, args, args.data, args.split)
    args.files = args.files and not cascade.given  # which hold all of an image
    if args.check:
        with cli.all_cores():
            check(cascade, source, args)
        return
    other = None
    if args.compare:
        other = open_source(cascade, args, args.compare, args.compare_split)
    protocol = Protocol(args.samples, args.seed, *label_treatment(cascade, source, args))
    indices = drawn(source, args.limit)
    provenance = origin(cascade, source, protocol, args) | {"images": len(indices)}
    mine = of_shard(indices, args.shard)
    chunks = -(-len(mine) // cascade.chunk)
    work = partial(score_all, cascade, source, mine, protocol, provenance, other, args)
    processes.run(min(count, chunks), work)


def score_all(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    protocol: Protocol,
    provenance: dict[str, Any],
    other: ImageSource | None,
    args: argparse.Namespace,
) -> None:
    """Score the images at ``indices``; the first of the processes prints and writes the result."""
    state = cli.process_state(args.device)
    saved_to = next((file for file in (args.csv, args.npz, args.json) if file), None)
    header = provenance | {"shard": args.shard}
    journal = Journal(Path(f"{saved_to}.partial"), header) if saved_to else None
    done = journal.open(args.resume, args.force, state) if journal else []
    started = time.perf_counter()
    rows = score(cascade, source, indices, protocol, args, state, journal, done)
    seconds = time.perf_counter() - started
    codecs = {codec: column(rows, codec) for codec in rows[0].files}
    records = Records.of(assemble(cascade, rows), source, indices, codecs)
    others = score(cascade, other, drawn(other, args.limit), protocol, args, state) if other else []
    looked_at = args.heatmap or args.variational
    labels, whose = labels_of(cascade, records, args.label_mode) if looked_at else (None, None)
    terms = bounds(cascade, source, records, labels, args, state) if args.variational else {}
    if not state.is_main_process:
        return
    fresh = cascade.check_samples(seed=args.seed) if args.shard[0] == 1 else None
    part = Part(records, provenance, args.shard, fresh)
    speed = (len(rows) - len(done)) / seconds or None
    if args.shard[1] > 1:
        say_shard(part, speed)
    else:
        result = whole_result(part, speed, state.num_processes)
        if others:
            result["auroc"] = compare(cascade, records, others, args)
        if args.heatmap:
            draw_heatmap(cascade, source, records, labels, args)
        if args.variational:
            show_bounds(args.variational, terms, whose)
            result["variational"] = means(terms, whose, args.variational)
        write(part, result, args)
    if args.npz:
        part.write_npz(args.npz)
    if journal:
        journal.remove()


def put_together(args: argparse.Namespace) -> None:
    """The result of all shards, as one run would have printed and written it."""
    part = merge(args.merge)
    write(part, whole_result(part, None, None), args)
    if args.npz:
        part.write_npz(args.npz)


def whole_result(part: Part, speed: float | None, count: int | None) -> dict[str, Any]:
    """What is to be known of all images, printed and given for the JSON.

    ``speed`` is images a second by the clock: read, scored, compressed; of this run, by all of
    ``count`` processes together; images that an interrupted run had scored do not count.
    """
    records, fresh = part.records, part.drawn
    assert fresh is not None  # the first shard has it
    result = {
        **figures(records.report, fresh, records.labels),
        **part.provenance,
        "files": {codec: bpd.mean().item() for codec, bpd in records.files.items()},
        "images_per_s": speed,
        "processes": count,
    }
    show_report(records.report, fresh, result)
    return result


def write(part: Part, result: dict[str, Any], args: argparse.Namespace) -> None:
    if args.csv:
        part.records.write_csv(args.csv)
    if args.json:
        cli.write_json(result, args.json)


def say_shard(part: Part, speed: float | None) -> None:
    """What was done; no mean, which would be taken for that of the data set."""
    number, count = part.shard
    at = f", {speed:.1f} images/s" if speed else ""
    cli.say(
        f"shard {number} of {count}: {len(part.records.indices)} of {part.provenance['images']} "
        f"images{at}; likelihood --merge puts the shards' .npz files together"
    )


def of_shard(indices: Tensor, shard: tuple[int, int]) -> Tensor:
    """One of so many runs of neighbours; `InputError` where there are too few for each."""
    number, count = shard
    if count > len(indices):
        raise InputError(f"--shard {number}/{count}, but there are only {len(indices)} images")
    return indices[len(indices) * (number - 1) // count : len(indices) * number // count]


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
            cascade, source, indices, protocol, journal, done, state,
            lambda count: bar.advance(task, count), args.files,
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
        **({"data_version": source.version} if source.version else {}),
        "of": len(source),
        "skipped": len(getattr(source, "skipped", ())),
        **asdict(protocol),
        "dtype": args.dtype,
        "told_sigma": args.told_sigma,
        "compile": args.compile,
        "bits": cascade.bits,
        "device": torch.device(args.device).type,
        "chunk": cascade.chunk,
        "file_settings": SETTINGS if args.files else None,
        "weights": {stage.name: stage.digest for stage in cascade.stages},
        "versions": {name: version(name) for name in ("csrflow", "torch")},
    }


def figures(report: Report, drawn: SampleCheck, labels: Tensor | None) -> dict[str, Any]:
    return {
        "bpd": report.bpd,
        "stderr": report.stderr if len(report.nats) > 1 else None,
        "percentiles": percentiles(report.image_bpd),
        "stages": report.stages,
        "accuracy": None if labels is None else report.accuracy(labels),
        "pyramid": report.pyramid,
        "consistency": drawn.consistency,
        "clipped": drawn.clip_rates,
        "statement": report.statement,
    }


def compare(
    cascade: Cascade, records: Records, others: list[Row], args: argparse.Namespace
) -> dict[str, float]:
    """Print how well the rows of another data set are told apart."""
    theirs = assemble(cascade, others)
    files = None
    if "WebP" in records.files:
        files = records.files["WebP"], column(others, "WebP")
    result = separation(records.report, theirs, files)
    show_comparison(f"{args.data} against {args.compare}, {len(others)} images", result, theirs)
    return result


def labels_of(cascade: Cascade, records: Records, mode: str) -> tuple[Tensor | None, str | None]:
    """The images' labels where they are known, else their most likely classes; and which it is."""
    if not cascade.classes:
        return None, None
    if mode == "none":
        return torch.full((len(records.indices),), NO_LABEL), "none"
    if records.labels is not None:
        return records.labels, "given"
    assert records.report.posterior is not None
    return records.report.posterior.argmax(1), "most likely"


def draw_heatmap(
    cascade: Cascade,
    source: ImageSource,
    records: Records,
    labels: Tensor | None,
    args: argparse.Namespace,
) -> None:
    """The four worst and the four best images, and where each stage spends its bits on them."""
    order = records.report.image_bpd.argsort(descending=True)
    rows = torch.cat([order[:4], order[4:][-4:]])
    images = cascade.resize(source.read(records.indices[rows]))
    maps = spent(cascade, images, None if labels is None else labels[rows], args.seed)
    bpd = records.report.image_bpd[rows]
    save_heatmaps(images, maps, records.report.names, bpd, args.heatmap)
    cli.say(f"{args.heatmap}: the worst and best images, and where their bits are spent")


def bounds(
    cascade: Cascade,
    source: ImageSource,
    records: Records,
    labels: Tensor | None,
    args: argparse.Namespace,
    state: PartialState,
) -> dict[str, VariationalReport]:
    """Every stage but the first on disturbed conditions, shared by the processes."""

    def terms_of(stage: int, first: int, number: int) -> list[Tensor]:
        part = slice(first, first + number)
        images = cascade.resize(source.read(records.indices[part]))
        given = None if labels is None else labels[part]
        settings = (stage, args.variational, args.samples, args.seed)
        report = variational(cascade, images, given, *settings)
        return [report.clean, report.noisy, report.kl]

    result = {}
    for i, stage in enumerate(cascade.stages[1:], start=1):
        clean, noisy, kl = spread(partial(terms_of, i), len(records.indices), cascade.chunk, state)
        result[stage.name] = VariationalReport(clean, noisy, kl, cascade.pyramid)
    return result


def means(reports: dict[str, VariationalReport], whose: str | None, sigma: float) -> dict[str, Any]:
    """Mean figures of disturbed conditions, for the JSON."""
    return {"sigma": sigma, "labels": whose} | {
        name: {
            "clean": report.clean.mean().item(),
            "noisy": report.noisy.mean().item(),
            "kl": report.kl.mean().item(),
            "bound": report.bound.mean().item(),
        }
        for name, report in reports.items()
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
