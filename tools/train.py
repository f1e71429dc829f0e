"""Train one stage: accelerate launch tools/train.py configs/mnist5k/glow8.yaml [key=value ...]"""

from __future__ import annotations

import argparse
from pathlib import Path

import cli
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cascade.config import StageConfig, load_config
from cascade.manifest import register
from cascade.stage import build
from cascade.train import Trainer


def main() -> None:
    args = parse()
    config = load_config(args.config, args.overrides)
    if args.dry_run:
        cli.console.print(description(config))
        return
    trainer = Trainer(config)
    if not trainer.accelerator.is_main_process:
        trainer.run()
        return
    cli.console.print(f"{config.out}: {parameters(config):,} parameters, from step {trainer.step}")
    with progress_bar() as bar:
        task = bar.add_task(Path(config.out).name, total=config.train.steps, figures="")
        bar.update(task, completed=trainer.step)

        def watch(step: int, metrics: dict[str, float]) -> None:
            bar.update(task, completed=step, figures=figures(metrics))
            if "validation_bpd" in metrics:
                bar.console.print(f"step {step}: {figures(metrics)}", highlight=False)

        finished = trainer.run(watch)
    if finished:
        cli.console.print(register(trainer.out), highlight=False)
    else:
        cli.console.print(f"stopped at step {trainer.step}; the same command continues")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="YAML file of the stage")
    parser.add_argument("overrides", nargs="*", help="settings to change, as key=value")
    parser.add_argument("--dry-run", action="store_true", help="describe the stage, do not train")
    return parser.parse_args()


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=cli.console,
    )


def figures(metrics: dict[str, float]) -> str:
    held_out = metrics.get("validation_bpd")
    return (
        f"{metrics['bpd']:.3f} bpd"
        + (f" ({held_out:.3f} held out)" if held_out is not None else "")
        + f", {metrics['images_per_s']:.0f} images/s, gradient {metrics['grad_norm']:.2g}"
    )


def parameters(config: StageConfig) -> int:
    return sum(p.numel() for p in build(config).parameters())


def description(config: StageConfig) -> Table:
    """Parameters, and the shape every level works at."""
    table = Table("level", "shape of its steps", "steps", title=f"{config.model.kind} {config.out}")
    channels, size = config.data.channels, config.data.size
    for level in range(1, config.model.levels + 1):
        channels, size = 4 * channels, size // 2
        table.add_row(str(level), f"{channels}x{size}x{size}", str(config.model.steps))
        channels //= 2
    table.caption = f"{parameters(config):,} parameters, {config.model.classes} classes"
    return table


if __name__ == "__main__":
    cli.run(main)
