"""Trained cascades are written whole, and read by name: folders, and models of the package."""

import shutil

import numpy as np
import pytest
import torch
from conftest import chdir, run_tool
from PIL import Image
from small_stages import ANIMALS, animals

from cascade import Cascade, pretrained
from cascade.pretrained import find_model, shipped_models
from stages import InputError

STAGE = {"config.yaml", "record.json", "model.safetensors"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder as training leaves it, with what is not to be passed on."""
    folder = animals(tmp_path_factory.mktemp("runs") / "animals")
    (folder / "srf16" / "state").mkdir()
    shutil.copy(folder / "srf16" / "model.safetensors", folder / "srf16" / "best.safetensors")
    return folder


@pytest.fixture(scope="module")
def toy(trained, tmp_path_factory):
    """A folder of models that holds one."""
    folder = tmp_path_factory.mktemp("home") / "toy"
    Cascade.load(trained).save_pretrained(folder)
    return folder


@pytest.fixture
def shipped(toy, tmp_path, monkeypatch):
    """The model is as if it came with the package; the current folder is another."""
    monkeypatch.setattr(pretrained, "HOME", toy.parent)
    (tmp_path / "here").mkdir()
    with chdir(tmp_path / "here"):
        yield toy


def test_what_is_saved_is_whole_and_can_be_moved(trained, tmp_path):
    cascade = Cascade.load(trained, device="cpu")
    cascade.save_pretrained(tmp_path / "new" / "pets")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["pets"]
    moved = (tmp_path / "new").rename(tmp_path / "moved") / "pets"
    files = {file.relative_to(moved).as_posix() for file in moved.rglob("*") if file.is_file()}
    of_stages = {f"{stage}/{name}" for stage in ("glow8", "srf16", "srf32") for name in STAGE}
    assert files == of_stages | {"cascade.yaml", "README.md"}
    again = Cascade.from_pretrained(moved)
    assert [s.digest for s in again.stages] == [s.digest for s in cascade.stages]
    assert torch.equal(again.sample(4, seed=1), cascade.sample(4, seed=1))
    assert again.class_names == list(ANIMALS)
    assert Cascade.from_pretrained(moved, dtype="float64").sample(1, seed=1).dtype == torch.uint8


def test_nothing_is_written_over(trained, tmp_path):
    cascade = Cascade.load(trained)
    cascade.save_pretrained(tmp_path)  # an empty folder is as good as none
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="is not empty; name a new folder"):
            cascade.save_pretrained(taken)
    (tmp_path / "file").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_a_link_and_is_never_the_current_one(trained, tmp_path):
    cascade, empty = Cascade.load(trained), tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    with chdir(empty), pytest.raises(InputError, match="current folder"):
        cascade.save_pretrained(".")
    cascade.save_pretrained(tmp_path / "link")
    assert Cascade.load(empty).shape == cascade.shape
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "link"]


def test_what_fails_leaves_nothing(trained, tmp_path):
    with pytest.raises(InputError, match="cannot write .*; name another folder"):
        Cascade.load(trained).save_pretrained("/proc/new")
    with pytest.raises(InputError, match="no report"):
        Cascade.load(trained).save_pretrained(tmp_path / "a" / "new", [tmp_path / "none.json"])
    assert not list(tmp_path.iterdir())


def test_a_shipped_model_is_found_in_each_spelling(shipped):
    assert shipped_models() == ["toy"]
    assert find_model("toy") == find_model("models/toy") == shipped
    assert find_model("toy/srf16") == find_model("models/toy/srf16") == shipped / "srf16"
    assert Cascade.from_pretrained("toy").shape == (1, 32, 32)
    assert Cascade.from_pretrained("models/toy/glow8").shape == (1, 8, 8)


def test_a_folder_that_exists_wins(shipped, trained, tmp_path):
    shutil.copytree(trained / "glow8", tmp_path / "here" / "toy")
    assert Cascade.from_pretrained("toy").shape == (1, 8, 8)
    with pytest.raises(InputError, match="only a hub's repository has revisions"):
        Cascade.from_pretrained("toy", revision="main")


@pytest.mark.parametrize(
    "name", ["tow", "models/tow", "runs/toy", "here/toy", "../toy", "/toy", "toy/../..", "a/b/c"]
)
def test_an_unknown_name_lists_what_is_shipped(shipped, tmp_path, name):
    (tmp_path / "here" / "here").mkdir()  # so that here/toy is in it, and no owner's repository
    words = r"no run folder .*; train .*comes with the package \(toy\), or a hub's owner/repository"
    with pytest.raises(InputError, match=words):
        find_model(name)


@pytest.mark.parametrize("name", ["toy/srf64", "models/toy/srf64"])
def test_no_hub_is_asked_for_a_stage_that_a_model_lacks(shipped, name):
    words = "the model toy has no stage srf64: name one of toy/glow8, toy/srf16"
    with pytest.raises(InputError, match=words):
        find_model(name)


def test_models_of_the_package_are_found_beside_it_or_in_it():
    assert pretrained.HOME.name == "models" and (pretrained.HOME / "__init__.py").is_file()


def test_tools_take_names_of_models_and_classes(shipped, tmp_path):
    done = run_tool("sample", "toy", "--num", 3, "--classes", "dog,guinea pig,2",
                    "--npz", "s.npz", cwd=tmp_path / "here")  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = Cascade.from_pretrained("toy").sample(3, [1, 3, 2], seed=0)
    found = torch.from_numpy(np.load("s.npz")["images"]).permute(0, 3, 1, 2)
    assert torch.equal(found, expected)
    by_name = Cascade.from_pretrained("toy").sample(3, ["dog", "guinea pig", "2"], seed=0)
    assert torch.equal(by_name, expected)
    Image.new("L", (16, 16)).save("low.png")
    by_model = ["low.png", "--model", "toy"]
    for label, picture, words in (
        ("dog", "named", ["toy", "low.png"]),
        ("1", "other", by_model),
        ("2", "numbered", by_model),
    ):
        done = run_tool("upscale", *words, "--label", label, "--out", picture,
                        cwd=tmp_path / "here")  # fmt: skip
        assert done.returncode == 0, done.stderr
    named, other, numbered = (
        (tmp_path / "here" / folder / "low-x2-0.png").read_bytes()
        for folder in ("named", "other", "numbered")
    )
    assert other == numbered != named  # a class called 1 comes before the number of a dog


@pytest.mark.parametrize(
    ("tool", "words", "message"),
    [
        ("sample", ["tow"], "comes with the package (toy)"),
        ("likelihood", ["tow"], "comes with the package (toy)"),
        ("evaluate", ["tow", "--features", "net.pt"], "comes with the package (toy)"),
        ("upscale", ["tow", "low.png"], "comes with the package (toy)"),
        ("figures", ["samples", "tow", "--out", "f.png"], "comes with the package (toy)"),
        ("sample", ["toy", "--classes", "cat,cow"], "no class 'cow': name one of cat, dog, 1, gui"),
        ("upscale", ["low.png"], "name the model once"),
        ("upscale", ["toy", "low.png", "--model", "toy"], "name the model once"),
        ("upscale", ["toy", "low.png", "--label", "cow"], "no class 'cow': name one of cat, dog"),
    ],
)
def test_unknown_names_are_one_line(shipped, tmp_path, tool, words, message):
    Image.new("L", (16, 16)).save("low.png")
    done = run_tool(tool, *words, cwd=tmp_path / "here")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["low.png"]
