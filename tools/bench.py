"""Speed and memory of a stage, on this machine: python tools/bench.py configs/bench/glow32.yaml"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

import cli
import measure
import rivals
import torch
from rich.table import Table
from torch import Tensor

from cascade.config import StageConfig, load_config
from cascade.optimise import optimiser
from cascade.stage import build
from stages import InputError, StageLoss, initialise

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = ("training", "likelihood", "sampling")


def main() -> None:
    args = parse()
    cli.refuse_to_overwrite([args.json], args.force)
    config = load_config(args.config, args.overrides)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.memory:
        print(measure.peak_memory(ours(config, device, args.precision[0])[args.memory], device))
        return
    operations, counts = gather(args, config, device)
    seconds = measure.interleaved(operations, device, args.repeats)
    result = {
        "config": args.config,
        "batch": config.train.batch_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **summary(args, config.train.batch_size, seconds, counts),
    }
    show(result, args.against)
    if args.json:
        cli.write_json(result, args.json)


def gather(
    args: argparse.Namespace, config: StageConfig, device: torch.device
) -> tuple[dict[str, measure.Operation], dict[str, int]]:
    """All that is to be timed, by name, and the floating-point operations of what is ours."""
    operations, counts = {}, {}
    for precision in args.precision:
        peak = f"peak {precision}"
        operations[peak], counts[peak] = measure.matmul(device, PRECISIONS[precision])
        for kind, operation in ours(config, device, precision).items():
            operations[f"{kind} {precision}"] = operation
            counts[f"{kind} {precision}"] = measure.flops(operation)
        if args.against:
            for kind, operation in theirs(config, device, precision).items():
                operations[f"{args.against} {kind} {precision}"] = operation
    return operations, counts


def summary(
    args: argparse.Namespace, batch: int, seconds: dict[str, list[float]], counts: dict[str, int]
) -> dict[str, object]:
    """The table's rows, the peaks, and, ``--against`` another package, the ratios."""
    speeds = {name: count / median(seconds[name]) / 1e9 for name, count in counts.items()}
    rows = [
        {
            "operation": kind,
            "precision": precision,
            "images_per_s": batch / median(seconds[f"{kind} {precision}"]),
            "ms": 1000 * median(seconds[f"{kind} {precision}"]),
            "gflops": speeds[f"{kind} {precision}"],
            "share_of_peak": speeds[f"{kind} {precision}"] / speeds[f"peak {precision}"],
            "mib": memory_of(args, kind, precision) / 2**20,
        }
        for precision in args.precision
        for kind in KINDS
    ]
    ratios = {}
    for precision in args.precision if args.against else ():
        suffix = "_bf16" if precision == "bfloat16" else ""
        for kind, short in (("training", "train"), ("sampling", "sample")):
            name = f"{kind} {precision}"
            found = measure.ratio(seconds[f"{args.against} {name}"], seconds[name])
            ratios[f"{short}_ratio{suffix}"] = found
    peaks = {precision: speeds[f"peak {precision}"] for precision in args.precision}
    return {"peak_gflops": peaks, "rows": rows, **ratios}


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
    parser.add_argument("--against", choices=["normflows"], help="the same Glow of another package")
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument("--memory", choices=KINDS, help="print one operation's peak bytes alone")
    parser.add_argument("--json", help="also write the table to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    args = parser.parse_intermixed_args()
    if not set(args.precision) <= set(PRECISIONS):
        raise InputError(
            f"--precision is float32, bfloat16 or both, got {','.join(args.precision)}"
        )
    return args


def inputs(config: StageConfig, device: torch.device) -> tuple[Tensor | None, ...]:
    """What a stage's loss takes: made-up values of the right shapes."""
    torch.manual_seed(0)
    flow, count = build(config), config.train.batch_size
    x = torch.rand(count, *flow.shape, device=device) - 0.5
    half = config.data.size // 2
    low = torch.rand(count, config.data.channels, half, half, device=device) - 0.5
    label = torch.arange(count, device=device) % max(1, config.model.classes)
    return x, low if flow.encoder else None, label if flow.classes else None


def ours(config: StageConfig, device: torch.device, precision: str) -> dict[str, measure.Operation]:
    """One training step, log-probabilities and samples of one batch."""
    x, low, label = inputs(config, device)
    torch.manual_seed(0)
    loss = StageLoss(build(config)).to(device)
    initialise(loss, x, low, label)
    loss.flow.keep(config.train.memory)
    if config.train.compile:
        loss.compile()
    adam, flow = optimiser(loss, config.train), loss.flow
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    noise = torch.randn_like(x)

    def train() -> None:
        loss.train()
        with mixed:
            nats, _ = loss(x, low, label)
        (-nats.mean() / x[0].numel()).backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), config.train.clip, foreach=True)
        adam.step()
        adam.zero_grad()

    @torch.no_grad()
    def score() -> None:
        loss.eval()
        with mixed:
            flow.log_prob(x, low, label)

    @torch.no_grad()
    def sample() -> None:
        loss.eval()
        with mixed:
            flow.sample(noise, low, label)

    return {"training": train, "likelihood": score, "sampling": sample}


def theirs(
    config: StageConfig, device: torch.device, precision: str
) -> dict[str, measure.Operation]:
    """The same of normflows' Glow."""
    x, *_ = inputs(config, device)
    flow = rivals.normflows_glow(config, x).to(device)
    adam = optimiser(flow, config.train)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def train() -> None:
        with mixed:
            loss = flow.forward_kld(x)
        (loss / x[0].numel()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), config.train.clip, foreach=True)
        adam.step()
        adam.zero_grad()

    @torch.no_grad()
    def sample() -> None:
        with mixed:
            flow.sample(len(x))

    return {"training": train, "sampling": sample}


def memory_of(args: argparse.Namespace, kind: str, precision: str) -> int:
    """Peak bytes of one operation, in a process of its own."""
    command = [sys.executable, __file__, args.config, *args.overrides]
    command += ["--memory", kind, "--precision", precision]
    command += ["--device", args.device] if args.device else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def show(result: dict[str, object], against: str | None) -> None:
    title = f"{result['config']}, batch {result['batch']}, {result['device']}"
    table = Table("operation", title=title)
    for name in ("images/s", "ms", "GFLOP/s", "of the peak", "MiB"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        table.add_row(
            f"{row['operation']}, {row['precision']}", f"{row['images_per_s']:.1f}",
            f"{row['ms']:.1f}", f"{row['gflops']:.1f}", f"{row['share_of_peak']:.0%}",
            f"{row['mib']:.0f}",
        )  # fmt: skip
    cli.say(table)
    peaks = ", ".join(f"{p} {speed:.0f}" for p, speed in result["peak_gflops"].items())
    cli.say(f"peak, from products of large matrices, GFLOP/s: {peaks}")
    for name, value in result.items():
        if "_ratio" in name:
            cli.say(f"{name} over {against}: {value:.2f}")


if __name__ == "__main__":
    cli.run(main)
