"""Figures: what they show is what the numbers beside them say."""

import csv

import pytest
import torch
from conftest import ROOT, TINY, run_tool
from PIL import Image

from cascade import Cascade
from cascade.data import open_images
from cascade.evaluation.robustness import conditional_bpd, reconstructions, round_trip, stability
from cascade.evaluation.variational import variational


def rows(file):
    with open(file.with_suffix(".csv")) as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def cascade(digits) -> Cascade:
    return Cascade.load(digits)


@pytest.fixture(scope="module")
def images(cascade) -> tuple[torch.Tensor, torch.Tensor]:
    source = open_images("mnist5k", "test", 1)
    chosen = torch.arange(0, 500, 30)
    return cascade.resize(source.read(chosen)), source.labels[chosen]


@pytest.mark.parametrize("scaling", ["whitened", "raw"])
def test_reconstructions_part_from_the_image_as_noise_rises(cascade, images, scaling):
    for stage, size in ((0, 8), (1, 16)):
        found = reconstructions(cascade, *images, stage, [0, 0.05, 0.5], scaling)
        assert found.images.shape == (3, 17, 1, size, size)
        assert torch.equal(found.images[0], cascade.levels(images[0])[stage])
        assert 0 == found.distance[0] < found.distance[1] < found.distance[2]


def test_conditions_are_those_of_the_bound(cascade, images):
    (clean, none), (noisy, gone) = conditional_bpd(cascade, *images, 1, [0, 0.3])
    assert none == gone == 0
    report = variational(cascade, *images, 1, 0.3)
    assert noisy == pytest.approx(-report.noisy.mean().item() / (256 * 0.6931471805599453))
    assert clean == pytest.approx(-report.clean.mean().item() / (256 * 0.6931471805599453))


def test_stability(cascade, images):
    calm = stability(cascade, 20, 0.5)
    assert calm.not_finite <= calm.failed <= 1
    assert 0 < round_trip(cascade, *images) < 1e-3
    wild = stability(cascade, 20, 1000.0)
    assert wild.failed == 1


def test_pictures_and_their_numbers(digits, tmp_path):
    few = ["--num", 3]
    for figure, words, count in (
        ("reconstructions", [digits, "--sigmas", "0,0.5", "--scaling", "raw", *few], 2 * 2),
        ("conditions", [digits, digits, "--sigmas", "0,0.5", *few], 2 * 2),
        ("samples", [digits, digits, "--temperature", "0.9,0.8", *few], 2 * 2),
        ("stability", [digits, "--temperature", "0.8,1.2", *few], 2),
    ):
        file = tmp_path / f"{figure}.png"
        done = run_tool("figures", figure, *words, "--out", file)
        assert done.returncode == 0, done.stderr
        assert Image.open(file).size[0] > 100 and len(rows(file)) == count
    done = run_tool("figures", "conditions", digits / "glow8", "--out", tmp_path / "none.png")
    assert done.returncode == 2 and "no stage with another below it" in done.stderr
    done = run_tool("figures", "samples", digits, "--out", tmp_path / "samples.bmp")
    assert done.returncode == 2 and ".png, .pdf or .svg" in done.stderr
    done = run_tool("figures", "samples", digits, "--out", tmp_path / "samples.png")
    assert done.returncode == 2 and "--force" in done.stderr


def test_failures_through_training(digits, tmp_path):
    folder = tmp_path / "srf16"
    done = run_tool(
        "train", ROOT / "configs/mnist5k/srf16.yaml", f"out={folder}", *TINY, "train.steps=6",
        "train.watch_sigmas=[0.5]", "train.save_every=2", "train.validate_images=16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file = tmp_path / "failures.png"
    done = run_tool("figures", "failures", f"{folder}/", "--out", file)
    assert done.returncode == 0, done.stderr
    found = rows(file)
    assert {row["watched"] for row in found} == {
        f"{kind}_{scaling}_0.5"
        for kind in ("not_finite", "exploded")
        for scaling in ("whitened", "raw")
    }
    assert sorted({int(row["step"]) for row in found}) == [2, 4, 6]
    done = run_tool("figures", "failures", digits / "srf16", "--out", tmp_path / "none.png")
    assert done.returncode == 2 and "train.watch_sigmas" in done.stderr
    assert not (tmp_path / "none.png").exists()
