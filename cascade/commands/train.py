"""Train one stage: accelerate launch tools/train.py configs/mnist5k/glow8.yaml [key=value ...]"""

from __future__ import annotations

import argparse
import os
import signal
from functools import partial
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cascade.building import build
from cascade.commands.shared import cli, costs, processes, train_all
from cascade.config import StageConfig, load_config
from cascade.manifest import register
from cascade.training.trainer import Trainer
from stages import Flow, InputError


def main() -> None:
    args = parse()
    if args.all:
        if args.processes:
            raise InputError("--all deals the cores out among stages: leave --processes out")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("--all starts processes of its own: run it without a launcher")
        result = train_all.jobs(args.all, [args.config, *args.overrides] if args.config else [])
        train_all.show(result) if args.dry_run else train_all.train(result)
        return
    cli.check_outputs([args.json], force=True)  # here --force is about the stage
    if not args.config:
        finish(costs.overview(), args.json)
        return
    config = load_config(args.config, args.overrides)
    if args.json and Path(args.json).resolve() == Path(config.out).resolve():
        raise InputError(f"--json {args.json} is the stage's folder: give it a name of its own")
    if args.dry_run:
        cli.say(description(config))
        finish(costs.report(config), args.json)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count = processes.wanted(args, device) if args.processes else 1  # by threads it is as fast
    processes.run(count, partial(train, config, args))


def train(config: StageConfig, args: argparse.Namespace) -> None:
    """Train a stage to its end, by the processes that share it; the first tells how it goes."""
    cli.use_all_cores()
    trainer = Trainer(config, restart=args.force)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while it trains, it answers; then it is ending
    if not trainer.accelerator.is_main_process:
        trainer.run()
        return
    cli.say(f"{config.out}: {parameters(trainer.flow):,} parameters, from step {trainer.step}")
    if trainer.processes.count > 1:
        cli.say(
            f"{trainer.processes.count} processes share each batch; another number of them gives "
            "weights with other last bits"
        )
    last: dict[str, float] = {}
    with progress_bar() as bar:
        budget = config.train.seconds  # the bar counts seconds where they are limited, or steps
        task = bar.add_task(trainer.out.name, total=budget or trainer.steps, figures="")
        bar.update(task, completed=trainer.progress.seconds if budget else trainer.step)

        def watch(step: int, metrics: dict[str, float]) -> None:
            last.update(metrics)
            bar.update(task, completed=metrics.get("seconds", step), figures=figures(metrics))
            for name in ("bpd", "l1"):
                held_out = metrics.get(f"{trainer.data.held_out.split}_{name}")
                if held_out is not None:
                    line = f"step {step}: {figures(metrics)}, {held_out:.3f} {name} held out"
                    bar.console.print(line)

        finished = trainer.run(watch)
    if trainer.progress.skipped:
        skipped = f"{trainer.progress.skipped} of {trainer.step} steps were skipped as not finite"
        cli.say(f"note: {skipped}; {trainer.out}/metrics.jsonl says which")
    if finished and trainer.out_of_patience:
        cli.say(
            f"no lower figure in train.patience={config.train.patience}: training ends at step "
            f"{trainer.step}, with the weights of the best save, {trainer.progress.best:.3f} bpd"
        )
    finish({"out": config.out, "finished": finished, **last}, args.json)
    if finished:
        cli.say(register(trainer.out))
    else:
        cli.say(f"stopped at step {trainer.step}; the same command continues")


def finish(result: object, file: str | None) -> None:
    """Write figures to the file that --json names, if it does."""
    if file:
        cli.write_json(result, file)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", help="YAML file of the stage")
    parser.add_argument("overrides", nargs="*", help="settings to change, as key=value")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="do not train: say what a stage is and costs, or what all shipped ones cost",
    )  # fmt: skip
    processes.add_argument(parser, usual="one, with all cores as its threads")
    parser.add_argument("--force", action="store_true", help="train a stage from the start")
    parser.add_argument("--json", help="also write the last figures to this file")
    parser.add_argument("--all", metavar="FOLDER", help="train every stage of a folder of configs")
    args = parser.parse_intermixed_args()
    if not (args.config or args.all or args.dry_run):
        parser.error("give a stage's YAML file, or --all FOLDER")
    if args.all and (args.force or args.json):
        parser.error("--force and --json are for one stage")
    return args


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]},", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=cli.console,
    )


def figures(metrics: dict[str, float]) -> str:
    replaced = f", {metrics['replaced']:.1%} replaced" if "replaced" in metrics else ""
    name = "bpd" if "bpd" in metrics else "l1"
    return (
        f"{metrics[name]:.3f} {name}, {metrics['images_per_s']:.0f} images/s, "
        f"|gradient| {metrics['grad_norm']:.2g}" + replaced
    )


def parameters(flow: Flow) -> int:
    return sum(p.numel() for p in flow.parameters())


def description(config: StageConfig) -> Table:
    """Parameters, and the shape every level works at."""
    table = Table("level", "shape of its steps", "steps", title=f"{config.model.kind} {config.out}")
    flow = build(config)
    channels, size, _ = flow.shape
    for level in range(1, config.model.levels + 1):
        if level > 1 or flow.squeezed:
            channels, size = 4 * channels, size // 2
        table.add_row(str(level), f"{channels}x{size}x{size}", str(config.model.steps))
        channels //= 2
    table.caption = f"{parameters(flow):,} parameters, {config.model.classes} classes"
    return table
