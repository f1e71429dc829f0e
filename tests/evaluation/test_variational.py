"""The bound by disturbed conditions bounds, and what its terms are."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import randomise
from enumeration import ENCODER, all_integers, cube_probabilities, tiny_cascade, two_bit_images

from cascade.chain import Cascade
from cascade.evaluation.robustness import conditional_bpd
from cascade.evaluation.variational import variational
from cascade.stage import Stage
from cascade.training.augmentation import kl_to_prior
from cascade.transforms.dequantise import centre, expand_bits, quantise
from cascade.utils.chunks import CHUNK
from stages import InputError, srflow


@torch.no_grad()
def exact_log_marginals(cascade: Cascade, images: torch.Tensor) -> torch.Tensor:
    """log Σ_low P(low) P(image | low) of two-bit images, P(low) counted among the base's draws."""
    base, top = (stage.flow for stage in cascade.stages)
    torch.manual_seed(1)
    drawn = quantise(base.sample(torch.randn(400_000, 1, 1, 1).double()), 2)
    frequency = torch.bincount(drawn.flatten().long(), minlength=4) / len(drawn)
    total = torch.zeros(len(images), dtype=torch.float64)
    for value in range(4):
        low = centre(torch.full((len(images), 1, 1, 1), value), torch.float64, 2)
        total += frequency[value] * cube_probabilities(top, images, 2, nodes=4, low=low)
    return total.log()


@pytest.mark.parametrize("stretched", [0.0, 3.0])
def test_the_bound_bounds_and_would_not_without_the_divergence(stretched):
    """Also where the base draws mostly what lies far outside: every draw counts, as in sampling."""
    cascade = tiny_cascade()
    cascade.stages[0].flow.body.norm.log_scale.data -= stretched
    ((_, exploded),) = conditional_bpd(cascade, two_bit_images(), None, 1, [1.0])
    assert exploded > 0.5 if stretched else exploded == 0
    exact = exact_log_marginals(cascade, all_integers(0, 4, (1, 2, 2))[::9])
    violated = []
    for sigma in (0.1, 0.3, 0.6, 1.0):
        draws = [
            variational(cascade, two_bit_images(), None, 1, sigma, 4, seed) for seed in range(8)
        ]
        excess = torch.stack([report.bound for report in draws]) - exact
        error = excess.std(0) / math.sqrt(len(draws))
        print(f"sigma {sigma}: bound - exact {excess.mean():.3f}, kl {draws[0].kl.mean():.3f}")
        assert (excess.mean(0) < 5 * error + 0.02).all()
        assert excess.mean() < 0
        without = excess + draws[0].kl
        violated.append((without.mean(0) > 5 * error + 0.02).any().item())
    assert stretched or any(violated)


def test_a_haar_cascade_has_no_such_bound():
    report = variational(tiny_cascade("haar"), two_bit_images(), None, 1, sigma=0.6)
    assert report.bound.isnan().all() and report.noisy.isfinite().all()


def test_little_noise_changes_nothing():
    report = variational(tiny_cascade(), two_bit_images(), None, 1, sigma=1e-6, samples=3)
    assert torch.equal(report.noisy, report.clean)


def test_clean_is_the_table_s_figure():
    cascade = tiny_cascade()
    report = variational(cascade, two_bit_images(), None, 1, sigma=0.5, seed=3)
    torch.testing.assert_close(
        report.clean, cascade.stage_log_probs(two_bit_images(), seed=3)[0][:, 1]
    )
    assert not torch.equal(report.noisy, report.clean)


def test_a_stage_in_the_middle_is_conditioned_on_its_own_lower_image():
    cascade = tiny_cascade()
    config = cascade.stages[1].config
    config = replace(config, out="third", data=replace(config.data, size=4))
    third = srflow((1, 4, 4), levels=1, steps=1, width=4, **ENCODER)
    third = Stage("third", config, randomise(third, 0.1).eval())
    cascade = Cascade([*cascade.stages, third])
    images = expand_bits(torch.randint(0, 4, (5, 1, 4, 4), dtype=torch.uint8), 2)
    report = variational(cascade, images, None, 2, sigma=0.5)
    expected = kl_to_prior(cascade.encode(images)[1], 0.5)
    torch.testing.assert_close(report.kl, expected, rtol=0, atol=0)


def test_terms_do_not_depend_on_batch_or_order():
    cascade, images = tiny_cascade(), two_bit_images()
    assert len(images) > CHUNK
    order = torch.randperm(len(images))

    def terms(chosen: torch.Tensor) -> torch.Tensor:
        report = variational(cascade, chosen, None, 1, sigma=0.5, samples=2, seed=4)
        return torch.stack([report.clean, report.noisy, report.kl, report.bound], dim=1)

    together = terms(images)
    assert torch.equal(terms(images[order]), together[order])
    assert torch.equal(terms(images[7:8]), together[7:8])
    other = variational(cascade, images, None, 1, sigma=0.5, samples=2, seed=5)
    assert not torch.equal(other.noisy, together[:, 1])


def test_what_has_no_bound():
    cascade, images = tiny_cascade(), two_bit_images()
    for stage in (0, 2, -1):
        with pytest.raises(InputError, match="choose 1 to 1"):
            variational(cascade, images, None, stage, sigma=0.5)
    with pytest.raises(InputError, match="sigma above 0"):
        variational(cascade, images, None, 1, sigma=0.0)
    with pytest.raises(InputError, match="at least one sample"):
        variational(cascade, images, None, 1, sigma=0.5, samples=0)
