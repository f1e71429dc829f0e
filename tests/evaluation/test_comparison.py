"""Telling two data sets apart by likelihood."""

import pytest
import torch

from cascade.evaluation.comparison import auroc


def test_auroc():
    ours, theirs = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    pairs = [(b > a) + 0.5 * (b == a) for a in ours.tolist() for b in theirs.tolist()]
    assert auroc(ours, theirs) == pytest.approx(sum(pairs) / 6)
    assert auroc(theirs, ours) == pytest.approx(1 - sum(pairs) / 6)
