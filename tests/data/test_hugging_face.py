"""Data sets of Hugging Face, from files of this machine: columns by type, their own splits."""

import io
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from cascade.data.hub import PREFIX
from cascade.data.named import open_images
from cascade.data.sources import fingerprint
from cascade.data.stored import Stored
from stages import InputError

KINDS = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}


def rows(count, seed=0, **more):
    """A data set of so many 8×8 images of two classes, and its pixels."""
    rng = np.random.default_rng(seed)
    pixels, pictures = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), []
    for image in pixels:
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    columns = {"id": list(range(count)), "picture": pictures, "kind": [i % 2 for i in range(count)]}
    features = datasets.Features({"id": datasets.Value("int64"), **KINDS} | more)
    for name, kind in more.items():
        columns[name] = columns["picture" if isinstance(kind, datasets.Image) else "kind"]
    table = datasets.Dataset.from_dict(columns, features=features)
    return table, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def opened(where, split, tmp_path, **options):
    return open_images(f"{PREFIX}{where}", split, root=str(tmp_path / "data"), **options)


def test_one_list_is_cut(tmp_path):
    table, pixels = rows(40)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    for where in ("a.parquet", "saved"):
        plain = opened(tmp_path / where, "all", tmp_path)
        copy = opened(tmp_path / where, "all", tmp_path, cache=str(tmp_path / "cache"))
        for source in (plain, copy):
            assert torch.equal(source.read(torch.arange(40)), pixels)
            assert source.labels.tolist() == [i % 2 for i in range(40)]
            assert list(source.classes) == ["cat", "dog"]
        assert isinstance(copy.pixels, Stored) and fingerprint(plain) == fingerprint(copy)
        parts = [opened(tmp_path / where, s, tmp_path) for s in ("train", "validation", "test")]
        assert [part.labels.bincount().tolist() for part in parts] == [[16] * 2, [2] * 2, [2] * 2]
    assert opened(tmp_path / "saved", "all", tmp_path, resize=4).shape == (3, 4, 4)
    assert opened(tmp_path / "saved", "all", tmp_path, channels=1).shape == (1, 8, 8)


def test_its_own_splits_count(tmp_path):
    tables = {name: rows(count, count) for name, count in (("train", 40), ("test", 6), ("val", 4))}
    for name in ("two", "three"):
        (tmp_path / name / "data").mkdir(parents=True)
        for split, (table, _) in tables.items():
            if split != "val" or name == "three":
                table.to_parquet(tmp_path / name / "data" / f"{split}-00000-of-00001.parquet")
    for kept in (None, str(tmp_path / "cache")):
        three, two = ({s: opened(tmp_path / name, s, tmp_path, cache=kept) for s in SPLITS}
                      for name in ("three", "two"))  # fmt: skip
        assert torch.equal(three["validation"].pixels[:], tables["val"][1])
        assert torch.equal(three["train"].pixels[:], tables["train"][1])
        joined = torch.cat([tables["train"][1], tables["val"][1]])
        assert torch.equal(three["trainval"].pixels[:], joined)
        assert [len(two[split]) for split in SPLITS] == [36, 4, 40, 6]
        assert torch.equal(two["test"].pixels[:], tables["test"][1])


SPLITS = ("train", "validation", "trainval", "test")


def test_folders_of_pictures(tmp_path):
    _, pixels = rows(4)
    for i, image in enumerate(pixels):
        folder = tmp_path / "a" / "train" / ("cat" if i < 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    source = opened(tmp_path / "a", "all", tmp_path)
    assert torch.equal(source.pixels, pixels) and source.labels.tolist() == [0, 0, 1, 1]


def test_columns_that_are_not_clear(tmp_path):
    cases = {
        "several class label columns, kind, other": rows(4, other=KINDS["kind"])[0],
        "no column of images, only id, kind": rows(4)[0].remove_columns("picture"),
        "several image columns, picture, other": rows(4, other=KINDS["picture"])[0],
    }
    for i, (message, table) in enumerate(cases.items()):
        table.save_to_disk(tmp_path / str(i))
        with pytest.raises(InputError, match=message):
            opened(tmp_path / str(i), "all", tmp_path)
    datasets.DatasetDict({"train": rows(4)[0], "val": rows(4)[0]}).save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match="has no test split, it has train, val"):
        opened(tmp_path / "two", "test", tmp_path)
    unlabelled = rows(4)[0].remove_columns("kind")
    unlabelled.save_to_disk(tmp_path / "none")
    assert opened(tmp_path / "none", "all", tmp_path).labels is None


def test_what_cannot_be_had_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "a.parquet", tmp_path / "empty"):
        with pytest.raises(InputError, match=f"^cannot load hf:{where}: [^\n]+$"):
            opened(where, "all", tmp_path)
    where = "nobody/nothing"
    code = f"from cascade.data import open_images; open_images('hf:{where}', root='{tmp_path}')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"stages.errors.InputError: cannot load hf:{where}: "), done.stderr
