"""A flow against a GAN and L1: python tools/versus.py configs/versus/photos-x2.yaml --features F"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from functools import partial
from types import ModuleType
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from torch import Tensor

from cascade.commands.shared import cli
from cascade.commands.shared.display import figures_table
from cascade.evaluation.features import FeatureNet, cleanfid_version, scripted
from cascade.versus.comparison import Findings, find, matches_of, open_scorer
from cascade.versus.losses import Guide
from cascade.versus.matching import Match
from cascade.versus.outcome import Outcome, setbacks
from cascade.versus.scoring import SCORES
from cascade.versus.settings import Versus, load_versus, stage_configs
from cascade.versus.training import METHODS, Run, runs_of, train
from cascade.versus.verdict import NAMES, PUBLISHED, Claim, all_setbacks, claims, figure
from stages import InputError

SHOWN = ("cubic", "l1", "gan", "flow")  # from left to right


def main() -> None:
    args = parse()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("versus trains in one process: run it without a launcher")
    cli.check_outputs([args.json, args.out, args.curves], args.force)
    cli.check_plot(args.curves)
    cli.check_picture(args.out)
    drawing = pictures() if args.out or args.curves else None
    versus = load_versus(args.config, args.overrides + nets_of(args))
    matches = matches_of(stage_configs(versus, versus.seeds[0]))
    show_matches(versus, matches)
    if args.dry_run:
        return
    guide, features = nets(versus)
    scorer = open_scorer(versus, features)
    runs = [
        run
        for seed in versus.seeds
        for run in runs_of(versus, stage_configs(versus, seed), matches, guide)
    ]
    if not train_all(runs, versus, guide, features):
        cli.say("stopped; the same command continues")
        return
    with Progress(TextColumn("scoring {task.description}"), console=cli.console) as bar:
        task = bar.add_task("", total=None)
        found = find(versus, runs, scorer, lambda name: bar.update(task, description=name))
        bar.update(task, visible=False)
    verdict = claims(found.scores, found.outcomes)
    show(versus, found, features, verdict)
    if drawing and args.out:
        made: dict[str, Tensor] = {n: found.images[n] for n in SHOWN if n in found.images}
        drawing.save_pictures(*found.pairs.shown, made, args.out)
    if drawing and args.curves:
        drawing.save_curves(found.outcomes, args.curves)
    if args.json:
        cli.write_json(report(versus, matches, runs, found, verdict, features, guide), args.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="YAML file of the comparison")
    parser.add_argument("overrides", nargs="*", help="settings to change, as key=value")
    parser.add_argument("--features", metavar="FILE.pt", help="a TorchScript net to score with")
    parser.add_argument("--guide", metavar="FILE.pt", help="another, that the GAN learns with")
    parser.add_argument("--dry-run", action="store_true", help="only match and count")
    parser.add_argument("--out", metavar="FILE.png", help="images side by side")
    parser.add_argument("--curves", metavar="FILE.png", help="training curves")
    parser.add_argument("--json", help="also write all that was found to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser.parse_intermixed_args()


def nets_of(args: argparse.Namespace) -> list[str]:
    """The settings that options stand for."""
    given = {"features": args.features, "guide": args.guide}
    return [f"{key}={file}" for key, file in given.items() if file]


def nets(versus: Versus) -> tuple[Guide, FeatureNet]:
    """What the GAN learns with, and what all are scored with; `InputError` where one is missing."""
    cleanfid_version()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    file = versus.features
    if file is None or versus.guide is None:
        name = "features" if file is None else "guide"
        raise InputError(
            f"pass --{name} FILE.pt, which csrflow features trains: the GAN learns in the features "
            "of --guide, and all are scored in those of --features"
        )
    guide = Guide(versus.guide, versus.gan.window, device)
    features = scripted(file, device)
    if guide.digest == features.digest:
        cli.say("note: the GAN learns in the very features that it is scored in, which favours it")
    return guide, features


def train_all(runs: list[Run], versus: Versus, guide: Guide, features: FeatureNet) -> bool:
    """Train what is not finished, one after another; False where one was stopped."""
    for run in runs:
        done = run.outcome()
        if done.finished:
            cli.say(f"{run.name}: finished before, {ending(done)}")
            if done.features != features.digest:
                cli.say(f"note: {run.name} was looked at by other features while it trained")
            continue
        with progress_bar() as bar:
            task = bar.add_task(run.name, total=run.config.train.steps)
            watch = partial(moved, bar, task)
            finished = train(run, versus, guide, features, watch)
        if not finished:
            return False
        cli.say(f"{run.name}: {ending(run.outcome())}")
    return True


def moved(bar: Progress, task: TaskID, step: int, point: dict[str, Any]) -> None:
    bar.update(task, completed=step)


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=cli.console,
        transient=True,
    )


def ending(outcome: Outcome) -> str:
    """How a training ended, in words."""
    last = outcome.curve[-1] if outcome.curve else {"step": 0}
    words = "diverged" if outcome.diverged else f"{last['step']:,} steps"
    skipped = f", {outcome.skipped} not finite" if outcome.skipped else ""
    return f"{words} in {outcome.seconds:.0f} s{skipped}"


def show_matches(versus: Versus, matches: list[Match]) -> None:
    """What was made equal, as it was counted."""
    for config, match in zip(stage_configs(versus, versus.seeds[0]), matches, strict=True):
        shape, data, steps = match.shape, config.data, config.train
        cli.say(
            f"{data.size // 2} -> {data.size}: flow and generator see {match.field} and "
            f"{match.net_field} low pixels across, and take {match.flops:,.0f} and "
            f"{match.net_flops:,.0f} operations a pixel ({match.excess:+.1%}); {match.weights:,} "
            f"and {match.net_weights:,} weights; the generator has {len(shape.hidden)} blocks of "
            f"width {shape.width}"
        )
        cli.say(
            f"{data.size // 2} -> {data.size}: all three take {steps.steps:,} steps of the same "
            f"batches of {steps.batch_size}, {data.name}"
        )


def show(versus: Versus, found: Findings, features: FeatureNet, verdict: list[Claim]) -> None:
    """The table, what it takes to read it, and the verdicts."""
    count, size = len(found.pairs.true), found.pairs.true.shape[-1]
    cli.say(table(versus, found))
    cli.say(
        f"{count} images of {size}x{size}, {versus.split} split, {versus.factor} times enlarged; "
        f"{len(versus.seeds)} seeds, means ± deviations over those that held; {versus.samples} "
        f"versions of a flow at temperature {versus.temperature:g}, one of the others"
    )
    cli.say(
        f"Fréchet and feature distances: windows of {versus.window}x{versus.window}, features "
        f"{features.name}, SHA-256 {features.digest}; in brackets published FID and LPIPS of "
        "faces, 4 times enlarged: other data, nets and features, to compare the order with"
    )
    cli.say(
        "worse: evaluations of held-out images that were worse than the one before, of all; "
        "features: their distance"
    )
    cli.say(
        "L1 and the GAN read no noise: each has one version of an image, and so no diversity, by "
        "construction"
    )
    for claim in verdict:
        cli.say(claim.line())


def table(versus: Versus, found: Findings) -> Table:
    """Scores by method, then what training was like."""
    scores, columns = found.scores, [*METHODS, "cubic"]
    rows = []
    for key, (more, name) in SCORES.items():
        cells = []
        for method in columns:
            spread = scores[method].get(key)
            cell = "–" if spread is None else figure(key, spread.mean)
            if spread is not None and spread.deviation:
                cell += f" ± {spread.deviation:.2g}"
            published = PUBLISHED.get(key, {}).get(method)
            cells.append(cell + (f" [{published}]" if published else ""))
        rows.append([f"{name} {'↑' if more else '↓'}", *cells])
    for key, name in (("objective", "own loss"), ("psnr", "PSNR"), ("distance", "features")):
        counts = [all_setbacks(found.outcomes[method], key) for method in METHODS]
        rows.append([f"held-out {name} worse", *(f"{a} of {b}" for a, b in counts), ""])
    runs = [found.outcomes[method] for method in METHODS]
    failed = [f"{sum(not run.sound for run in each)} of {len(each)}" for each in runs]
    seconds = [f"{sum(run.seconds for run in each) / len(each):.0f}" for each in runs]
    rows.append(["runs not finite", *failed, ""])
    rows.append(["seconds a training", *seconds, ""])
    return figures_table(versus.title, ["", *(NAMES[name] for name in columns)], rows)


def pictures() -> ModuleType:
    """What draws; `InputError` where matplotlib is not installed."""
    try:
        from cascade.versus import pictures
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'csrflow[scores]'") from None
    return pictures


def report(
    versus: Versus,
    matches: list[Match],
    runs: list[Run],
    found: Findings,
    verdict: list[Claim],
    features: FeatureNet,
    guide: Guide,
) -> dict[str, Any]:
    """All that was found, for JSON."""
    return {
        "settings": asdict(versus),
        "matches": [match.figures() for match in matches],
        "images": len(found.pairs.true),
        **features.origin,
        "guide_sha256": guide.digest,
        "scores": found.rows,
        "published": PUBLISHED,
        "trainings": [training(run) for run in runs],
        "claims": [asdict(claim) for claim in verdict],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def training(run: Run) -> dict[str, Any]:
    """A training's outcome, and how often each score got worse."""
    outcome = run.outcome()
    worse = {key: setbacks(outcome.curve, key)[0] for key in ("objective", "psnr", "distance")}
    kept = {key: value for key, value in asdict(outcome).items() if key != "of"}
    at = {"method": run.method, "size": run.config.data.size, "seed": run.config.seed}
    return {**at, "sound": outcome.sound, "got_worse": worse, **kept}
