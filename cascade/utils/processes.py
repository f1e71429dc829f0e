"""What the processes of one run tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from stages import InputError, ReportedElsewhere

Result = TypeVar("Result")


class Processes:
    """The processes of a run: what one of them finds, all of them know."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.count = accelerator.num_processes
        self.main = accelerator.is_main_process

    def agree(self, work: Callable[[], Result]) -> Result:
        """``work()`` on every process; an `InputError` of any becomes one of all, said once."""
        result: Any = None
        error = None
        try:
            result = work()
        except InputError as caught:
            error = caught
        if self.count > 1:
            messages = gather_object([error and str(error)])
            first = next((message for message in messages if message), None)
            if first:
                raise (InputError if self.main else ReportedElsewhere)(first) from error
        elif error:
            raise error
        return result

    def any(self, flag: bool | Tensor) -> bool:
        """Whether a flag is set on any process."""
        if self.count == 1:
            return bool(flag)
        total = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(total, "sum"))

    def first(self, value: float) -> float:
        """The first process's number, on every process."""
        if self.count == 1:
            return value
        own = torch.tensor(value if self.main else 0.0, dtype=torch.float64)
        return float(self.accelerator.reduce(own.to(self.accelerator.device), "sum"))

    def gather(self, value: Result) -> list[Result]:
        """Every process's value, on every process."""
        return gather_object([value]) if self.count > 1 else [value]


def lost_a_process(error: RuntimeError) -> bool:
    """Whether an error is that of a process group of which a process has ended."""
    return isinstance(error, torch.distributed.DistError) or "onnection" in str(error)
