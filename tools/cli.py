"""What every tool does the same way: one-line errors, threads, device, files never overwritten."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from torch import distributed

from cascade import Cascade, InputError
from cascade.files import finite, whole
from stages import Remark, SaidElsewhere

console = Console(markup=False)
say = partial(console.print, highlight=False, soft_wrap=True)


def run(main: Callable[[], None]) -> None:
    """Run a tool; bad input becomes one line on standard error and exit code 2."""
    use_all_cores()
    try:
        main()
    except SaidElsewhere:
        sys.exit(2)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # or a process that is done first may abort


def use_all_cores() -> None:
    """Share this machine's cores among its processes: launchers set one thread a process."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // processes))


def add_cascade_arguments(parser: argparse.ArgumentParser) -> None:
    """The cascade to read, and how to run it."""
    add_run_arguments(parser)
    parser.add_argument("--batch", type=positive, default=128, help="images held at once")
    parser.add_argument(
        "--told-sigma", type=float, help="what stages trained with augment.condition are told"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder to read stages from, the seed, and where to run and report."""
    parser.add_argument("run", help="a cascade folder, or the folder of one stage")
    parser.add_argument(
        "--stages", help="its stages, base first, in place of cascade.yaml's: a,b,c"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def temperatures(text: str) -> list[float]:
    """What --temperature gives: one number, or one a stage."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--temperature takes numbers such as 0.8 or 0.9,0.8, got {text}"
        ) from None


def load_cascade(args: argparse.Namespace, dtype: str = "float32") -> Cascade:
    """The cascade the arguments name, on their device."""
    device = device_of(args)
    with notes():
        cascade = Cascade.load(args.run, stages_of(args), device, dtype)
    if args.told_sigma is not None:
        cascade.tell(args.told_sigma)
    return cascade


def device_of(args: argparse.Namespace) -> str | torch.device:
    """The device that was asked for, else a GPU where there is one; `InputError` if it fails."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device} cannot be used here: {reason}") from None
    return device


def stages_of(args: argparse.Namespace) -> list[str] | None:
    """The stages that --stages names."""
    return args.stages.split(",") if args.stages else None


@contextmanager
def notes() -> Iterator[None]:
    """Print remarks that are made inside as notes, a line each; other warnings as they are."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", Remark)
        yield
    for warning in {str(warning.message): warning for warning in given}.values():
        if issubclass(warning.category, Remark):
            say(f"note: {warning.message}")
        else:
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def refuse_to_overwrite(files: Sequence[str | None], force: bool) -> None:
    """Raise `InputError` if an output exists already, before any work is done."""
    for file in files:
        if file and Path(file).exists() and not force:
            raise InputError(f"{file} exists; pass --force to overwrite it")


def check_picture(file: str | None) -> None:
    """Raise `InputError` unless a file's name is that of a picture that can be written."""
    if file and Image.registered_extensions().get(Path(file).suffix.lower()) not in Image.SAVE:
        raise InputError(f"{file} is not a picture's file name, such as grid.png")


def write_json(result: dict[str, object], file: str) -> None:
    """Write a tool's result, whole or not at all."""
    with whole(file) as aside:
        aside.write_text(json.dumps(finite(result), indent=2, allow_nan=False) + "\n")


def positive(text: str) -> int:
    """An argument that must be a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
