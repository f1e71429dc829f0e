"""The models in `models/`: they load by name, draw, score, and say what they are."""

import math
from pathlib import Path

import pytest
import torch

from cascade import Cascade
from cascade.codec.blocks import decode, encode
from cascade.codec.fixed_stages import FixedCascade
from cascade.data import open_images
from cascade.pretrained import HOME, shipped_models


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_draws_scores_and_says_how_it_was_made(name):
    cascade = Cascade.from_pretrained(name)
    images = cascade.sample(4, seed=0)
    bits = cascade.likelihood(images).bpd
    assert images.shape[1:] == cascade.shape and len(images.unique()) > 16 and 0 < bits < 12
    card = (HOME / name / "README.md").read_text("utf-8")
    assert "bits_per_dim" in card and "csrflow train STAGE/config.yaml" in card
    for stage in cascade.stages:
        assert stage.record.images and not Path(stage.config.data.name).is_absolute()
        assert not Path(stage.config.out).is_absolute()


@pytest.mark.parametrize("name", [n for n in shipped_models() if n.endswith("-lossless")])
def test_a_lossless_model_gives_back_noise_too(name):
    cascade = Cascade.from_pretrained(name)
    fixed, noise = FixedCascade(cascade), torch.randint(256, (2, *cascade.shape))
    images = torch.cat([cascade.sample(2, seed=0), noise.to(torch.uint8)])
    assert decode(fixed, encode(fixed, images), 4).equal(images)


def test_digits_take_the_bits_that_their_likelihood_says():
    cascade = Cascade.from_pretrained("digits-lossless")
    digits = open_images("mnist5k", "test", channels=1).pixels[::10]
    bits = -cascade.log_prob(digits).sum().item() / math.log(2)
    assert abs(8 * len(encode(FixedCascade(cascade), digits)) - bits) < 0.01 * bits


def test_all_of_them_are_small():
    sizes = [file.stat().st_size for file in HOME.rglob("*") if file.is_file()]
    assert len(shipped_models()) > 0 and sum(sizes) < 40e6
