"""What the stages' sum is, by enumeration: an equality under Haar, a bound under bicubic."""

import math

import pytest
import torch
from enumeration import (
    all_integers,
    condition,
    cube_probabilities,
    exact_cascade,
    tiny_cascade,
)

from cascade import Cascade
from cascade.transforms.dequantise import expand_bits
from cascade.transforms.pyramid import halve

BITS = 2
MIDDLE = 2 ** (BITS - 1)  # what details are moved up by
VALUES = all_integers(0, 2**BITS, (1, 1, 1))


@torch.no_grad()
def drawn_shares(cascade: Cascade, count: int) -> tuple[float, float]:
    """Shares of samples that no stage clipped, and of those that are consistent as well."""
    source = torch.Generator().manual_seed(0)
    low, valid = None, torch.ones(count, dtype=torch.bool)
    for stage in cascade.stages:
        noise = torch.randn(count, *stage.flow.shape, generator=source).double()
        below = low
        y = stage.flow.sample(noise, None if below is None else condition(below))
        low, clipped = stage.coding.image(y, below)
        valid &= clipped == 0
    same = (halve(low, BITS, cascade.pyramid) == below).flatten(1).all(1)
    return valid.double().mean().item(), (valid & same).double().mean().item()


@torch.no_grad()
def probabilities(cascade: Cascade, box: torch.Tensor, lows: torch.Tensor) -> torch.Tensor:
    """P_0(low)·P_1(values | low) for every low value and every integer in a box, (lows, box)."""
    base, top = (stage.flow for stage in cascade.stages)
    p_base = cube_probabilities(base, lows.reshape(-1, 1, 1, 1), BITS, 8)
    rows = []
    for low, p in zip(lows, p_base, strict=True):
        given = condition(low.expand(len(box), 1, 1, 1))
        rows.append(p * cube_probabilities(top, box, BITS, 3, low=given))
    return torch.stack(rows)


def test_path_probabilities_of_the_haar_cascade_sum_to_one():
    """Over all integers, of images or not, in a box that holds the mass: 14,641 cubes."""
    cascade = tiny_cascade("haar")
    box = all_integers(-5, 6, (3, 1, 1)) + MIDDLE
    total = probabilities(cascade, box, torch.arange(-4, 7)).sum()
    assert total == pytest.approx(1, abs=0.01)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["haar", "bicubic"])
def test_valid_images_hold_the_share_of_unclipped_consistent_samples(kind, record_property):
    """Σ_x P_0(D x)·P_1(x | D x) over all valid x: below 1, and what sampling says it is."""
    cascade = tiny_cascade(kind)
    images = all_integers(0, 4, (1, 2, 2)).to(torch.uint8)
    top, low = cascade.stages[1], halve(images, BITS, kind)
    p_base = cube_probabilities(cascade.stages[0].flow, VALUES, BITS, 8)[low.flatten().long()]
    values = top.coding.values(images)
    p_top = cube_probabilities(top.flow, values, BITS, 5, low=condition(low))
    total = (p_base * p_top).sum().item()
    count = 40_000
    valid, consistent = drawn_shares(cascade, count)
    record_property(f"{kind}: probability of all images, share of valid samples", (total, valid))
    assert 0.01 < total <= 1
    assert total == pytest.approx(consistent, abs=4 * math.sqrt(total / count) + 0.002)
    if kind == "haar":
        assert consistent == valid
    else:
        assert consistent < 0.9 * valid, "the bound is strict"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["haar", "bicubic"])
def test_composed_log_prob_tends_to_the_quadrature(kind):
    """With many importance samples the tool's own figure reaches the exact probability."""
    cascade = tiny_cascade(kind)
    images = all_integers(0, 4, (1, 2, 2))[::37].to(torch.uint8)
    low, top = halve(images, BITS, kind), cascade.stages[1]
    exact = cube_probabilities(cascade.stages[0].flow, low, BITS, 8).log()
    values = top.coding.values(images)
    exact = exact + cube_probabilities(top.flow, values, BITS, 5, low=condition(low)).log()
    shown = expand_bits(images, BITS)
    one, many = (cascade.stage_log_probs(shown, samples=k)[0].sum(1) for k in (1, 800))
    torch.testing.assert_close(many, exact, rtol=0, atol=0.05)
    assert (many - exact).abs().mean() < (one - exact).abs().mean()


@torch.no_grad()
def test_what_an_exact_cascade_scores_is_what_it_samples(record_property):
    """log P of all 65,536 images sums to 1, and is how often each of them is drawn."""
    cascade, count = exact_cascade(), 50_000
    images = expand_bits(all_integers(0, 2, (1, 4, 4)).to(torch.uint8), 1)
    nats = cascade.log_prob(images)
    assert nats.exp().sum() == pytest.approx(1, abs=1e-9)
    draw = cascade.draw(count, seed=0)
    assert draw.finite.all() and not draw.clipped.any() and not draw.out_of_range.any()
    places = (draw.images[-1].flatten(1).long() // 255 * 2 ** torch.arange(15, -1, -1)).sum(1)
    drawn = torch.bincount(places, minlength=2**16)
    expected = count * nats.exp()
    often = expected > 10
    deviation = (drawn - expected)[often] / expected[often].sqrt()
    worst = deviation.abs().max().item()
    record_property("images often drawn, worst deviation", (len(deviation), worst))
    assert len(deviation) > 100 and worst < 5
    assert deviation.square().mean() == pytest.approx(1, abs=6 / math.sqrt(len(deviation)))
    report = cascade.likelihood(
        images[:9], samples=3
    )  # no noise to draw: not a bit of a difference
    assert torch.equal(report.nats.sum(1), nats[:9])
    assert "log P(image) itself. It is of the distribution that is sampled" in report.statement


def test_a_statement_names_the_stages_that_are_dequantised():
    cascade = exact_cascade()
    assert "dequantisation" not in cascade.report(torch.zeros(1, 2)).statement
    plain = cascade.stages[0].replace(flow=tiny_cascade("haar").stages[0].flow)
    mixed = Cascade([plain, cascade.stages[1]]).report(torch.zeros(1, 2)).statement
    assert "but for the dequantisation of base, which is bounded" in mixed and "clips" in mixed
