"""Which scores without a reference a command line asks for."""

from __future__ import annotations

import argparse

from cascade.evaluation.enlargements.no_reference import Judge, judges


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One of each: a file that it takes, or a word."""
    parser.add_argument(
        "--niqe", metavar="FILE", help="NIQE by what csrflow pristine wrote, or the authors' .mat"
    )
    parser.add_argument("--brisque", metavar="FILE.pt", help="BRISQUE by piq's file of weights")
    parser.add_argument("--piqe", action="store_true", default=None, help="PIQE, which needs none")


def judges_of(args: argparse.Namespace) -> list[Judge]:
    """What the arguments name; `InputError` where a file or a package is missing."""
    return judges(args.niqe, args.brisque, bool(args.piqe))
