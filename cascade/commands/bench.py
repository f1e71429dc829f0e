"""Speed and memory of a stage, on this machine: python tools/bench.py configs/bench/glow32.yaml"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import distributed

from cascade.benchmark import launches, loading, measure
from cascade.benchmark.operations import BASELINES, VERSIONS, ours, shared
from cascade.commands.shared import cli, processes
from cascade.config import StageConfig, load_config
from stages import InputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = ("training", "likelihood", "sampling")
OF_A_CONDITION = {  # what an SRFlow is timed at as well
    "versions": f"{VERSIONS} samples of one low image",
    "encoder": "of training: the encoder",
    "condition": "of training: what its features decide",
}
TIMED = (*KINDS, *OF_A_CONDITION)
RATIOS = {
    "training": "train_ratio",
    "likelihood": "likelihood_ratio",
    "sampling": "sample_ratio",
    "versions": "versions_ratio",
}


def main() -> None:
    args = parse()
    if args.memory and args.json:
        raise InputError("--memory prints one number: --json does nothing with it, leave it out")
    cli.check_outputs([args.json], args.force)
    config = load_config(args.config, args.overrides)
    if args.loading:
        time_loading(args, config)
        return
    device = torch.device(cli.device_of(args))
    if args.memory:
        operation = "backward" if args.memory == "training" else args.memory
        print(measure.peak_memory(ours(config, device, args.precision[0])[operation], device))
        return
    if args.processes and config.train.batch_size % args.processes:
        raise InputError(
            f"{args.processes} processes cannot share a batch of {config.train.batch_size}"
        )
    count = processes.wanted(args, device) if args.processes else 1
    processes.run(count, partial(time_all, args, config, device, count))


def time_all(
    args: argparse.Namespace, config: StageConfig, device: torch.device, count: int
) -> None:
    """Time everything, ours by ``count`` processes; the first prints and writes the table."""
    cli.use_all_cores()
    state = cli.process_state(device)
    operations, counts = gather(args, config, device, count)
    seconds = measure.interleaved(operations, device, args.repeats)
    if not state.is_main_process:
        return
    result = {
        "config": args.config,
        "batch": config.train.batch_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "processes": count,
        "torch": torch.__version__,
        **summary(args, config.train.batch_size, seconds, counts, count),
        "dispatched": dispatched(config, device, args.precision),
    }
    show(result, args.against)
    if args.json:
        cli.write_json(result, args.json)


def gather(
    args: argparse.Namespace, config: StageConfig, device: torch.device, count: int
) -> tuple[dict[str, measure.Operation], dict[str, int]]:
    """All that is to be timed, by name, and the floating-point operations of what is ours.

    They are counted of the stage as it is written: not compiled, nothing computed twice. Where
    ``count`` processes share ours, what is not ours runs in the first, on all cores.
    """
    many = count > 1
    operations, counts = {}, {}
    written = replace(config, train=replace(config.train, compile=False, memory="store"))
    for precision in args.precision:
        theirs = BASELINES[args.against](written, device, precision) if args.against else {}
        peak = f"peak {precision}"
        product, counts[peak] = measure.matmul(device, PRECISIONS[precision])
        operations[peak] = on_all_cores(product) if many else product
        plain = ours(written, device, precision)
        mine = shared(config, device, precision, count) if many else ours(config, device, precision)
        for kind in filter(mine.__contains__, KINDS if many else TIMED):
            operations[f"{kind} {precision}"] = together(mine[kind]) if many else mine[kind]
            counts[f"{kind} {precision}"] = measure.flops(plain[kind]) * batches(kind, count)
        for kind in filter(theirs.__contains__, KINDS if many else RATIOS):
            run = on_all_cores(theirs[kind]) if many else theirs[kind]
            operations[f"{args.against} {kind} {precision}"] = run
    return operations, counts


def batches(kind: str, count: int) -> int:
    """Batches that an operation of ``count`` processes is of: they share that of training."""
    return 1 if kind == "training" else count


def together(operation: measure.Operation) -> measure.Operation:
    """An operation of all processes, done when all have done it."""

    def run() -> None:
        operation()
        distributed.barrier()

    return run


def on_all_cores(operation: measure.Operation) -> measure.Operation:
    """An operation of the first process, which has all cores while the others wait."""

    def run() -> None:
        if distributed.get_rank() == 0:
            with cli.all_cores():
                operation()
        distributed.barrier()

    return run


def summary(
    args: argparse.Namespace,
    batch: int,
    seconds: dict[str, list[float]],
    counts: dict[str, int],
    count: int,
) -> dict[str, Any]:
    """The table's rows, the peaks, and, ``--against`` another implementation, the ratios."""
    speeds = {name: count / median(seconds[name]) / 1e9 for name, count in counts.items()}
    rows, ratios = [], {}
    for precision in args.precision:
        for kind in TIMED:
            name = f"{kind} {precision}"
            if name not in seconds:
                continue
            images = VERSIONS if kind == "versions" else batch * batches(kind, count)
            time = median(seconds[name])
            share = speeds[name] / speeds[f"peak {precision}"]
            row = {"operation": kind, "precision": precision, "images_per_s": images / time}
            row |= {"ms": 1000 * time, "gflops": speeds[name], "share_of_peak": share}
            if kind in KINDS and count == 1:
                row["mib"] = memory_of(args, kind, precision) / 2**20
            rows.append(row)
            if f"{args.against} {name}" in seconds:
                result = measure.ratio(seconds[f"{args.against} {name}"], seconds[name])
                result *= batches(kind, count)
                ratios[RATIOS[kind] + "_bf16" * (precision == "bfloat16")] = result
    peaks = {precision: speeds[f"peak {precision}"] for precision in args.precision}
    return {"peak_gflops": peaks, "rows": rows, **ratios}


def dispatched(
    config: StageConfig, device: torch.device, precisions: list[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Operators and kernels of a training step by precision and part."""
    return {
        precision: {
            part: {"operators": found.operators, "kernels": found.kernels}
            for part, found in launches.of_a_step(config, device, precision).items()
        }
        for precision in precisions
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="YAML file of a stage")
    parser.add_argument("overrides", nargs="*", help="settings to change, as key=value")
    parser.add_argument(
        "--repeats", type=cli.positive, default=9, help="of which medians are taken"
    )
    parser.add_argument(
        "--precision", type=lambda text: text.split(","), default=["float32"],
        help="float32, bfloat16, or both: float32,bfloat16",
    )  # fmt: skip
    parser.add_argument(
        "--against", choices=list(BASELINES),
        help="a Glow of another package, an SRFlow that reads its condition at every step, or the "
        "same stage in the library's convolutions",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument(
        "--processes", type=cli.positive, metavar="N",
        help="ours by so many processes of a core each: they share a training step's batch, and "
        "have a batch each to score and to draw; of what it is compared with, all threads of one",
    )  # fmt: skip
    parser.add_argument(
        "--memory", choices=KINDS,
        help="print one operation's peak bytes alone, beyond weights, gradients and optimiser",
    )  # fmt: skip
    parser.add_argument(
        "--loading", action="store_true", help="what steps wait for their batches, and a start"
    )
    parser.add_argument(
        "--step", type=cli.positive, default=100, metavar="MS", help="of --loading: how long a "
        "step takes, which is slept",
    )  # fmt: skip
    parser.add_argument("--json", help="also write the table to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    args = parser.parse_intermixed_args()
    if not set(args.precision) <= set(PRECISIONS):
        raise InputError(
            f"--precision is float32, bfloat16 or both, got {','.join(args.precision)}"
        )
    return args


def time_loading(args: argparse.Namespace, config: StageConfig) -> None:
    """Time a start, and what steps wait for batches that ``train.workers`` processes make."""
    source, beginning = loading.start(config)
    workers = config.train.workers or 0
    waited = loading.waits(source, config, workers, args.step / 1000, 10 * args.repeats)
    result = {
        "config": args.config, "data": config.data.name, "images": len(source),
        "batch": config.train.batch_size, "workers": workers, "step_ms": args.step,
        "start": beginning, "waited_ms": waited,
    }  # fmt: skip
    cli.say(
        f"start: {beginning['open']:.2f} s to open, {beginning['digest']:.2f} s to digest "
        f"{len(source):,} images; {beginning['peak']:,.0f} MiB at most, {beginning['pss']:,.0f} "
        f"as its share, workers' {waited['workers_mib']:,.0f}"
    )
    cli.say(
        f"a step of {args.step} ms waits {waited['median']:.2f} ms for {config.train.batch_size} "
        f"images made by {workers or 'no'} workers (mean {waited['mean']:.2f}, worst "
        f"{waited['worst']:.2f}, the first {waited['first']:.0f})"
    )
    if args.json:
        cli.write_json(result, args.json)


def memory_of(args: argparse.Namespace, kind: str, precision: str) -> int:
    """Peak bytes of one operation, in a process of its own."""
    command = [sys.executable, "-m", "cascade.commands", "bench", args.config, *args.overrides]
    command += ["--memory", kind, "--precision", precision]
    command += ["--device", args.device] if args.device else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def show(result: dict[str, Any], against: str | None) -> None:
    title = f"{result['config']}, batch {result['batch']}, {result['device']}"
    table = Table("operation", title=title)
    for name in ("images/s", "ms", "GFLOP/s", "of the peak", "MiB"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        kind = OF_A_CONDITION.get(row["operation"], row["operation"])
        table.add_row(
            f"{kind}, {row['precision']}", f"{row['images_per_s']:.1f}", f"{row['ms']:.1f}",
            f"{row['gflops']:.1f}", f"{row['share_of_peak']:.0%}",
            f"{row['mib']:.0f}" if "mib" in row else "",
        )  # fmt: skip
    cli.say(table)
    peaks = ", ".join(f"{p} {speed:.0f}" for p, speed in result["peak_gflops"].items())
    cli.say(f"peak, from products of large matrices, GFLOP/s: {peaks}")
    for precision, parts in result["dispatched"].items():
        each = [f"{part} {n['operators']:,} ({n['kernels']:,})" for part, n in parts.items()]
        total = sum(n["operators"] for n in parts.values())
        cli.say(
            f"operators of a training step, {precision}, and those of them that run kernels: "
            f"{', '.join(each)}; {total:,} in all"
        )
    for name, value in result.items():
        if "_ratio" in name:
            cli.say(f"{name} over {against}: {value:.2f}")
