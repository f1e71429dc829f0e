"""Ctrl-C while a tool still imports ends it without a traceback; import this before all else.

`cli.run` gives Ctrl-C its usual meaning back.
"""

import os
import signal

INTERRUPTED = 130  # what a tool exits with after Ctrl-C

signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
