"""Versions of low images are what a sample is of the same low image and noise."""

import pytest
import torch
from small_stages import KINDS, random_cascade

from cascade import Cascade, InputError
from cascade.evaluation.enlargements.ensembles import versions


@pytest.mark.parametrize(("pyramid", "classes", "bits"), KINDS)
def test_a_version_is_what_a_sample_is_of_the_same_low_image_and_noise(pyramid, classes, bits):
    cascade = random_cascade(pyramid, classes, bits)
    draw = cascade.draw(3, None, [1.0, 0.5, 0.7], seed=2)
    for place in (0, 1):
        found = versions(cascade, draw.images[place], 3, draw.labels, [9, 0.5, 0.7], seed=2)
        assert len(found) == 2 - place and found[-1].shape == (3, 3, 1, 32, 32)
        if place == 0:
            for n in range(3):
                assert torch.equal(found[-1][n, n], draw.images[-1][n])
        fewer = versions(cascade, draw.images[place], 1, draw.labels, [9, 0.5, 0.7], seed=2)
        assert torch.equal(fewer[-1][:, 0], found[-1][:, 0])
        assert not torch.equal(found[-1][:, 0], found[-1][:, 1])


def test_low_images_of_another_size():
    cascade = random_cascade("haar", 0)
    with pytest.raises(InputError, match="8x8 or 16x16, not 32x32"):
        versions(cascade, torch.zeros(1, 1, 32, 32, dtype=torch.uint8), 2)
    with pytest.raises(InputError, match="no stage follows glow8"):
        versions(Cascade(cascade.stages[:1]), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 2)
