"""Figures of several seeds, and what they say of a claim (`cascade.evaluation.claims`)."""

import math

import pytest

from cascade.evaluation.claims import Spread, spreads, verdict


def test_spreads_over_seeds():
    found = Spread.of([1.0, 2.0, 6.0])
    assert (found.mean, found.least, found.most, found.count) == (3.0, 1.0, 6.0, 3)
    assert found.deviation == pytest.approx(math.sqrt(7))
    assert Spread.of([4.0]) == Spread(4.0, 0.0, 4.0, 4.0, 1) and spreads([]) == {}
    assert not found.apart(Spread.of([6.0])) and found.apart(Spread.of([6.5]))
    assert spreads([{"a": 1.0}, {"a": 3.0}]) == {"a": Spread.of([3.0, 1.0])}


def test_an_effect_is_a_difference_in_deviations():
    one, two = Spread.of([1.0, 3.0]), Spread.of([4.0, 6.0])
    assert one.effect(two) == pytest.approx(-3 / math.sqrt(2)) == -two.effect(one)
    assert Spread.of([1.0]).effect(Spread.of([2.0])) is None


@pytest.mark.parametrize(
    ("below", "above", "words"),
    [
        ([1.0, 2.0], [2.1, 9.0], "holds here"),
        ([2.1, 9.0], [1.0, 2.0], "does not hold here"),
        ([1.0, 2.0], [2.0, 9.0], "the seeds' ranges meet"),
        ([1.0], [2.0, 9.0], "one seed"),
    ],
)
def test_a_claim_holds_where_every_seed_says_so(below, above, words):
    assert words in verdict(Spread.of(below), Spread.of(above))
