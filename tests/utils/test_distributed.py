"""Rows dealt out among processes."""

import torch

from cascade.utils.distributed import spread


def test_spread_gives_every_row_once():
    def rows_of(first, number):
        return [torch.arange(first, first + number)[:, None]]

    for batch in (1, 4, 10, 64):
        assert spread(rows_of, 10, batch)[0].flatten().tolist() == list(range(10))


def test_tables_side_by_side_and_what_was_done():
    done = []

    def rows_of(first, number):
        rows = torch.arange(first, first + number)
        return [rows[:, None].double(), rows.new_zeros(number, 0), rows[:, None] ** 2]

    ones, none, squares = spread(rows_of, 10, 4, advance=done.append)
    assert torch.equal(squares.double(), ones**2) and none.shape == (10, 0)
    assert done == [4, 4, 2]
