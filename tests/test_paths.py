"""Paths through latent space, versions of low images, neighbours: what they are by definition."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, randomise
from torch import Tensor

from cascade import Cascade, InputError
from cascade.config import load_config
from cascade.data.sources import ArrayImages
from cascade.evaluation.ensembles import versions
from cascade.evaluation.neighbours import neighbours
from cascade.figures.interpolation import between, spherical, walk
from cascade.stage import Stage, build
from cascade.training.metrics_log import logged_stages, read_metrics
from cascade.transforms.dequantise import centre, log_volume, reduce_bits
from cascade.transforms.pyramid import halve
from cascade.utils.seeds import sample_noise

KINDS = [("haar", 10, 8), ("haar", 0, 8), ("bicubic", 10, 5), ("bicubic", 0, 8)]
SMALL = ["model.steps=1", "model.width=8", "model.levels=1"]


def random_cascade(pyramid: str, classes: int, bits: int = 8) -> Cascade:
    """Three stages, 8, 16 and 32, with random weights; labels move their latents far."""
    folder = ROOT / "configs" / ("mnist5k-haar" if pyramid == "haar" else "mnist5k")
    stages = []
    for name in ("glow8", "srf16", "srf32"):
        changes = [*SMALL, f"model.classes={classes}", f"data.bits={bits}"]
        config = load_config(folder / f"{name}.yaml", changes)
        flow = randomise(build(config), 0.05, seed=len(stages)).float().eval()
        if classes:
            flow.prior.table.weight.data.normal_()
        stages.append(Stage(name, config, flow))
    return Cascade(stages)


def random_images(count: int, bits: int = 8) -> Tensor:
    """What an image of so many bits may hold, anywhere between noise and a flat grey."""
    cascade = random_cascade("bicubic", 0, bits)
    smooth = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))
    contrast = torch.linspace(0.05, 1, count)[:, None, None, None]
    return cascade.resize(((smooth * contrast) * 255).to(torch.uint8))


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
@torch.no_grad()
def test_what_was_drawn_is_scored_as_it_was_drawn(classes):
    cascade, count = random_cascade("haar", classes), 3
    labels = torch.arange(count) if classes else None
    noises = [sample_noise(s.flow.shape, 0, i, 0, count) for i, s in enumerate(cascade.stages)]
    columns, low, outside = 0, None, []
    for stage, noise in zip(cascade.stages, noises, strict=True):
        y = stage.run(stage.flow.decode, noise, low, labels)
        outside.append((stage.coding.out_of_range(y) > 0).any())  # which rounding would move far
        below = None if low is None else centre(low)
        columns = columns + stage.flow.class_log_probs(y, below).double()
        columns = columns - log_volume(y[0].numel())
        low, _ = stage.coding.image(y, low)
    assert any(outside)
    expected = columns.logsumexp(1) - math.log(max(1, classes))
    torch.testing.assert_close(cascade.drawn_log_prob(noises, labels), expected)


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


def test_metrics_of_a_run_that_is_still_writing(tmp_path):
    stage = tmp_path / "run" / "glow8"
    stage.mkdir(parents=True)
    with pytest.raises(InputError, match="holds no metrics"):
        logged_stages(tmp_path / "run")
    log = stage / "metrics.jsonl"
    log.write_text('{"step": 20, "bpd": 4.5}\n{"step": 40, "bp')
    assert read_metrics(stage) == [{"step": 20, "bpd": 4.5}]
    assert logged_stages(stage) == [stage]
    log.write_text('{"step": 20, "bp\n{"step": 40}\n')
    with pytest.raises(InputError, match="damaged"):
        read_metrics(stage)
