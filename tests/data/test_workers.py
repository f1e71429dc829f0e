"""Batches made by worker processes: the same bits, errors of one line, an end with the run."""

import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT
from PIL import Image

from cascade.config import load_config
from cascade.data.batches import Batches
from cascade.data.named import open_images
from cascade.data.workers import workers_by_default
from cascade.utils.seeds import generator
from stages import InputError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{i}.png")
    return tmp_path / "images"


def batches_of(source) -> Batches:
    settings = ["data.size=16", "train.batch_size=8", "data.flip=true", "model.classes=2"]
    config = load_config(ROOT / "configs/cifar10/srf16.yaml", settings)
    return Batches(source, config)


def workers() -> list[psutil.Process]:
    """Processes below this one that make batches."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name() == "pt_data_worker"]


def test_they_are_those_of_the_loop_in_order(folder, tmp_path):
    """Of images in memory, in files and in a copy, over the end of an epoch."""
    decoded = open_images(str(folder), "all")
    array = tmp_path / "a.npy"
    np.save(array, decoded.read(torch.arange(24)).permute(0, 2, 3, 1).numpy())
    sources = [decoded, open_images(str(folder), "all", cache=str(tmp_path / "cache"))]
    stored = open_images(str(array), "all")
    sources += [replace(stored, labels=decoded.labels)]
    whole = batches_of(replace(stored, pixels=stored.pixels[:], labels=decoded.labels))
    state = torch.get_rng_state()
    for count, source in ((2, sources[0]), (1, sources[1]), (1, sources[2])):
        with closing(batches_of(source).steps(1, 6, count)) as made:
            for step, batch in enumerate(made, 1):
                for one, other in zip(batch.parts, whole(step).parts, strict=True):
                    assert torch.equal(one, other) and one.stride() == other.stride()
            assert step == 5
    assert torch.equal(state, torch.get_rng_state())  # which the model is trained with
    assert not workers()


def test_an_epoch_s_order_is_the_seed_s():
    """The whole permutation decides, though no step draws it again."""
    source = open_images("digits", "test", 1)
    batches, count = batches_of(source), len(source)
    orders = [torch.randperm(count, generator=generator(0, "order", e)) for e in range(4)]
    endless = torch.cat(orders).tolist()
    for step in (0, 3, count // 8, count // 8 + 1, 2 * count // 8, 1):
        assert batches.images_of(step) == endless[8 * step : 8 * step + 8]


def test_an_image_that_cannot_be_read_is_one_line(folder):
    source = open_images(str(folder), "all")
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no longer an image")
    messages = set()
    for count in (0, 1):
        with pytest.raises(InputError, match="cannot read image .*not an image") as error:
            list(batches_of(source).steps(0, 3, count))
        messages.add(str(error.value))
    assert len(messages) == 1 and "\n" not in messages.pop()


def test_a_worker_that_is_lost_is_one_line_and_none_are_left(folder):
    with (
        closing(batches_of(open_images(str(folder), "all")).steps(0, 1000, 2)) as made,
        pytest.raises(InputError, match=r"one of the 2 processes .* lower train\.workers"),
    ):
        for _ in made:
            for worker in workers()[:1]:
                worker.kill()
    ended = time.monotonic() + 30
    while workers() and time.monotonic() < ended:
        time.sleep(0.1)
    assert not workers()


def test_a_cpu_keeps_its_cores_for_the_step():
    assert workers_by_default(torch.device("cpu")) == 0
    assert workers_by_default(torch.device("cuda")) <= 4
