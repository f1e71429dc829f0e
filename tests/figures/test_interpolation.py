"""Paths through latent space: what they are by definition."""

import itertools

import pytest
import torch
from small_stages import KINDS, random_cascade, random_images
from torch import Tensor

from cascade import Cascade, InputError
from cascade.figures.interpolation import between, spherical, walk
from cascade.transforms.dequantise import reduce_bits
from cascade.transforms.pyramid import halve


def test_an_arc_has_its_ends_its_radius_and_even_steps():
    start, end = torch.randn(2, 3, 4, 8, 8).unbind(0)
    assert torch.equal(spherical(start, end, 0), start)
    assert torch.equal(spherical(start, end, 1), end)
    radius = [z.flatten(1).norm(dim=1) for z in (start, end)]
    path = torch.stack([spherical(start, end, t / 10) for t in range(11)]).flatten(2)
    shares = torch.linspace(0, 1, 11)[:, None]
    torch.testing.assert_close(path.norm(dim=2), torch.lerp(*radius, shares))
    around = torch.nn.functional.normalize(path, dim=2)
    steps = (around[1:] * around[:-1]).sum(2).acos()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-3, atol=0)
    straight = torch.lerp(start, end, 0.5).flatten(1).norm(dim=1)
    assert (straight < 0.8 * path[5].norm(dim=1)).all()


def decoded(cascade: Cascade, way: list[list[Tensor]], labels=None) -> list[Tensor]:
    """The images of a path's noise, (shares, N, C, h, w) for every stage."""
    frames = [cascade.decode_levels(noises, labels) for noises in way]
    return [torch.stack(level) for level in zip(*frames, strict=True)]


def test_an_arc_between_equal_or_opposite_noise():
    noise = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(spherical(noise, noise, 0.3), noise)
    torch.testing.assert_close(spherical(noise, 3 * noise, 0.5), 2 * noise)
    with pytest.raises(InputError, match="its opposite"):
        spherical(noise, -noise, 0.5)


@pytest.mark.parametrize(("pyramid", "classes", "bits"), KINDS)
def test_a_path_begins_and_ends_at_real_images(pyramid, classes, bits):
    cascade, images = random_cascade(pyramid, classes, bits), random_images(8, bits)
    labels = [torch.arange(4), torch.arange(4) + 6] if classes else []
    way = between(cascade, images[:4], images[4:], [0, 0.5, 1], *labels)
    levels = decoded(cascade, way, *labels[:1])
    assert [tuple(level.shape) for level in levels] == [(3, 4, 1, s, s) for s in (8, 16, 32)]
    for ends, place in ((images[:4], 0), (images[4:], 2)):
        for level, expected in zip(levels, cascade.levels(ends), strict=True):
            assert torch.equal(reduce_bits(level[place], bits), expected)
    assert not torch.equal(levels[-1][1], levels[-1][0])
    (same,) = between(cascade, images[:4], images[:4], [0.5], *labels[:1] * 2)
    assert torch.equal(cascade.decode(same, *labels[:1]), images[:4])


def test_each_stage_is_given_the_rounded_image_below():
    """So the Haar cascade's images on the way are consistent in every pixel."""
    cascade, images = random_cascade("haar", 10), random_images(6)
    way = between(cascade, images[:3], images[3:], [0.2, 0.7], [1, 2, 3], [4, 5, 6])
    levels = decoded(cascade, way, [1, 2, 3])
    for low, high in itertools.pairwise(levels):
        assert torch.equal(halve(high, kind="haar"), low)


def test_labels_are_needed_only_where_a_stage_uses_them():
    images = random_images(2)
    with pytest.raises(InputError, match="class-conditional"):
        between(random_cascade("haar", 10), images[:1], images[1:], [0.5])
    with pytest.raises(InputError, match="no stage"):
        between(random_cascade("haar", 0), images[:1], images[1:], [0.5], [1], [2])


@pytest.mark.parametrize("classes", [0, 10])
def test_a_walk_is_a_loop_and_a_function_of_its_seed(classes):
    cascade = random_cascade("haar", classes)
    frames = torch.stack([images[-1] for images in walk(cascade, 3, 12, seed=5)])
    assert frames.shape == (12, 3, 1, 32, 32) and frames.dtype == torch.uint8
    fewer = torch.stack([images[-1] for images in walk(cascade, 2, 6, seed=5)])
    assert torch.equal(fewer, frames[::2, :2])  # of fewer frames, and of fewer walks
    other = torch.stack([images[-1] for images in walk(cascade, 2, 6, seed=6)])
    assert not torch.equal(other, fewer)
    calm = [images[-1] for images in walk(cascade, 1, 2, temperature=0.0)]
    assert torch.equal(calm[0], calm[1])


def test_a_step_of_a_walk_is_as_large_as_the_one_that_closes_it():
    cascade = random_cascade("bicubic", 0)
    frames = torch.stack([images[0] for images in walk(cascade, 8, 40)]).double()
    steps = (frames.roll(-1, 0) - frames).abs().flatten(1).mean(1)
    apart = (frames.roll(-20, 0) - frames).abs().flatten(1).mean(1)
    assert steps.max() < 0.5 * apart.mean() and steps[-1] < 1.5 * steps.mean()
