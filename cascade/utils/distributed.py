"""Work on numbered rows, dealt out among processes: the same for any number of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor

Rows = list[Tensor]


def spread(
    rows_of: Callable[[int, int], Rows],
    count: int,
    batch: int,
    state: PartialState | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Rows:
    """Tables of ``count`` rows on every process, from ``rows_of(first, number)`` of their parts.

    Parts hold ``batch`` rows. Where processes outnumber the parts left, some repeat the last part,
    which then counts once.
    """
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    starts = range(0, count, batch)
    parts: list[Rows] = []
    for turn in range(0, len(starts), processes):
        first = starts[min(turn + rank, len(starts) - 1)]
        rows = rows_of(first, min(batch, count - first))
        if processes > 1:
            together = [_gathered(_padded(table, batch), state, processes) for table in rows]
            dealt = zip(*(table.split(batch) for table in together), strict=True)
            parts += [list(part) for part in dealt][: len(starts) - turn]
        else:
            parts.append(rows)
        advance(min(processes * batch, count - turn * batch))
    return [torch.cat(tables)[:count] for tables in zip(*parts, strict=True)]


def _gathered(table: Tensor, state: PartialState, processes: int) -> Tensor:
    """Every process's table, one below the other; one without columns cannot be sent."""
    if not table[0].numel():
        return table.repeat_interleave(processes, 0)
    return gather(table.to(state.device)).cpu()


def _padded(table: Tensor, rows: int) -> Tensor:
    """The table with its last row repeated, so that all processes send as many."""
    return table[torch.arange(rows).clamp(max=len(table) - 1)]
