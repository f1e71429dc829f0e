"""Telling two data sets apart by likelihood."""

import pytest
import torch
from small_stages import report_of

from cascade.evaluation.comparison import auroc, separation


def test_auroc():
    ours, theirs = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    pairs = [(b > a) + 0.5 * (b == a) for a in ours.tolist() for b in theirs.tolist()]
    assert auroc(ours, theirs) == pytest.approx(sum(pairs) / 6)
    assert auroc(theirs, ours) == pytest.approx(1 - sum(pairs) / 6)


def test_separation_by_the_whole_by_stages_and_beside_files():
    torch.manual_seed(0)
    ours, theirs = (report_of(torch.randn(n, 2).double() - 20, [4, 12]) for n in (30, 20))
    files = tuple(torch.rand(n).double() for n in (30, 20))
    found = separation(ours, theirs, files)
    back = separation(theirs, ours, files[::-1])
    assert list(found) == ["total", "base", "top", "total - WebP"]
    for name, value in found.items():
        assert 0 < value < 1 and back[name] == pytest.approx(1 - value)
    assert found["total"] == auroc(ours.image_bpd, theirs.image_bpd)
    flat = tuple(torch.zeros(n).double() for n in (30, 20))
    assert separation(ours, theirs, flat)["total - WebP"] == found["total"]
    worse = report_of(ours.nats - torch.tensor([0.0, 100.0]), [4, 12])
    apart = separation(ours, worse, (files[0], files[0]))
    assert apart["total"] == apart["top"] == 1 and apart["base"] == 0.5
