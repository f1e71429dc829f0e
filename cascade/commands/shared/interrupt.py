"""Ctrl-C while a command still imports."""

import os
import signal

INTERRUPTED = 130  # the exit code after Ctrl-C


def end_quietly() -> None:
    """From now on Ctrl-C ends the process without a traceback; `cli.run` takes that back."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
