"""How the costs of stages are printed: of one, and of all shipped configurations beside others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cascade.benchmark.cost import Cost, Work, cost
from cascade.benchmark.machines import GPUS, Machine, this_core, training_seconds
from cascade.commands.shared import cli
from cascade.config import StageConfig, load_config
from cascade.config.shipped import shipped_names

COLUMNS = (
    "weights, millions",
    "batch",
    "GFLOP: a step",
    "a likelihood",
    "a sample",
    "operators",
    "GB moved",
    "GB held",
)


def report(config: StageConfig) -> dict[str, Any]:
    """Print what a stage costs; gives the same figures for JSON."""
    counted, machines = cost(config), (this_core(), *GPUS)
    cli.say(works(counted))
    cli.say(times(counted, machines))
    return figures(counted, machines)


def overview() -> list[dict[str, Any]]:
    """Print a row of Markdown for every shipped configuration; gives the same figures for JSON."""
    machines = (this_core(), *GPUS)
    cli.say(f"| {' | '.join(['', *COLUMNS, *(machine.name for machine in machines)])} |")
    cli.say("|---" * (1 + len(COLUMNS) + len(machines)) + "|")
    results = []
    for name in shipped_names():
        if not name.startswith(("tables/", "versus/")):
            found = figures(cost(load_config(name)), machines)
            cli.say(f"| `{name}` | {' | '.join(cells(found, machines))} |")
            results.append({"config": name, **found})
    return results


def works(counted: Cost) -> Table:
    """Operations, bytes and operators of a training step, a likelihood and a sample."""
    table = Table("of", title="what it takes")
    for name in ("GFLOP", "MB read and written", "operators"):
        table.add_column(name, justify="right")
    rows: dict[str, Work | None] = {
        f"a training step, batch {counted.config.train.batch_size}": counted.step,
        "an image's likelihood": counted.likelihood,
        "a sample": counted.sample,
    }
    for name, work in rows.items():
        if work is not None:
            cells = (f"{work.flops / 1e9:,.3f}", f"{work.bytes / 1e6:,.0f}", f"{work.launches:,}")
            table.add_row(name, *cells)
    train, step = counted.config.train, counted.step
    table.caption = (
        f"memory: {counted.kept / 1e6:,.0f} MB of weights, average and moments, "
        f"{step.peak / 1e6:,.0f} MB of gradients and activations (train.memory={train.memory})"
    )
    return table


def times(counted: Cost, machines: Sequence[Machine]) -> Table:
    """Predicted times of a step and of the whole training."""
    table = Table("on", title="how long it would take (docs/scale.md says how this is known)")
    for name in ("ms a step", "hours in all"):
        table.add_column(name, justify="right")
    for machine in machines:
        seconds = training_seconds(counted, machine)
        cells = ("the batch does not divide", "")
        if seconds:
            cells = (f"{1000 * seconds[0]:,.1f}", f"{seconds[1] / 3600:,.2f}")
        table.add_row(machine.name, *cells)
    return table


def figures(counted: Cost, machines: Sequence[Machine]) -> dict[str, Any]:
    """All figures of a stage, in units of one: operations, bytes, seconds."""
    step = counted.step
    result: dict[str, Any] = {
        "weights": counted.weights,
        "batch": counted.config.train.batch_size,
        "step_flops": step.flops,
        "likelihood_flops": counted.likelihood.flops,
        "sample_flops": counted.sample and counted.sample.flops,
        "step_bytes": step.bytes,
        "step_operators": step.launches,
        "memory": counted.kept + step.peak,
        "machines": {},
    }
    for machine in machines:
        seconds = training_seconds(counted, machine)
        if seconds:
            result["machines"][machine.name] = {"step": seconds[0], "training": seconds[1]}
    return result


def cells(found: dict[str, Any], machines: Sequence[Machine]) -> list[str]:
    """A row of the overview: those of `COLUMNS`, then milliseconds a step and hours on machines."""
    flops = (found["step_flops"], found["likelihood_flops"], found["sample_flops"])
    result = [f"{found['weights'] / 1e6:,.2f}", f"{found['batch']}"]
    result += ["" if count is None else giga(count) for count in flops]
    result += [f"{found['step_operators']:,}", giga(found["step_bytes"]), giga(found["memory"])]
    for machine in machines:
        seconds = found["machines"].get(machine.name)
        result += [f"{1000 * seconds['step']:,.0f}; {hours(seconds)}" if seconds else ""]
    return result


def giga(value: float) -> str:
    value /= 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def hours(seconds: dict[str, float]) -> str:
    value = seconds["training"] / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
