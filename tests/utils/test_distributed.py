"""Rows dealt out among processes."""

import torch

from cascade.utils.distributed import spread


def test_spread_gives_every_row_once():
    def rows_of(first, number):
        return [torch.arange(first, first + number)[:, None]]

    for batch in (1, 4, 10, 64):
        assert spread(rows_of, 10, batch)[0].flatten().tolist() == list(range(10))
