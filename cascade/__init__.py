"""A cascade of normalizing flows: training, sampling, and the likelihood of whole images."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.chain import Cascade
    from cascade.likelihood import Report
    from stages import InputError

__all__ = ["Cascade", "InputError", "Report"]
HOMES = {"Cascade": "cascade.chain", "InputError": "stages", "Report": "cascade.likelihood"}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first used: the command line starts without torch."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("csrflow")
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
