"""What the command line of `cascade.commands.likelihood` may say, and what goes together."""

from __future__ import annotations

import argparse
import math

from cascade import Cascade, InputError
from cascade.commands.shared import cli, processes
from cascade.commands.shared.images import add_data_arguments
from cascade.data import SPLITS
from cascade.data.sources import ImageSource
from cascade.stage import DTYPES

LABEL_MODES = ("given", "marginal", "none")


def parse(description: str | None) -> argparse.Namespace:
    """The command line; `InputError` for options that do not go together."""
    parser = argparse.ArgumentParser(description=description)
    cli.add_cascade_arguments(parser, nargs="?")
    processes.add_argument(parser)
    add_data_arguments(parser)
    parser.add_argument("--samples", type=cli.positive, default=1, help="dequantisation samples K")
    parser.add_argument("--label-mode", choices=LABEL_MODES, default="marginal")
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
    parser.add_argument(
        "--no-files", dest="files", action="store_false", help="leave out sizes as PNG and WebP"
    )
    parser.add_argument(
        "--shard", metavar="I/N", type=shard, default=(1, 1),
        help="score the I-th of N parts of the images, into an .npz for --merge",
    )  # fmt: skip
    parser.add_argument(
        "--merge", nargs="+", metavar="NPZ", help="put the .npz files of all shards together"
    )
    args = parser.parse_args()
    if bool(args.run) == bool(args.merge):
        parser.error("give a cascade's folder to score with, or --merge and the files of shards")
    of_merging = ("merge", "json", "csv", "npz", "force")
    idle = [k for k, v in vars(args).items() if v != parser.get_default(k) and k not in of_merging]
    if args.merge and idle:
        raise InputError(
            f"{', '.join(idle)}: shards hold their settings; leave it out with --merge"
        )
    check_shard(args)
    return args


def shard(text: str) -> tuple[int, int]:
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text} is no part such as 3/16")
    return number, count


def check_shard(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that a shard cannot follow."""
    if args.shard[1] == 1:
        return
    of_all = ("json", "csv", "heatmap", "variational", "compare", "check")
    given = [f"--{name}" for name in of_all if getattr(args, name)]
    if given:
        raise InputError(f"{', '.join(given)}: of all images, not of a shard; leave it out")
    if not args.npz:
        raise InputError("--shard needs --npz FILE, which --merge puts together with the others")


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
        if args.label_mode != "marginal":
            mode = args.label_mode
            raise InputError(f"--label-mode {mode}, but no stage of this cascade uses labels")
        return None, None
    unlabelled = [stage.name for stage in cascade.stages if not stage.classes]
    if unlabelled:
        cli.say(f"labels are ignored by the unconditional {', '.join(unlabelled)}")
    if args.label_mode == "given" and args.compare:
        raise InputError("--compare needs --label-mode marginal: other images have no such labels")
    if args.label_mode == "none" and not cascade.label_optional:
        raise InputError("--label-mode none needs stages that were trained with label_dropout")
    if args.label_mode == "given" and source.labels is None:
        raise InputError(f"--label-mode given, but {args.data} has no labels of these classes")
    if args.label_mode == "none" and args.variational:
        raise InputError("--variational is given labels: leave --label-mode none out")
    if args.label_mode != "marginal" or args.prior == "uniform":
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
