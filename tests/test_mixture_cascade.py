"""Cascades of mixtures, as their users meet them: trained, scored, drawn, upscaled."""

import json

import pytest
import torch
from conftest import ROOT, run_tool
from small_stages import stage_folder

from cascade import Cascade
from cascade.data.arrays import open_npz
from cascade.photos.photo import Photo
from cascade.stage import load_stage
from cascade.training.metrics_log import read_metrics

FEW = ["train.steps=20", "train.batch_size=16", "train.validate_images=16", "train.init_images=64"]
FEW += ["train.sample_every=20", "model.mixture_width=8"]


def train(folder, pyramid, name, *settings):
    config = ROOT / "configs" / pyramid / f"{name}.yaml"
    done = run_tool("train", config, f"out={folder / name}", *FEW, *settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exact(tmp_path_factory, few_digits):
    """Mixtures alone, the upper one trained on disturbed low images."""
    folder, data = tmp_path_factory.mktemp("runs") / "exact", f"data.name={few_digits}"
    train(folder, "mnist5k-haar", "glow8", data, "train.memory=checkpoint")
    disturbed = [f"augment.previous={folder / 'glow8'}", "augment.sigma=0.3"]
    disturbed += ["augment.scaling=raw", "augment.condition=true"]
    train(folder, "mnist5k-haar", "srf16", data, *disturbed)
    return folder


def test_training_on_disturbed_images_stays_finite(exact):
    rows = read_metrics(exact / "srf16")
    assert all(row["bpd"] < 8.5 and row["replaced"] == 0 for row in rows if "bpd" in row)


def test_its_likelihood_is_exact_and_said_to_be(exact, few_digits, tmp_path):
    command = ["likelihood", exact, "--data", few_digits, "--limit", 12]
    done = run_tool(*command, "--json", tmp_path / "one.json", "--heatmap", tmp_path / "map.png")
    assert done.returncode == 0, done.stderr
    assert "clipped in samples" not in done.stdout and "nothing is clipped" in done.stdout
    assert run_tool(*command, "--samples", 3, "--json", tmp_path / "more.json").returncode == 0
    one, more = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "more"))
    assert one["bpd"] == more["bpd"] and "dequantisation" not in one["statement"]
    done = run_tool(*command, "--check")
    assert done.returncode == 0 and done.stdout.count("sound") == 2


def test_it_is_drawn_and_decoded(exact, few_digits, tmp_path):
    done = run_tool("sample", exact, "--num", 20, "--out", tmp_path / "grid.png")
    assert done.returncode == 0 and "clipped" not in done.stdout
    cascade, source = Cascade.load(exact), open_npz(few_digits, 1)
    images = cascade.resize(source.read(torch.arange(0, 400, 40)))
    labels = torch.arange(10)
    assert torch.equal(cascade.decode(cascade.encode(images, labels), labels), images)
    draw = cascade.draw(10, temperature=0.0, seed=1)
    assert torch.equal(draw.images[-1], cascade.draw(10, temperature=0.0, seed=2).images[-1])
    done = run_tool("upscale", exact / "srf16", *photo(source, tmp_path), "--label", 3)
    assert done.returncode == 0, done.stderr


def photo(source, folder):
    Photo.of(source.read(torch.tensor([7]))[0]).save(folder / "photo.png")
    return folder / "photo.png", "--out", folder, "--force"


def test_steps_after_mixtures_of_pixels(few_digits, tmp_path):
    """A bicubic cascade: no value is clipped, and the figure is a bound all the same."""
    settings = [f"data.name={few_digits}", "model.first=mixture", "model.steps=1"]
    train(tmp_path, "mnist5k", "glow8", *settings)
    train(tmp_path, "mnist5k", "srf16", *settings, "model.residual=false")
    done = run_tool("likelihood", tmp_path, "--data", few_digits, "--limit", 8)
    assert done.returncode == 0, done.stderr
    assert "clipped in samples" not in done.stdout
    assert "The dequantisation of glow8, srf16 is bounded" in done.stdout
    assert load_stage(tmp_path / "srf16").flow.bounded


@pytest.mark.parametrize(
    "setting",
    ["model.width=1000000", "model.dequantise_steps=200", "model.net_blocks=90"],
)
def test_sizes_of_what_a_stage_lacks_do_not_keep_it_from_being_read(tmp_path, setting):
    settings = "model.steps=0", setting
    folder = stage_folder(tmp_path / "glow8", *settings, config="mnist5k-haar/glow8")
    assert load_stage(folder).flow.exact
