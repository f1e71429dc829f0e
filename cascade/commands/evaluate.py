"""FID and other scores: python tools/evaluate.py runs/mnist5k --num 50000 --inception FILE"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import PartialState
from rich.progress import Progress
from torch import Tensor

from cascade import Cascade, InputError
from cascade.commands.shared import cli, judging, processes
from cascade.commands.shared.display_scores import OF_PAIRS, say_origin, show_pairs, show_samples
from cascade.commands.shared.images import add_data_arguments, open_source
from cascade.data.sources import ImageSource, drawn
from cascade.evaluation.distances import compare, frechet_distance
from cascade.evaluation.enlargements.calibration import coverage_curve
from cascade.evaluation.enlargements.no_reference import origins
from cascade.evaluation.enlargements.super_resolution import Perceptual, pair_scores
from cascade.evaluation.features import (
    INCEPTION,
    MODES,
    FeatureNet,
    cleanfid_version,
    inception,
    scripted,
)
from cascade.evaluation.sample_quality import real_features, sample_features

MOST = 1000  # temperatures of a sweep
FEW, ENOUGH = 4, 19  # samples of a low image: for scores; for intervals of 50 % and 90 % exactly
Row = dict[str, Any]
Advance = Callable[[int], None]


def main() -> None:
    args = parse()
    check_together(args)
    sweep = settings(args.temperature)
    pictures = [args.out if len(sweep) > 1 else None, args.calibration or None]
    cli.check_outputs([args.json, *pictures], args.force)
    for picture in pictures:
        cli.check_plot(picture)
    check_plotting(any(pictures))
    args.device = cli.device_of(args)
    cli.use_one_core(args.device)
    count = processes.wanted(args, args.device)
    cascade = cli.load_cascade(args)
    cascade.check_draws()
    args.data = args.data or cascade.stages[-1].config.data.name
    source = open_source(cascade, args, args.data, args.split)
    indices = drawn(source, args.limit)
    chunks = -(-max(len(indices), 0 if args.super_resolution else args.num) // cascade.chunk)
    scored = partial(score, cascade, source, indices, sweep, args)
    processes.run(min(count, chunks), scored)


def score(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    sweep: list[list[float]],
    args: argparse.Namespace,
) -> None:
    """All that is asked for, by the processes that share it; the first prints and writes it."""
    state = cli.process_state(args.device)
    of_kind = pairs if args.super_resolution else samples
    with Progress(console=cli.console, transient=True, disable=not state.is_main_process) as bar:
        task = bar.add_task("scoring", total=None)
        result = of_kind(
            cascade, source, indices, sweep, args, state, lambda n: bar.advance(task, n)
        )
    if not state.is_main_process:
        return
    result |= origin(cascade, source, indices, args, state)
    (show_pairs if args.super_resolution else show_samples)(result)
    say_origin(result)
    if args.json:
        cli.write_json(result, args.json)
    if len(sweep) > 1:
        draw_sweep(result, args.out)
    if args.calibration:
        draw_sureness(result, args.calibration)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, conflict_handler="resolve")
    cli.add_cascade_arguments(parser)
    parser.add_argument(
        "--stages", nargs="?", const="", metavar="A,B,C",
        help="score every stage's resolution too; with names, of these stages, base first",
    )  # fmt: skip
    processes.add_argument(parser)
    add_data_arguments(parser)
    parser.add_argument("--num", type=cli.positive, help="samples to draw (default: 50,000)")
    parser.add_argument(
        "--temperature", default="1.0", help="0.8, one a stage 0.9,0.8, or a sweep 0.7:1.0:0.05"
    )
    parser.add_argument("--out", default="sweep.png", help="picture of a sweep")
    add_net_arguments(parser)
    parser.add_argument("--stats-dir", metavar="DIR", help="keep real images' features here")
    parser.add_argument(
        "--super-resolution", type=cli.positive, metavar="FACTOR",
        help="score images made so many times smaller and raised again",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=cli.positive,
        help=f"of each low image (default: {FEW}, with --calibration {ENOUGH})",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", nargs="?", const="", metavar="FILE",
        help="also say how sure the samples are; with a name, draw it: calibration.png",
    )  # fmt: skip
    parser.add_argument("--lpips", metavar="FILE.pt", help="a TorchScript net of two images")
    judging.add_arguments(parser)
    return parser.parse_args()


def check_together(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that would do nothing; put in the defaults of the others."""
    of_samples = ("num", "inception", "features", "stats_dir", "stages")
    of_pairs = ("samples", "lpips", "niqe", "brisque", "piqe", "calibration")
    idle = of_samples if args.super_resolution else of_pairs
    given = [f"--{n.replace('_', '-')}" for n in idle if getattr(args, n) is not None]
    if given and args.super_resolution:
        raise InputError(f"{', '.join(given)} do nothing with --super-resolution: leave them out")
    if given:
        raise InputError(f"{', '.join(given)} need --super-resolution FACTOR")
    usual = FEW if args.calibration is None else ENOUGH
    args.num, args.samples = args.num or 50_000, args.samples or usual


def add_net_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose features are compared."""
    nets = parser.add_mutually_exclusive_group()
    nets.add_argument("--inception", metavar="FILE", help=f"where {INCEPTION} is")
    nets.add_argument("--features", metavar="FILE.pt", help="a TorchScript net in its place")
    parser.add_argument("--mode", choices=MODES, default="clean", help="clean-fid's way to resize")


def settings(text: str) -> list[list[float]]:
    """The temperatures to score at: each one number, or one a stage."""
    if ":" not in text:
        return [cli.temperatures(text)]
    try:
        first, last, step = (float(part) for part in text.split(":"))
        count = math.floor((last - first) / step + 1e-9)
    except (ValueError, ZeroDivisionError, OverflowError):
        count = -1
    if not 0 <= count < MOST:
        raise InputError(
            f"a sweep is first:last:step such as 0.7:1.0:0.05, of at most {MOST} steps, got {text}"
        )
    return [cli.temperatures(str(round(first + i * step, 6))) for i in range(count + 1)]


def feature_net(args: argparse.Namespace) -> FeatureNet:
    """The net that arguments ask for; says where it is not the one that FID is defined by."""
    cleanfid_version()
    if args.features:
        return scripted(args.features, args.device, args.chunk)
    net = inception(args.inception, args.mode, args.device, args.chunk)
    if not net.genuine:
        cli.say(f"note: {net.name} is not the known {INCEPTION}: what comes of it is not FID")
    return net


def samples(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    sweep: list[list[float]],
    args: argparse.Namespace,
    state: PartialState,
    advance: Advance,
) -> dict[str, Any]:
    """Scores of samples by temperature and resolution, and of the real images' two halves."""
    net = feature_net(args)
    last = len(cascade.stages) - 1
    levels = range(last + 1) if args.stages is not None else [last]
    real = real_features(cascade, source, indices, net, levels, args.stats_dir, state, advance)
    rows, seen = [], []
    for temperature in sweep:
        drawn = sample_features(
            cascade, args.num, net, levels, temperature, args.seed, state, advance
        )
        at = {"temperature": temperature[0] if len(temperature) == 1 else temperature}
        seen.append({**at, "not_finite": drawn.failed, "consistency": drawn.consistency})
        for level, features in real.features.items():
            with cli.all_cores():
                scores = compare(features, drawn.features[level], args.seed, args.device)
            rows.append({**at, **place(cascade, level), **scores})
    return {
        "num": args.num,
        "scores": rows,
        "samples": seen,
        "halves": [
            {**place(cascade, level), "frechet": frechet_distance(table[::2], table[1::2])}
            for level, table in real.features.items()
        ],
        "names": net.labels,
        "dimensions": [table.shape[1] for table in real.features.values()],
        "stats_dir": args.stats_dir,
        "images_sha256": {cascade.stages[k].name: digest for k, digest in real.digests.items()},
        **net.origin,
    }


def place(cascade: Cascade, level: int) -> Row:
    stage = cascade.stages[level]
    return {"stage": stage.name, "size": stage.shape[1]}


def pairs(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    sweep: list[list[float]],
    args: argparse.Namespace,
    state: PartialState,
    advance: Advance,
) -> dict[str, Any]:
    """Scores of super-resolution by temperature, with bicubic interpolation's beside them."""
    if cascade.classes and source.labels is None:
        raise InputError(f"{args.data} has no labels of the cascade's classes, which it needs")
    net = Perceptual.load(args.lpips, args.device, args.chunk) if args.lpips else None
    alone = judging.judges_of(args)
    rows, sure = [], []
    for temperature in sweep:
        result = pair_scores(
            cascade, source, indices, args.super_resolution, args.samples, temperature, args.seed,
            net, alone, args.calibration is not None, state, advance,
        )  # fmt: skip
        at = {"temperature": temperature[0] if len(temperature) == 1 else temperature}
        rows += [{**at, "by": name, **scores} for name, scores in result.scores.items()]
        if result.calibration:
            sure.append({**at, **asdict(result.calibration), "verdict": result.calibration.verdict})
    return {
        "factor": args.super_resolution,
        "samples_an_image": args.samples,
        "scores": rows,
        "calibration": sure,
        "names": OF_PAIRS,
        "lpips_net": net.name if net else None,
        "lpips_sha256": net.digest if net else None,
        "no_reference": origins(alone),
    }


def origin(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    args: argparse.Namespace,
    state: PartialState,
) -> dict[str, Any]:
    """What it takes to repeat the scores."""
    packages = ["csrflow", "torch", "scipy"] + ["scikit-image"] * bool(args.super_resolution)
    return {
        "run": args.run,
        "data": args.data,
        "split": args.split,
        **({"data_version": source.version} if source.version else {}),
        "images": len(indices),
        "of": len(source),
        "skipped": len(getattr(source, "skipped", ())),
        "seed": args.seed,
        "told_sigma": args.told_sigma,
        "compile": args.compile,
        "weights": {stage.name: stage.digest for stage in cascade.stages},
        "device": torch.device(args.device).type,
        "chunk": cascade.chunk,
        "processes": state.num_processes,
        "versions": {name: version(name) for name in packages},
    }


def check_plotting(wanted: bool) -> None:
    """Raise `InputError` where pictures are wanted and matplotlib is not installed."""
    if wanted and not find_spec("matplotlib"):
        raise InputError("pictures of scores need matplotlib: pip install 'csrflow[scores]'")


def draw_sweep(result: dict[str, Any], file: str) -> None:
    """A panel a score: it against temperature, a line a resolution or method."""
    from cascade.figures.plots import curves

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in result["scores"]:
        line = row["by"] if "by" in row else f"{row['size']}x{row['size']}"
        for key, value in row.items():
            if key not in ("temperature", "by", "stage", "size"):
                panel = panels.setdefault(result["names"].get(key, key), {})
                panel.setdefault(line, []).append((row["temperature"], value))
    curves(panels, "temperature", "score", file)
    cli.say(f"{file} shows the scores by temperature")


def draw_sureness(result: dict[str, Any], file: str) -> None:
    """Rank histogram and coverage, a line a temperature."""
    from cascade.figures.calibration import Sureness, draw_calibration

    lines = {
        f"temperature {row['temperature']}": Sureness(
            row["ranks"], row["by_chance"], coverage_curve(row["ranks"])
        )
        for row in result["calibration"]
    }
    draw_calibration(lines, file)
    cli.say(f"{file} shows where the true values lie among the samples")
