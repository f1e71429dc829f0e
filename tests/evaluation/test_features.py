"""Feature nets of anyone (`evaluation.features`): what they give is looked at before it counts."""

import pytest
import torch

from cascade.evaluation.enlargements.super_resolution import Perceptual
from cascade.evaluation.features import FeatureNet
from cascade.evaluation.sample_quality import _kept
from cascade.utils.tensors import write_tensors
from stages import InputError

IMAGES = torch.randint(0, 256, (37, 1, 4, 4), dtype=torch.uint8)


def net(function) -> FeatureNet:
    return FeatureNet("mine.pt", "0" * 64, None, function)


def test_a_row_an_image():
    found = net(lambda x: x.flatten(1).float())(IMAGES)
    assert torch.equal(found, IMAGES.flatten(1).float())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.flatten(1)[:1].float(), r"of 16 images it gave \(1, 16\)"),
        (lambda x: x.flatten(1)[:, :1].float(), "F of 2 or more"),
        (lambda x: x.flatten(1).to(torch.complex64), "must give real features"),
        (lambda x: (x, x), "it gave tuple"),
        (lambda x: "features", "it gave str"),
        (lambda x: x.flatten(1) / 0, "not finite"),
        (lambda x: x.flatten(1) @ torch.zeros(3, 3), "cannot take 1x4x4 images"),
    ],
)
def test_anything_else_is_refused(function, message):
    with pytest.raises(InputError, match=message):
        net(function)(IMAGES)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: a.flatten(1).mean(1)[:1], "of 16 it gave"),
        (lambda a, b: (a, b), "it gave tuple"),
        (lambda a, b: a.flatten(1).mean(1) * float("nan"), "not finite"),
    ],
)
def test_distances_of_pairs_too(function, message):
    with pytest.raises(InputError, match=message):
        Perceptual("lpips.pt", "0" * 64, function, "cpu")(IMAGES, IMAGES)


def test_kept_features_of_other_images_are_refused(tmp_path):
    write_tensors({"features": torch.zeros(5, 3)}, tmp_path / "f.safetensors")
    assert _kept(tmp_path / "f.safetensors", 5).shape == (5, 3)
    for tensors in ({"features": torch.zeros(4, 3)}, {"other": torch.zeros(5, 3)}):
        write_tensors(tensors, tmp_path / "f.safetensors")
        with pytest.raises(InputError, match="is damaged: it holds no features of 5 images"):
            _kept(tmp_path / "f.safetensors", 5)
