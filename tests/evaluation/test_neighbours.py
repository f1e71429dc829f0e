"""Nearest images, by definition."""

import numpy as np
import pytest
import torch
from small_stages import random_cascade, random_images

from cascade.data.sources import ArrayImages
from cascade.evaluation.neighbours import neighbours


@pytest.mark.parametrize("mirrored", [False, True])
def test_neighbours_are_those_of_brute_force(mirrored):
    cascade = random_cascade("haar", 0)
    source = np.random.default_rng(0).integers(0, 256, (600, 1, 64, 64), dtype=np.uint8)
    given = cascade.resize(torch.from_numpy(source[590:] // 2))
    found = neighbours(cascade, given, ArrayImages(torch.from_numpy(source)), 4, mirrored)
    small = cascade.resize(torch.from_numpy(source)).double()
    distance = (given[:, None].double() - small).square().mean((2, 3, 4)).sqrt()
    if mirrored:
        other = (given[:, None].double() - small.flip(3)).square().mean((2, 3, 4)).sqrt()
        distance = torch.minimum(distance, other)
    expected = distance.sort(dim=1, stable=True)
    torch.testing.assert_close(found.distance, expected.values[:, :4], rtol=1e-12, atol=0)
    assert torch.equal(found.index, expected.indices[:, :4])


def test_a_training_image_is_its_own_neighbour_at_distance_zero():
    cascade, images = random_cascade("haar", 0), random_images(300)
    twice = torch.cat([images, images])
    found = neighbours(cascade, images, ArrayImages(twice), 2)
    assert (found.distance == 0).all()
    assert torch.equal(found.index, torch.stack([torch.arange(300), torch.arange(300, 600)], 1))
    assert (found.standing_out == 0).all()
    near = neighbours(cascade, images[:5] ^ 1, ArrayImages(images), 2)
    assert near.distance[:, 0].tolist() == [1.0] * 5  # each value one grey level away
    mirror = neighbours(cascade, images.flip(3), ArrayImages(images), 1, mirrored=True)
    assert (mirror.distance == 0).all()
