"""Data sources: splits that never overlap, and bad files that are named."""

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.data.folders import open_folder
from cascade.data.named import open_images
from cascade.data.sources import ArrayImages
from cascade.data.splits import labels_by_name, part, part_by_name
from stages import InputError


def as_set(source) -> set[bytes]:
    return {i.numpy().tobytes() for i in source.read(torch.arange(len(source)))}


@pytest.mark.parametrize(
    ("name", "channels", "size"), [("mnist5k", 1, 32), ("digits", 1, 8), ("photos", 3, 64)]
)
def test_built_in_sets(name, channels, size):
    splits = {s: open_images(name, s, channels) for s in ("train", "validation", "test")}
    for source in splits.values():
        assert source.shape == (channels, size, size)
        assert source.read(torch.tensor([0])).dtype == torch.uint8
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not as_set(splits[a]) & as_set(splits[b])
    joined = open_images(name, "trainval", channels)
    assert len(joined) == len(splits["train"]) + len(splits["validation"])


def test_mnist5k_is_balanced():
    for split, each in (("train", 400), ("validation", 50), ("test", 50)):
        assert open_images("mnist5k", split, 1).labels.bincount().tolist() == [each] * 10


@pytest.fixture
def cifar(monkeypatch):
    """CIFAR-10 as torchvision gives it, with made-up pixels: its files cannot be had in a test."""
    from torchvision import datasets

    class Fake:
        classes = [str(i) for i in range(10)]

        def __init__(self, root, train, download):
            rng = np.random.default_rng(int(train))
            self.data = rng.integers(0, 256, (200 if train else 50, 32, 32, 3), dtype=np.uint8)
            self.targets = list(np.arange(len(self.data)) % 10)

    monkeypatch.setattr(datasets, "CIFAR10", Fake)


def test_validation_is_a_balanced_tenth_of_training(cifar):
    splits = {s: open_images("cifar10", s) for s in ("train", "validation", "trainval", "test")}
    assert [len(splits[s]) for s in splits] == [180, 20, 200, 50]
    assert splits["validation"].labels.bincount().tolist() == [2] * 10
    assert not as_set(splits["train"]) & as_set(splits["validation"])
    assert as_set(splits["trainval"]) == as_set(splits["train"]) | as_set(splits["validation"])
    assert torch.equal(open_images("cifar10", "validation").pixels, splits["validation"].pixels)


def test_part_is_fixed_and_complete():
    labels = torch.arange(100) % 3
    parts = [part(100, labels, s) for s in ("train", "validation", "test")]
    assert torch.cat(parts).sort().values.tolist() == list(range(100))
    assert torch.equal(part(100, labels, "train"), parts[0])


def test_a_new_file_moves_no_other():
    names = [f"{i}.png" for i in range(1000)]
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        chosen = {names[i] for i in part_by_name(names, split)}
        assert len(chosen) / 1000 == pytest.approx(share, abs=0.03)
        assert chosen <= {["new", *names][i] for i in part_by_name(["new", *names], split)}


def test_labels_follow_names():
    source = ArrayImages(torch.zeros(3, 1, 1, 1), torch.tensor([0, 1, 1]), ["dog", "horse"])
    assert labels_by_name(source, ["cat", "dog", "horse"], 3).tolist() == [1, 2, 2]
    assert labels_by_name(source, ["cat", "dog"], 2) is None
    assert labels_by_name(source, [], 2).tolist() == [0, 1, 1]
    assert labels_by_name(source, [], 1) is None  # not the labels of a cascade of one class
    assert labels_by_name(source, [], 0).tolist() == [0, 1, 1]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def test_folder_with_classes(folder):
    source = open_images(str(folder), "all")
    assert len(source) == 20 and source.shape == (3, 16, 16)
    assert source.classes == ["cat", "dog"] and source.labels.bincount().tolist() == [10, 10]
    first = torch.from_numpy(np.array(Image.open(folder / "cat" / "0.png"))).permute(2, 0, 1)
    assert torch.equal(source.read(torch.tensor([0]))[0], first)
    parts = [as_set(open_images(str(folder), s)) for s in ("train", "test")]
    assert parts[0] and not parts[0] & parts[1]
    assert open_images(str(folder), "all", channels=1).shape == (1, 16, 16)
    assert open_images(str(folder), "all", resize=8).read(torch.tensor([3])).shape == (1, 3, 8, 8)


def test_modes_that_are_not_rgb(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "b.png")
    Image.fromarray(grey).convert("CMYK").save(tmp_path / "c.tif")
    Image.fromarray(np.dstack([grey] * 4)).save(tmp_path / "d.png")
    images = open_folder(tmp_path, 3).read(torch.arange(4))
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[3])
    assert images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text"])
def test_damaged_image_is_named_or_counted(folder, damage):
    file = folder / "dog" / "3.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"1 of 20 images cannot be read, first .*dog/3.png"):
        open_images(str(folder), "all")
    source = open_images(str(folder), "all", skip_bad=True)
    assert len(source) == 19 and len(source.skipped) == 1


def test_folder_errors(tmp_path, folder):
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        open_folder(folder / "none", 3)
    Image.new("RGB", (20, 20)).save(folder / "cat" / "big.png")
    with pytest.raises(InputError, match=r"different sizes.*--resize"):
        open_folder(folder, 3)
    assert len(open_folder(folder, 3, resize=16)) == 21


def test_npz(tmp_path):
    file = tmp_path / "a.npz"
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(20) % 2, classes=["a", "b"])
    source = open_images(str(file), "all", 1)
    assert source.shape == (1, 8, 8) and source.classes == ["a", "b"]
    assert np.array_equal(source.pixels[:, 0].numpy(), images)
    with pytest.raises(InputError, match="1 channels, the stage 3"):
        open_images(str(file), "all", 3)
    labelled = {"images": images, "labels": np.arange(20) % 3}
    for arrays, message in (
        ({"pixels": images}, "needs an array 'images'"),
        ({"images": images / 255}, "must be uint8"),
        ({"images": images, "labels": np.arange(3)}, "labels must be 20 whole numbers from 0"),
        ({"images": images, "labels": np.full(20, -1)}, "labels must be 20 whole numbers from 0"),
        ({"images": images, "labels": np.full(20, "a")}, "labels must be 20 whole numbers from 0"),
        ({"images": images, "labels": np.full(20, 2**63, np.uint64)}, "they go from 922337203685"),
        ({"images": np.array([{}, {}], dtype=object)}, "cannot read"),
        ({**labelled, "classes": ["a", "a", "b"]}, "different names, 'a' is given twice"),
        ({**labelled, "classes": ["a", "b"]}, "names 2 classes, labels go up to 2"),
        ({**labelled, "classes": [["a", "b", "c"]]}, "classes must be a list of names"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(InputError, match=message):
            open_images(str(file), "all", 1)
    np.savez(file, images=images)
    assert open_images(str(file), "all", 1, resize=4).shape == (1, 4, 4)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot read"):
        open_images(str(file), "all", 1)


def test_an_empty_split_says_why(tmp_path):
    images, labels = np.zeros((2000, 8, 8), dtype=np.uint8), np.arange(2000) // 2
    np.savez(tmp_path / "pairs.npz", images=images, labels=labels)
    with pytest.raises(InputError, match="8 images a class, and the largest of its classes has 2"):
        open_images(str(tmp_path / "pairs.npz"), "validation", 1)
    np.savez(tmp_path / "two.npz", images=images[:2])
    with pytest.raises(InputError, match="rounded, which takes 8 images$"):
        open_images(str(tmp_path / "two.npz"), "test", 1)


@pytest.mark.parametrize(
    ("name", "split", "channels", "message"),
    [
        ("imagenet", "train", 3, "unknown data set 'imagenet'"),
        ("mnist5k", "trian", 1, "unknown split 'trian'"),
        ("mnist5k", "train", 3, "has 1 channels, 3 were asked for"),
    ],
)
def test_names_that_are_wrong(name, split, channels, message):
    with pytest.raises(InputError, match=message):
        open_images(name, split, channels)
