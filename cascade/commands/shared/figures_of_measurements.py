"""Figures of what was measured: how a cascade bears disturbance, and how its training went."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from cascade import InputError
from cascade.classifier.judging import judge
from cascade.classifier.training import Schedule, train
from cascade.commands.shared import cli
from cascade.commands.shared.images import labelled, load, real_images
from cascade.evaluation.robustness import conditional_bpd, reconstructions, round_trip, stability
from cascade.figures import plots
from cascade.figures.sheets import Block, save_sheet
from cascade.training.metrics_log import logged_stages, read_metrics

Row = dict[str, Any]


def draw_reconstructions(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    images, labels = real_images(cascade, args, args.num)
    result = [
        reconstructions(cascade, images, labels, i, args.sigmas, args.scaling, args.seed)
        for i in range(len(cascade.stages))
    ]
    columns = [f"σ = {sigma:g}" for sigma in args.sigmas]
    blocks = [
        Block(f"{f.stage}, {args.scaling} latents", f.images.transpose(0, 1), columns)
        for f in result
    ]
    save_sheet(blocks, args.out)
    return [
        {"stage": f.stage, "scaling": args.scaling, "sigma": sigma, "grey_levels": d, "exploded": e}
        for f in result
        for sigma, d, e in zip(f.sigmas, f.distance, f.exploded, strict=True)
    ]


def draw_guidance(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    for strength in args.strengths:
        cascade.check_guidance(strength)
    if args.num < 2 * cascade.classes:
        raise InputError(f"--num {args.num} is less than two of each of {cascade.classes} classes")
    known = {split: labelled(cascade, args.data, split) for split in ("train", args.split)}
    net = train(
        known["train"], Schedule(args.epochs), cli.device_of(args), lambda step, right: None
    )
    real = known[args.split]
    assert real.labels is not None  # or `labelled` refuses it
    rows, judged = [], {"real": judge(net, real.read(torch.arange(len(real))), real.labels)}
    for strength in args.strengths:
        draw = cascade.draw(args.num, None, args.temperature, args.seed, guidance=strength)
        assert draw.labels is not None
        judged[f"{strength:g}"] = judge(net, draw.images[-1], draw.labels)
        rows.append(draw.images[-1][: cascade.classes])
    strengths = [f"w = {strength:g}" for strength in args.strengths]
    title = "the same noise, w times what classes add"
    save_sheet([Block(title, rows, cascade.class_names, strengths)], args.out)
    return [
        {
            "guidance": name,
            "accuracy": found.accuracy,
            "diversity": found.diversity / judged["real"].diversity,
        }
        for name, found in judged.items()
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
    rows = [
        {"run": str(run), "step": metrics["step"], "watched": key, "share": share}
        for metrics in read_metrics(run)
        for key, share in metrics.items()
        if key.startswith(("not_finite_", "exploded_"))
    ]
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
            result = conditional_bpd(cascade, images, labels, i, args.sigmas, args.seed)
            rows += [
                {"run": run, "stage": stage.name, "sigma": sigma, "own_bpd": bpd, "exploded": gone}
                for sigma, (bpd, gone) in zip(args.sigmas, result, strict=True)
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
            result = stability(cascade, args.num, temperature, seed=args.seed)
            rows.append({"run": run, "temperature": temperature, **vars(result), **of_images})
    lines = {
        run: [(r["temperature"], r["failed"]) for r in rows if r["run"] == run] for run in args.runs
    }
    plots.curves({f"failed among {args.num} samples": lines}, "temperature", "share", args.out)
    return rows


LOGGED = {"bpd": "own bits/dim", "l1": "encoder alone, L1"}
OF = {"training": "", "validation": "validation_", "test": "test_"}


def draw_training(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    panels: dict[str, Any] = {}
    logs = {stage: read_metrics(stage) for stage in logged_stages(args.runs[0])}
    timed = all("seconds" in m for metrics in logs.values() for m in metrics if "bpd" in m)
    for stage, metrics in logs.items():
        for figure, words in LOGGED.items():
            for images, prefix in OF.items():
                key = prefix + figure
                logged = [m for m in metrics if m.get(key) is not None]
                if logged:
                    panels.setdefault(f"{stage.name}: {words}", {})[images] = [
                        (m.get("seconds", 0.0) / 3600 if timed else m["step"], m[key])
                        for m in logged
                    ]
                what = {"stage": stage.name, "figure": figure, "images": images}
                rows += [
                    {**what, "step": m["step"], "seconds": m.get("seconds", ""), "value": m[key]}
                    for m in logged
                ]
    if not rows:
        raise InputError(f"{args.runs[0]} has logged nothing yet; train.log_every says how often")
    plots.curves(panels, "hours" if timed else "step", "", args.out)
    return rows
