"""Play with a model in the browser: python tools/explore.py runs/mnist5k-haar"""

from __future__ import annotations

import argparse

from cascade.commands.shared import cli
from cascade.web.model import open_model
from cascade.web.page import LOCAL, serve

USUAL = "digits"  # comes with the package


def main() -> None:
    args = parse()
    model = open_model(args.model, cli.device_of(args))
    serve(
        model, args.host, args.port, not args.no_browser,
        lambda address: cli.say(f"{address} shows {args.model}; Ctrl-C ends it"),
    )  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=USUAL, help=f"{cli.RUN} (default: {USUAL})")
    parser.add_argument("--host", default=LOCAL, help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, help="the first free one from 7860 on if not given")
    parser.add_argument("--no-browser", action="store_true", help="open none")
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    return parser.parse_args()
