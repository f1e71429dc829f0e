"""Features of samples and of real images, whatever the batch."""

import pytest
import torch
from small_stages import random_cascade, random_images
from torch import nn

from cascade.data.sources import ArrayImages
from cascade.evaluation.features import FeatureNet, scripted
from cascade.evaluation.sample_quality import real_features, real_levels, sample_features


@pytest.fixture(scope="module")
def cascade():
    return random_cascade("haar", 3)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> FeatureNet:
    """A scripted net whose features are an image's own values, brought to 2×2."""
    file = tmp_path_factory.mktemp("net") / "pooled.pt"
    torch.jit.script(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())).save(file)
    return scripted(file)


def test_levels_are_the_pyramid_of_the_image(cascade):
    images = random_images(5)
    levels = real_levels(cascade, ArrayImages(images), torch.tensor([4, 1]))
    assert [tuple(level.shape) for level in levels] == [(2, 1, s, s) for s in (8, 16, 32)]
    assert torch.equal(levels[-1], images[[4, 1]])


def test_features_are_kept_by_what_the_pixels_are(cascade, net, tmp_path):
    source, indices = ArrayImages(random_images(19)), torch.arange(19)  # more than a chunk
    alone = real_features(cascade, source, indices, net, [0, 2])
    kept = real_features(cascade, source, indices, net, [0, 2], tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = real_features(cascade, source, indices, net, [2, 0], tmp_path)
    assert len(files) == 2 and files == {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert alone.digests == kept.digests == again.digests
    for level in (0, 2):
        assert torch.equal(alone.features[level], kept.features[level])
        assert torch.equal(alone.features[level], again.features[level])
    real_features(cascade, source, indices[:18], net, [0], tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_samples_are_the_cascade_s_own(cascade, net):
    found = sample_features(cascade, 19, net, [1, 2], 0.8, seed=3)
    draw = cascade.draw(19, None, 0.8, 3)
    for level in (1, 2):
        assert torch.equal(found.features[level], net(draw.images[level]))
    assert found.failed == int((~draw.finite).sum())
    assert found.consistency == [0, 0]  # a Haar cascade's samples are, in every pixel
