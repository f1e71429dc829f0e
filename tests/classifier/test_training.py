"""The net whose features scores compare: any size of images, and a file that gives the same."""

import copy

import pytest
import torch
from conftest import randomise

from cascade.classifier.resnet import feature_net
from cascade.classifier.training import Classifier, Schedule, train
from cascade.data.sources import ArrayImages
from cascade.evaluation.features import scripted


@pytest.fixture
def net():
    """Features of colour images, in evaluation, every parameter moved."""
    return randomise(feature_net(3, 4)).float().eval()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8), (33, 33)])
def test_a_file_gives_the_net_s_features_at_every_size(net, tmp_path, size):
    classifier = Classifier(net, torch.nn.Linear(16, 2), torch.device("cpu"))
    digest = classifier.save(tmp_path / "net.pt")
    read = scripted(tmp_path / "net.pt")
    images = torch.randint(0, 256, (5, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        expected = net(images.float())
    assert expected.shape == (5, 16) and expected.std() > 0
    torch.testing.assert_close(read(images), expected, rtol=1e-4, atol=1e-4)
    assert read.digest == digest


def test_only_the_first_layer_knows_how_bright_images_are():
    """Training images twice as dark, or in other units, give the same features."""
    images = torch.randint(0, 256, (16, 1, 8, 8)).double()
    bright = randomise(feature_net(1, 4))
    dark = copy.deepcopy(bright)
    torch.testing.assert_close(bright(images), dark(images / 2 + 10), rtol=1e-3, atol=1e-3)


def test_all_steps_are_told_of_and_the_global_generator_is_left_alone():
    """Batches that are not full are left out, and one larger than the data set is all of it."""
    images = torch.randint(0, 256, (10, 1, 8, 4), dtype=torch.uint8)
    source = ArrayImages(images, torch.arange(10) % 2)
    for batch, steps in ((4, 6), (64, 3)):
        schedule, seen = Schedule(epochs=3, width=2, batch=batch, flip=True), []
        before = torch.get_rng_state()
        classifier = train(source, schedule, "cpu", lambda *told, seen=seen: seen.append(told))
        assert torch.equal(torch.get_rng_state(), before)
        assert [step for step, _ in seen] == list(range(1, steps + 1))
        assert steps == schedule.steps(10) and all(0 <= right <= 1 for _, right in seen)
        assert not classifier.features.training and 0 <= classifier.accuracy(source) <= 1


def test_a_net_is_a_function_of_the_seed():
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    source = ArrayImages(images, torch.arange(8) % 2)
    one, same, other = (
        train(source, Schedule(epochs=2, width=2, batch=4, seed=seed), "cpu", lambda *_: None)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one(images), same(images)) and not torch.equal(one(images), other(images))
