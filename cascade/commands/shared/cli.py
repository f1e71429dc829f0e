"""What every tool does the same way: one-line errors, threads, device, files never overwritten."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from accelerate import PartialState
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import distributed

from cascade import Cascade, InputError
from cascade.commands.shared.interrupt import INTERRUPTED
from cascade.pretrained import find_model
from cascade.utils.chunks import CHUNK, LARGE
from cascade.utils.files import check_writable, finite, whole
from cascade.utils.workers import usable_cores
from stages import InputWarning, ReportedElsewhere

RUN = "folder of a cascade or of one stage, or a model's name, or a hub's owner/repository"
PLOTS = (".png", ".pdf", ".svg")  # what curves can be written as


class Terminal(Console):
    """A console that falls silent where nobody reads it any more: results are files."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = Terminal(markup=False)


def run(main: Callable[[], None]) -> None:
    """Run a tool; bad input becomes one line on standard error and exit code 2."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may not be of its encoding
    use_all_cores()
    guarded(main)


def guarded(work: Callable[[], None]) -> None:
    """Do a command's work; what went wrong becomes a line and an exit code."""
    try:
        with notes():
            work()
    except ReportedElsewhere:
        sys.exit(2)
    except (InputError, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
            raise
        reason = one_line(str(error).splitlines()[0])
        print(f"error: out of memory, lower the batch or --chunk: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # or a process that is done first may abort


def say(shown: str | Table) -> None:
    """Print a line, or a table."""
    shown = one_line(shown) if isinstance(shown, str) else shown
    console.print(shown, highlight=False, soft_wrap=True)


def one_line(text: str) -> str:
    """A text with what cannot be printed escaped: a file's name may hold anything, newlines too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def use_all_cores() -> None:
    """Share this machine's cores among its processes: launchers set one thread a process."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, usable_cores() // processes))


def process_state(device: str | torch.device) -> PartialState:
    """What a process knows of others that share its work, through the device that they use."""
    return PartialState(cpu=torch.device(device).type == "cpu")


def use_one_core(device: str | torch.device) -> None:
    """On a CPU, one thread: last bits depend on their number, results must not."""
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)


@contextmanager
def all_cores() -> Iterator[None]:
    """What is done inside has all cores, however many processes share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_cascade_arguments(
    parser: argparse.ArgumentParser, nargs: Literal["?"] | None = None
) -> None:
    """The cascade to read (``?``: if one is named), and how to run it."""
    add_run_arguments(parser, nargs)
    add_chunk_argument(parser)
    parser.add_argument(
        "--told-sigma", type=float, help="what stages trained with augment.condition are told"
    )
    parser.add_argument(
        "--compile", action="store_true", help="let torch.compile make what each stage computes"
    )


def add_chunk_argument(parser: argparse.ArgumentParser) -> None:
    """How many images a net sees at once."""
    parser.add_argument(
        "--chunk", type=positive, metavar="N",
        help=f"images that a net sees at once (default: {CHUNK} on a CPU, {LARGE} on a GPU)",
    )  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser, nargs: Literal["?"] | None = None) -> None:
    """The folder to read stages from, the seed, and where to run and report."""
    parser.add_argument("run", nargs=nargs, help=RUN)
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
        result = [float(part) for part in text.split(",")]
    except ValueError:
        result = [math.nan]
    if not all(0 <= value < math.inf for value in result):
        raise InputError(
            f"--temperature takes finite numbers not below 0 such as 0.8 or 0.9,0.8, got {text}"
        )
    return result


def load_cascade(args: argparse.Namespace, dtype: str = "float32") -> Cascade:
    """The cascade the arguments name, on their device."""
    device = device_of(args)
    cascade = Cascade.load(find_model(args.run), stages_of(args), device, dtype, args.chunk)
    cascade = cascade if args.told_sigma is None else cascade.given_sigma(args.told_sigma)
    return cascade.compiled() if args.compile else cascade


def device_of(args: argparse.Namespace) -> str | torch.device:
    """The device that was asked for, else a GPU where there is one; `InputError` if it fails."""
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else None
    device = args.device or gpu or "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device} cannot be used here: {reason}") from None
    return device


def stages_of(args: argparse.Namespace) -> list[str] | None:
    """The stages that --stages names."""
    return args.stages.split(",") if args.stages else None


@contextmanager
def notes() -> Iterator[None]:
    """Print each remark that is made inside as a note, once, by the first process of a launch."""
    usual, seen = warnings.showwarning, set()

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, InputWarning):
            usual(message, category, *place)
        elif str(message) not in seen and os.environ.get("RANK", "0") == "0":
            seen.add(str(message))
            say(f"note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = show  # type: ignore[assignment]  # nobody names a place
        yield


def check_outputs(files: Sequence[str | None], force: bool) -> None:
    """Raise `InputError`, before any work is done, unless every output of a command can be written.

    None may exist already, but for ``force``; no two may be the same file, or one within another.
    """
    given = [file for file in files if file is not None]
    for file in given:
        if not Path(file).name:
            raise InputError(f"{file!r} is no file's name: nothing can be written to it")
        if os.path.lexists(file) and not Path(file).is_file():
            raise InputError(f"{file} is not a file: nothing can be written to it")
        if Path(file).exists() and not force:
            raise InputError(f"{file} exists; pass --force to overwrite it")
    places: dict[Path, str] = {}
    for file in given:
        place = Path(file).resolve()
        if place in places:
            raise InputError(
                f"{places[place]} and {file} are one file: give every output a name of its own"
            )
        places[place] = file
    for place, file in places.items():
        outer = next((places[folder] for folder in place.parents if folder in places), None)
        if outer:
            raise InputError(f"{file} would lie in {outer}, which is to be a file: rename one")
        check_writable(file)


def check_memory(needed: int, what: str, advice: str = "lower --num") -> None:
    """Raise `InputError` where what is to be held takes more bytes than this machine has free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{what} take {needed / 2**30:,.0f} GiB of memory, {free / 2**30:,.0f} GiB are free: "
            + advice
        )


def check_picture(file: str | None) -> None:
    """Raise `InputError` unless a file's name is that of a picture that can be written."""
    if (
        file is not None
        and Image.registered_extensions().get(Path(file).suffix.lower()) not in Image.SAVE
    ):
        raise InputError(f"{file} is not a picture's file name, such as grid.png")


def check_plot(file: str | None) -> None:
    """Raise `InputError` unless a file's name is one that curves can be written to."""
    if file is not None and Path(file).suffix not in PLOTS:
        raise InputError(f"{file} must end in {', '.join(PLOTS[:-1])} or {PLOTS[-1]}")


def write_json(result: object, file: str) -> None:
    """Write a tool's result, whole or not at all."""
    with whole(file) as aside:
        aside.write_text(json.dumps(finite(result), indent=2, allow_nan=False) + "\n", "utf-8")


def positive(text: str) -> int:
    """An argument that must be a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
