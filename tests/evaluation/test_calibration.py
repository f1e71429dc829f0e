"""An exact model is found to be one, whatever the images; what is too sure is found out."""

import itertools
import math

import pytest
import torch

from cascade.evaluation.enlargements import calibration as module
from cascade.evaluation.enlargements.calibration import (
    SUMS,
    calibration,
    coverage_curve,
    crps,
    inside,
    ranks,
    tallies,
)

SIDE = 12


def drawn(count: int, images: int, scale: float, coarse: int, seed: int = 0):
    """Truth (N, 1, h, w) and samples (S, N, 1, h, w) of one law but for the samples' scale.

    Pixels of an image move together, means and deviations differ from pixel to pixel, and values
    are multiples of ``coarse``, so that many are tied.
    """
    source = torch.Generator().manual_seed(seed)
    shape = (images, 1, SIDE, SIDE)
    mean = 200 * torch.rand(shape, generator=source)
    deviation = 30 * torch.rand(shape, generator=source)
    deviation[..., :3] = 0  # decided, as is the frame of a digit
    noise = torch.randn(count + 1, *shape, generator=source)
    noise = noise + 2 * torch.randn(count + 1, images, 1, 1, 1, generator=source)
    scales = torch.cat([torch.ones(1), torch.full((count,), scale)])
    values = mean + scales.view(-1, 1, 1, 1, 1) * deviation * noise
    values = (values / coarse).round().mul(coarse).clamp(0, 255).to(torch.uint8)
    return values[0], values[1:]


def found(count: int, images: int, scale: float, coarse: int):
    truth, samples = drawn(count, images, scale, coarse)
    return calibration(*tallies(truth, samples, samples[0], 0, range(images)))


@pytest.mark.parametrize("coarse", [1, 40])
@pytest.mark.parametrize("count", [2, 7, 19])
def test_an_exact_model_is_calibrated(count, coarse):
    result = found(count, 600, 1.0, coarse)
    assert sum(result.ranks) == pytest.approx(1)
    assert result.unevenness < 2 * result.by_chance < 0.5
    for share, level in zip(result.coverage, module.LEVELS, strict=True):
        assert share.level == level and abs(share.share - level) < 4 * share.error < 0.1
    assert abs(result.spread_to_error - 1) < 0.1
    assert result.crps < min(result.mean_error, result.bicubic_error)
    assert 0.24 < result.decided < 0.6


@pytest.mark.parametrize(("scale", "word"), [(0.6, "over-confident"), (1.6, "under-confident")])
def test_a_wrong_spread_is_seen(scale, word):
    result, exact = found(19, 600, scale, 1), found(19, 600, 1.0, 1)
    ends = result.ranks[0] + result.ranks[-1]
    assert (ends > 0.15) if scale < 1 else (ends < 0.06)
    assert result.unevenness > 5 * result.by_chance
    assert (result.spread_to_error < 0.75) if scale < 1 else (result.spread_to_error > 1.3)
    assert exact.verdict == "no sign of over- or under-confidence"
    assert result.verdict.startswith(word) and result.crps > exact.crps


def test_a_bias_is_no_lack_of_confidence():
    """Where low ranks are as much too frequent as high ones are too rare, intervals hold."""
    source = torch.Generator().manual_seed(0)
    leaning = (1.5 - torch.arange(20) / 19).expand(100, 20)
    places = torch.multinomial(leaning, 1000, replacement=True, generator=source)
    counts = torch.stack([torch.bincount(row, minlength=20) for row in places]).double()
    result = calibration(counts, 1000 * torch.ones(100, len(SUMS), dtype=torch.float64))
    assert sum(result.ranks[:10]) > 0.6 and result.unevenness > 3 * result.by_chance
    assert "under-confidence, though ranks are less even" in result.verdict


def test_ties_take_every_place_as_often():
    source = torch.Generator().manual_seed(1)
    truth, samples = torch.full((30_000,), 5), torch.tensor([3, 5, 5, 9])[:, None]
    counts = torch.bincount(ranks(truth, samples, source), minlength=5)
    assert counts[0] == counts[4] == 0
    assert (counts[1:4] - 10_000).abs().max() < 400


@pytest.mark.parametrize("count", [2, 3, 6])
def test_crps_is_the_double_sum(count):
    source = torch.Generator().manual_seed(count)
    samples = torch.randint(0, 256, (count, 5, 3), generator=source).double()
    truth = torch.randint(0, 256, (5, 3), generator=source).double()
    pairs = sum((x - y).abs() for x, y in itertools.product(samples, samples))
    expected = (samples - truth).abs().mean(0) - pairs / (2 * count * (count - 1))
    assert torch.allclose(crps(truth, samples), expected)


def test_crps_is_as_large_for_any_number_of_samples():
    """And that of a normal law about its own mean is σ (√2 − 1)/√π."""
    source = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(16, 200_000, generator=source, dtype=torch.float64)
    expected = 3 * (math.sqrt(2) - 1) / math.sqrt(math.pi)
    for count in (2, 4, 16):
        mean = crps(torch.zeros(200_000, dtype=torch.float64), values[:count]).mean().item()
        assert mean == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("count", [2, 3, 4, 16, 19])
def test_intervals_have_their_nominal_coverage(count):
    flat = torch.full((count + 1,), 1 / (count + 1), dtype=torch.float64)
    for level in (0.5, 0.9, 1.0):
        assert (flat @ inside(count, level)).item() == pytest.approx(level)
    for nominal, share in coverage_curve(flat.tolist()):
        assert share == pytest.approx(nominal)
        weights = inside(count, nominal)
        assert torch.allclose(weights, weights.round())  # one interval, none mixed
    assert inside(19, 0.9)[[0, 1, 18, 19]].tolist() == pytest.approx([0, 1, 1, 0])


def test_standard_errors_are_those_of_images_drawn_again():
    """Though pixels of an image depend on one another, and not all of them count."""
    results = []
    for seed in range(60):
        truth, samples = drawn(4, 40, 0.7, 1, seed)
        results.append(calibration(*tallies(truth, samples, truth, 0, range(40))))
    shares = torch.tensor([r.coverage[0].share for r in results])
    errors = torch.tensor([r.coverage[0].error for r in results])
    assert 0.7 < (errors.mean() / shares.std()).item() < 1.4


def test_an_image_is_counted_alike_among_any_others():
    truth, samples = drawn(5, 6, 1.0, 40)
    whole = tallies(truth, samples, truth, 3, range(6))
    parts = [
        tallies(truth[n : n + 1], samples[:, n : n + 1], truth[n : n + 1], 3, [n]) for n in range(6)
    ]
    for table, columns in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(table, torch.cat(columns))
    assert not torch.equal(whole[0], tallies(truth, samples, truth, 4, range(6))[0])
    sums = dict(zip(SUMS, whole[1].T, strict=True))
    assert (sums["values"] == SIDE**2).all() and (sums["bicubic_error"] == 0).all()
    alone = calibration(*parts[0])
    assert math.isnan(alone.coverage[0].error) and "single image" in alone.verdict
    none = torch.zeros(3, 5).double()
    decided = calibration(none, torch.ones(3, len(SUMS)).double())
    assert decided.decided == 1 and "tells nothing" in decided.verdict
