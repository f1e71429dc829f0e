"""A Space that shows a model: MODEL of its settings, a hub's owner/repository, or the digits."""

import os
import sys

from cascade.commands import run

if __name__ == "__main__":
    model, port = os.environ.get("MODEL") or "digits", os.environ.get("PORT") or "7860"
    sys.argv[1:] = [model, "--host", "0.0.0.0", "--port", port, "--no-browser"]
    run("explore")
