"""Chunks: a row's result depends neither on how many rows there are nor on which."""

import pytest
import torch

from cascade.utils.chunks import CHUNK, in_chunks


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_every_row_once_in_chunks_of_one_size(count):
    sizes, x, y = [], torch.randn(count, 3).double(), torch.arange(count)

    def function(rows, none, others):
        assert none is None
        sizes.append(len(rows))
        return rows.sum(1) + others

    found = in_chunks(function, x, None, y)
    assert torch.equal(found, x.sum(1) + y)
    assert sizes == [CHUNK] * -(-count // CHUNK)


def test_a_row_is_the_same_bits_in_any_company():
    torch.manual_seed(0)
    x, weight = torch.randn(41, 64).double(), torch.randn(64, 64).double()
    together = in_chunks(lambda rows: rows @ weight, x)
    order = torch.randperm(len(x))
    assert torch.equal(in_chunks(lambda rows: rows @ weight, x[order]), together[order])
    assert torch.equal(in_chunks(lambda rows: rows @ weight, x[7:8]), together[7:8])
