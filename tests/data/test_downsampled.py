"""Both published versions of the small ImageNet are told apart, and say which they are."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from PIL import Image

from cascade.data.downsampled import version_of
from cascade.data.named import open_images
from cascade.data.sources import fingerprint
from cascade.data.stored import Stored
from stages import InputError

RNG = np.random.default_rng(0)


def batch(file, count, save=np.savez, **others):
    """A batch as published: (N, 3·8·8) uint8 plane by plane, labels from 1."""
    data = RNG.integers(0, 256, (count, 3 * 64), dtype=np.uint8)
    arrays = {"data": data, "labels": np.arange(count) % 5 + 1, "mean": np.zeros(3 * 64)}
    save(file, **arrays | others)
    return data.reshape(-1, 3, 8, 8)


@pytest.fixture
def batches(tmp_path):
    """Ten batches, of which the tenth is read last, not second."""
    pixels = [batch(tmp_path / f"train_data_batch_{i}.npz", 20) for i in range(1, 11)]
    return np.concatenate(pixels), batch(tmp_path / "val_data.npz", 15), tmp_path


def test_batches(batches):
    train, test, folder = batches
    found = {s: open_images(str(folder), s) for s in ("trainval", "train", "validation", "test")}
    assert torch.equal(found["trainval"].pixels[:], torch.from_numpy(train))
    assert torch.equal(found["test"].pixels[:], torch.from_numpy(test))
    assert isinstance(found["test"].pixels, Stored)
    assert found["test"].labels.tolist() == [i % 5 for i in range(15)]
    assert found["validation"].labels.bincount().tolist() == [4] * 5
    assert len(found["train"]) == 180
    shown = [set(found[s].contents()) for s in ("train", "validation", "trainval")]
    assert not shown[0] & shown[1] and shown[0] | shown[1] == shown[2]
    for source in found.values():
        assert source.version == "ImageNet 8x8 of Chrabaszcz et al. (2017)"


def test_compressed_batches(batches, tmp_path):
    train, _, folder = batches
    first = folder / "train_data_batch_1.npz"
    with np.load(first) as arrays:
        np.savez_compressed(first, **arrays)
    for kept in (None, str(tmp_path / "cache")):
        source = open_images(str(folder), "trainval", cache=kept)
        assert torch.equal(source.pixels[:], torch.from_numpy(train))
        assert isinstance(source.pixels, Stored) == bool(kept)


def test_folders_of_pictures(tmp_path):
    for name, count in (("train_8x8", 30), ("valid_8x8", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i:03d}.png")
    for split, count in (("trainval", 30), ("train", 27), ("validation", 3), ("test", 4)):
        source = open_images(str(tmp_path), split)
        assert len(source) == count and source.labels is None
        assert source.version == "ImageNet 8x8 of van den Oord et al. (2016)"
        copy = open_images(str(tmp_path), split, cache=str(tmp_path / "cache"))
        assert fingerprint(copy) == fingerprint(source)
    with pytest.raises(InputError, match="has a size of its own"):
        open_images(str(tmp_path), "train", resize=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.arange(20)}, "labels must lie between 1 and 1000"),
        ({"labels": np.ones(3)}, "labels must be 20 whole numbers from 1"),
        ({"data": np.zeros((20, 100), np.uint8)}, "data must be uint8"),
        ({"data": np.zeros((20, 192))}, "data must be uint8"),
        ({"data": np.zeros((20, 3 * 16), np.uint8)}, "of different sizes"),
    ],
)
def test_batches_that_are_not(batches, change, message):
    folder = batches[2]
    batch(folder / "train_data_batch_3.npz", 20, **change)
    with pytest.raises(InputError, match=message):
        open_images(str(folder), "train")


def test_a_missing_batch_is_named(batches):
    (batches[2] / "val_data.npz").unlink()
    with pytest.raises(InputError, match=r"cannot read .*val_data\.npz"):
        open_images(str(batches[2]), "test")
    with pytest.raises(InputError, match="3 channels, the stage 1"):
        open_images(str(batches[2]), "train", 1)


def test_the_number_of_images_tells():
    assert "van den Oord" in version_of(1_281_149, (3, 64, 64))
    assert version_of(1_281_167, (3, 32, 32)).endswith("which of its versions is not known")
    assert version_of(1_281_149, (3, 64, 32)) == version_of(50_000, (3, 32, 32)) == ""


def test_every_report_says_which(batches, tmp_path):
    folder, out = batches[2], tmp_path / "run"
    words = [f"data.name={folder}", f"out={out}", "data.size=8", "data.cache=null"]
    words += ["train.steps=1", "train.batch_size=4", "model.levels=1", "model.steps=1"]
    words += ["model.width=8", "train.init_images=8", "train.validate_images=4"]
    file = ROOT / "configs/cifar10/glow16.yaml"
    done = run_tool("train", file, *words, "data.version=another")
    assert done.returncode == 2 and "leave data.version out" in done.stderr
    assert run_tool("train", file, *words).returncode == 0
    name = "ImageNet 8x8 of Chrabaszcz et al. (2017)"
    assert name in (out / "README.md").read_text()
    done = run_tool("likelihood", out, "--json", tmp_path / "a.json")
    assert done.returncode == 0 and f"the images are {name}" in done.stdout, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["data_version"] == name
    np.savez(tmp_path / "own.npz", images=np.zeros((30, 8, 8, 3), np.uint8))
    words[0], words[1] = f"data.name={tmp_path / 'own.npz'}", f"out={tmp_path / 'own'}"
    stated = ["data.version=mine", "data.allow_overlap=true"]
    assert run_tool("train", file, *words, *stated).returncode == 0
    assert "; mine |" in (tmp_path / "own" / "README.md").read_text()
    assert "the images are mine" in run_tool("likelihood", tmp_path / "own").stdout
