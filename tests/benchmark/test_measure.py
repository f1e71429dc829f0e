"""What is measured is counted rightly; how fast this machine is, is not tested."""

import pytest
import torch
from torch import nn

from cascade.benchmark.measure import flops, interleaved, matmul, peak_memory, ratio

CPU = torch.device("cpu")


def test_operations_run_in_turn_after_a_warm_up():
    seen = []
    operations = {name: lambda name=name: seen.append(name) for name in "abc"}
    seconds = interleaved(operations, CPU, 4)
    assert seen == list("abc") * 5
    assert list(seconds) == list("abc") and all(len(times) == 4 for times in seconds.values())


def test_products_are_counted():
    a, b = torch.randn(3, 5).double(), torch.randn(5, 7).double()
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7
    conv = nn.Conv2d(2, 4, 3, padding=1).double()
    assert flops(lambda: conv(torch.zeros(1, 2, 8, 8).double())) == 2 * 8 * 8 * 2 * 4 * 9
    product, count = matmul(CPU, torch.float64)
    assert flops(product) == count


def test_what_an_operation_keeps_from_its_first_run_is_not_counted():
    kept = {}
    a = torch.randn(4, 4).double()
    assert flops(lambda: kept.setdefault("a", a @ a) if not kept else None) == 0


def test_the_ratio_is_of_neighbours_and_the_median():
    assert ratio([2.0, 30.0, 4.0], [1.0, 3.0, 4.0]) == 2.0


def test_memory_is_the_growth_beyond_the_first_run():
    size = 64 * 2**20
    found = peak_memory(lambda: torch.ones(size // 8, dtype=torch.float64).sum(), CPU)
    assert found == pytest.approx(size, rel=0.1)
