"""Blocks: what a cascade's likelihood says in length, decoded to the same images, everywhere."""

import math
import os
import subprocess
import sys

import pytest
import torch
from codec.codable import codable, codable_folder, pictures
from conftest import ROOT
from small_stages import random_cascade

from cascade import Cascade
from cascade.codec.blocks import decode, encode
from cascade.codec.fixed_stages import FixedCascade
from stages import InputError

KINDS = [(1, ()), (3, ("model.order=halves", "model.mixture_chain=true"))]
KINDS += [(3, ("model.order=together", "model.colour=none"))]


@pytest.mark.parametrize(("channels", "settings"), KINDS)
def test_images_come_back_in_as_many_bits_as_their_likelihood_says(channels, settings):
    cascade = codable(channels, *settings)
    fixed, images = FixedCascade(cascade), pictures(10, channels)
    data = encode(fixed, images)
    assert decode(fixed, data, len(images)).equal(images)
    bits = -cascade.log_prob(images).sum().item() / math.log(2)
    assert abs(8 * len(data) - bits) < 64 + 0.003 * bits


def test_each_image_costs_what_it_does_alone():
    """However many are coded together: only a word or two are lost at the end of a block."""
    cascade = codable(3)
    fixed, images = FixedCascade(cascade), pictures(5, 3)
    apart = [encode(fixed, image[None]) for image in images]
    assert 0 <= sum(map(len, apart)) - len(encode(fixed, images)) <= 8 * len(images)


OTHER_INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",
}
PROGRAM = """
import sys, torch
torch.set_num_threads(2)
from cascade import Cascade
from cascade.codec.blocks import encode
from cascade.codec.fixed_stages import FixedCascade
fixed, images = FixedCascade(Cascade.load(sys.argv[1])), torch.load(sys.argv[2])
sys.stdout.buffer.write(encode(fixed, images))
"""


def test_other_threads_and_instructions_give_the_same_bytes(tmp_path):
    """Of weights from a file: random ones depend on the instructions that draw them."""
    folder, images = codable_folder(tmp_path / "run", 3), pictures(10, 3)
    torch.save(images, tmp_path / "images.pt")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, tmp_path / "images.pt"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **OTHER_INSTRUCTIONS},
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == encode(FixedCascade(Cascade.load(folder)), images)


def test_damaged_blocks_end_in_an_error_or_in_other_images():
    fixed, images = FixedCascade(codable(1)), pictures(4)
    data = encode(fixed, images)
    for place in range(0, len(data), max(1, len(data) // 8)):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        try:
            assert not decode(fixed, bytes(damaged), 4).equal(images)
        except InputError as error:
            assert "damaged" in str(error)
    with pytest.raises(InputError, match="whole words"):
        decode(fixed, data[:-1], 4)


def test_what_cannot_be_had_in_integers_is_refused():
    for cascade, reason in (
        (random_cascade("mixture", 10), "model.classes=0"),
        (random_cascade("haar", 0), "model.first=mixture model.steps=0"),
        (random_cascade("mixture", 0, bits=5), "data.bits=8"),
    ):
        with pytest.raises(InputError, match=reason):
            FixedCascade(cascade)
