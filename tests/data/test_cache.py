"""Decoded copies: what files hold, made once, whole or not at all, and again on change."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from cascade.data import cache
from cascade.data.cache import Original, copied
from cascade.data.folders import open_files
from cascade.data.named import open_images
from cascade.data.sources import FileImages, fingerprint, name_and_size
from cascade.data.stored import Stored
from stages import InputError, InputWarning


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(15):
            pixels = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{i}.png")
    return tmp_path / "images"


def copies(kept) -> dict[str, int]:
    """The files of a cache, and when they were made."""
    return {file.name: file.stat().st_mtime_ns for file in kept.glob("*.npz")}


def assert_same(one, other):
    everything = torch.arange(len(other))
    assert torch.equal(one.read(everything), other.read(everything))
    assert fingerprint(one) == fingerprint(other) and list(one.classes) == list(other.classes)
    assert torch.equal(one.labels, other.labels)
    assert [one.name(i) for i in range(len(other))] == [other.name(i) for i in range(len(other))]


@pytest.mark.parametrize("split", ["all", "train"])
def test_a_copy_is_what_the_files_hold(folder, tmp_path, split):
    kept = tmp_path / "cache"
    for channels, resize in ((3, None), (1, 4)):
        plain = open_images(str(folder), split, channels, resize)
        copy = open_images(str(folder), split, channels, resize, cache=str(kept))
        assert isinstance(plain, FileImages) and isinstance(copy.pixels, Stored)
        assert_same(copy, plain)
    before = copies(kept)
    assert_same(open_images(str(folder), split, 1, 4, cache=str(kept)), plain)
    assert copies(kept) == before and len(before) == 2
    assert not list(kept.glob("*.part*"))


def test_it_is_made_again_when_a_file_changes(folder, tmp_path):
    kept = tmp_path / "cache"

    def change():
        Image.new("RGB", (10, 8)).save(folder / "dog" / "3.png")

    def add():
        Image.new("RGB", (10, 8), "red").save(folder / "cat" / "new.png")

    def remove():
        (folder / "cat" / "0.png").unlink()

    def damage():
        (file,) = kept.glob("*.npz")
        file.write_bytes(file.read_bytes()[:1000])

    for what in (lambda: None, change, add, remove, damage):
        what()
        assert_same(
            open_images(str(folder), "all", cache=str(kept)), open_images(str(folder), "all")
        )
        assert len(copies(kept)) == 1


@pytest.mark.parametrize("place", [0, 7, 29])
def test_unreadable_files_are_named_or_left_out(folder, tmp_path, place):
    kept = str(tmp_path / "cache")
    sorted(folder.rglob("*.png"))[place].write_bytes(b"none")
    with pytest.raises(InputError, match="1 of 30 images cannot be read"):
        open_images(str(folder), "all", cache=kept)
    assert not copies(tmp_path / "cache")
    with pytest.warns(InputWarning, match="left out"):
        copy = open_images(str(folder), "all", skip_bad=True, cache=kept)
        assert_same(copy, open_images(str(folder), "all", skip_bad=True))
    assert len(copy) == 29 and len(copy.skipped) == 1
    with pytest.raises(InputError, match="1 of 30 images cannot be read"):
        open_images(str(folder), "all", cache=kept)  # though a copy without it is there


def test_where_no_copy_can_be_kept_files_are_read(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    for kept, message in ((tmp_path / "file", "no decoded copy of images is kept"), (None, "")):
        if kept is None:
            kept, message = tmp_path / "cache", r"GiB, 0\.0 GiB are free; set data\.cache"
            usage = cache.shutil.disk_usage(tmp_path)._replace(free=1000)
            monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder, usage=usage: usage)
        with pytest.warns(InputWarning, match=message):
            source = open_images(str(folder), "all", cache=str(kept))
        assert isinstance(source, FileImages)
        assert_same(source, open_images(str(folder), "all"))
    assert not copies(tmp_path / "cache") and not list((tmp_path / "cache").glob(".*part*"))


def test_what_a_killed_process_left_is_taken_away(folder, tmp_path):
    kept = tmp_path / "cache"
    open_images(str(folder), "all", cache=str(kept))
    (file,) = kept.glob("*.npz")
    left = file.with_name(f".{file.stem}.1.part.npz")
    os.replace(file, left)
    open_images(str(folder), "all", cache=str(kept))
    assert file.is_file() and not left.exists()


def test_two_processes_at_once(folder, tmp_path):
    """Both read the whole copy; neither fails."""
    code = f"""
from cascade.data.named import open_images
from cascade.data.sources import fingerprint
print(fingerprint(open_images({str(folder)!r}, "all", cache={str(tmp_path / "cache")!r})))"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    expected = fingerprint(open_images(str(folder), "all"))
    assert [process.communicate()[0].strip() for process in both] == [expected] * 2
    assert len(copies(tmp_path / "cache")) == 1


def test_files_of_a_published_set_are_known_by_name_and_size(folder, tmp_path):
    files = sorted(folder.rglob("*.png"))
    plain = open_files("faces", files, (3, 6, 6), 6, None)
    copy = open_files("faces", files, (3, 6, 6), 6, tmp_path / "cache")
    assert isinstance(plain, FileImages) and isinstance(copy.pixels, Stored)
    assert torch.equal(copy.read(torch.arange(30)), plain.read(torch.arange(30)))
    assert list(copy.contents()) == [name_and_size(file) for file in files]
    assert fingerprint(copy) == fingerprint(plain)


def test_a_copy_is_of_one_state_of_one_original(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    made = []

    def original(key, stamp):
        def read():
            made.append((key, stamp))
            return iter([None, images[1]])

        return Original("a", key, stamp, 2, read)

    for key, stamp in ((1, 1), (1, 1), (1, 2), (2, 2), (1, 2)):
        copy = copied(original(key, stamp), tmp_path)
        found = Stored([copy.part])[:].permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found[1], images[1]) and not found[0].any()
    assert made == [(1, 1), (1, 2), (2, 2)] and len(copies(tmp_path)) == 2
