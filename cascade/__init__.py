"""A cascade of normalizing flows: training, sampling, and the likelihood of whole images."""

from cascade.chain import Cascade
from cascade.likelihood import Report
from stages import InputError

__all__ = ["Cascade", "InputError", "Report"]
