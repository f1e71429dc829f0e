"""Images that stay in their files: the same as in memory, whatever their number and layout."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from cascade.data import arrays, stored
from cascade.data.named import open_images
from cascade.data.sources import ArrayImages, fingerprint, together
from cascade.data.stored import Stored
from stages import InputError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 6, 4, 3), dtype=np.uint8)


@pytest.fixture
def all_large(monkeypatch):
    """Every array counts as a large one."""
    monkeypatch.setattr(arrays, "LARGE", 0)
    monkeypatch.setattr(stored, "LARGE", 0)


def assert_same(source, images, labels=None):
    """Pixels, subsets, digests and labels are those of the images in memory."""
    expected = ArrayImages(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), labels)
    places = torch.tensor([7, 0, 39, 7])
    assert source.shape == expected.shape and len(source) == len(expected)
    for one, other in (
        (source, expected),
        (source.subset(places), expected.subset(places)),
        (source.subset(places).subset(torch.tensor([2])), expected.subset(places[2:3])),
        (pickle.loads(pickle.dumps(source.subset(places))), expected.subset(places)),
    ):
        everything = torch.arange(len(other))
        assert torch.equal(one.read(everything), other.read(everything))
        assert one.read(everything).is_contiguous()
        assert list(one.contents()) == list(other.contents())
        assert fingerprint(one) == fingerprint(other)


def test_npy(pixels, tmp_path):
    np.save(tmp_path / "a.npy", pixels)
    np.save(tmp_path / "grey.npy", pixels[..., 0])
    source = open_images(str(tmp_path / "a.npy"), "all")
    assert isinstance(source.pixels, Stored)
    assert_same(source, pixels)
    assert_same(open_images(str(tmp_path / "grey.npy"), "all", 1), pixels[..., :1])
    assert len(pickle.dumps(source)) < 2000  # whoever it is sent to reads the file
    parts = [open_images(str(tmp_path / "a.npy"), s) for s in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]


def test_an_npz_is_read_where_it_lies(pixels, tmp_path, all_large):
    np.savez(tmp_path / "a.npz", labels=np.arange(40) % 2, images=pixels)
    source = open_images(str(tmp_path / "a.npz"), "all", cache=str(tmp_path / "cache"))
    assert isinstance(source.pixels, Stored)
    assert_same(source, pixels, torch.arange(40) % 2)
    kept = list((tmp_path / "cache").iterdir())
    assert [file.name.endswith(".digests.npz") for file in kept] == [True]
    again = open_images(str(tmp_path / "a.npz"), "all", cache=str(tmp_path / "cache"))
    assert_same(again, pixels, torch.arange(40) % 2)  # by digests that were kept
    np.savez(tmp_path / "a.npz", labels=np.arange(40) % 2, images=pixels[::-1])
    other = open_images(str(tmp_path / "a.npz"), "all", cache=str(tmp_path / "cache"))
    assert_same(other, pixels[::-1], torch.arange(40) % 2)  # by others


def test_a_compressed_or_resized_one_is_unpacked_once(pixels, tmp_path, all_large):
    file, cache = tmp_path / "a.npz", str(tmp_path / "cache")
    np.savez_compressed(file, images=pixels)
    assert isinstance(open_images(str(file), "all").pixels, torch.Tensor)
    source = open_images(str(file), "all", cache=cache)
    assert isinstance(source.pixels, Stored)
    assert_same(source, pixels)
    np.save(tmp_path / "a.npy", pixels)
    in_memory = open_images(str(file), "all", resize=4)
    for name in ("a.npz", "a.npy"):
        resized = open_images(str(tmp_path / name), "all", resize=4, cache=cache)
        assert isinstance(resized.pixels, Stored)
        assert torch.equal(resized.pixels[:], in_memory.pixels)
        assert fingerprint(resized) == fingerprint(in_memory)


def test_several_are_one_list(pixels, tmp_path):
    for name, images in (("a", pixels[:13]), ("b", pixels[13:])):
        np.save(tmp_path / f"{name}.npy", images)
    sources = [open_images(str(tmp_path / f"{name}.npy"), "all") for name in "ab"]
    assert_same(together(sources), pixels)
    assert_same(together([sources[0].subset(torch.arange(13)), sources[1]]), pixels)
    with pytest.raises(IndexError):
        sources[0].read(torch.tensor([13]))


def test_forked_processes_read_at_once(pixels, tmp_path):
    np.save(tmp_path / "a.npy", pixels)
    source, whole = open_images(str(tmp_path / "a.npy"), "all"), torch.from_numpy(pixels)
    source.read(torch.tensor([3]))  # the file is open before the fork

    def check(first: int) -> None:
        for place in range(first, first + 5000):
            place = torch.tensor([place % 40])
            assert torch.equal(source.read(place), whole[place].permute(0, 3, 1, 2))

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=check, args=(first,)) for first in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_file_that_changes_is_noticed(pixels, tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, pixels)
    read, unread = (open_images(str(file), "all") for _ in range(2))
    read.read(torch.tensor([0]))
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    for source, place in ((read, 39), (unread, 0)):
        with pytest.raises(InputError, match="has changed while it was in use"):
            source.read(torch.tensor([place]))
    file.unlink()
    with pytest.raises(InputError, match="cannot read"):
        unread.read(torch.tensor([0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images / 255, "images must be uint8"),
        (lambda images: images[0, 0], "images must be uint8"),
        (lambda images: images[:0], "images must be uint8"),
        (lambda images: images[..., :2], "has 2 channels, the stage 3"),
        (lambda images: np.asfortranarray(images), "column by column"),
        (lambda images: np.array([{}], dtype=object), "cannot read"),
    ],
)
def test_npy_that_is_none(pixels, tmp_path, change, message):
    np.save(tmp_path / "a.npy", change(pixels))
    with pytest.raises(InputError, match=message):
        open_images(str(tmp_path / "a.npy"), "all")


def test_an_npy_that_is_cut_short(pixels, tmp_path):
    np.save(tmp_path / "a.npy", pixels)
    content = (tmp_path / "a.npy").read_bytes()
    for size in range(0, len(content), 97):
        (tmp_path / "a.npy").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"cannot read .*a\.npy: ."):
            open_images(str(tmp_path / "a.npy"), "all")


def test_an_npy_whose_header_does_not_end(pixels, tmp_path):
    """What numpy's reader raises then is neither a ValueError nor a SyntaxError."""
    np.save(tmp_path / "a.npy", pixels)
    content = (tmp_path / "a.npy").read_bytes().replace(b"_order': F", b"_order'[ F", 1)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*a\.npy: "):
        open_images(str(tmp_path / "a.npy"), "all")
