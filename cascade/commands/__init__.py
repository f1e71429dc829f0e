"""The command line: a module a command, which parses, builds, calls and prints.

Nothing is imported here that takes long, so that Ctrl-C is quiet from the start.
"""

from __future__ import annotations

import importlib
import sys

from cascade.commands.shared.interrupt import end_quietly

COMMANDS = {
    "train": "train a stage, or all stages of a cascade",
    "sample": "draw a grid of samples",
    "likelihood": "bits/dim of a data set",
    "evaluate": "FID and other scores of samples, super-resolution scores of real pairs",
    "features": "train a net whose features scores compare",
    "pristine": "learn what good photos are like, for NIQE",
    "tables": "train and score a table of cascades",
    "versus": "a flow against a GAN and L1, made equal",
    "figures": "draw figures of cascades and of training",
    "upscale": "enlarge a photo",
    "colour": "colour grey photos",
    "inpaint": "fill a part of a photo",
    "compress": "images into a lossless archive",
    "decompress": "images out of an archive",
    "explore": "play with a model in the browser",
    "bench": "measure speed and memory of a stage",
}


def run(command: str) -> None:
    """Run a command on ``sys.argv``; Ctrl-C during its imports ends it without a traceback."""
    end_quietly()
    from cascade.commands.shared import cli

    cli.run(importlib.import_module(f"cascade.commands.{command}").main)


def main() -> None:
    """``csrflow COMMAND ...``"""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        sys.argv[:2] = [f"csrflow {command}"]
        run(command)
        return
    if command == "--version":
        from importlib.metadata import version

        print(f"csrflow {version('csrflow')}")
        return
    lines = [f"  {name:<11} {what}" for name, what in COMMANDS.items()]
    text = "\n".join(["usage: csrflow COMMAND ...", "", *lines, "", "csrflow COMMAND --help"])
    if command in ("-h", "--help"):
        print(text)
        return
    print(f"error: there is no command {command!r}\n{text}", file=sys.stderr)
    sys.exit(2)
