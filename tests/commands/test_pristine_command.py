"""Good photos become a model, by which enlargements are scored."""

import argparse
import json

import pytest
import torch
from conftest import run_tool
from skimage import data
from small_stages import stage_folder

from cascade import InputError
from cascade.commands.pristine import photos
from cascade.commands.shared.judging import add_arguments, judges_of
from cascade.evaluation.enlargements.niqe import Pristine
from cascade.photos.photo import Photo


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of two textures, one of them in a folder of its own, and a file that is no image."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "inner").mkdir()
    (folder / "notes.txt").write_text("not an image")
    for kind, file in ((data.grass, "b.png"), (data.gravel, "inner/a.png")):
        Photo.of(torch.from_numpy(kind()[None, :144, :144].copy())).save(folder / file)
    return folder


def test_photos_become_a_model_that_scores_enlargements(good, tmp_path):
    model, report = tmp_path / "pristine.safetensors", tmp_path / "up.json"
    done = run_tool("pristine", good, "--patch", 16, "--out", model)
    assert done.returncode == 0, done.stderr
    assert "2 photos, patches of 16x16" in done.stdout and Pristine.load(model).patch == 16
    assert Pristine.load(model).digest in done.stdout
    folder = stage_folder(tmp_path / "srf2x")
    Photo.of(torch.from_numpy(data.chelsea()[100:141, 100:153].copy()).permute(2, 0, 1)).save(
        tmp_path / "cat.png"
    )
    words = ["--halve", "--num", 2, "--niqe", model, "--piqe", "--json", report]
    done = run_tool("upscale", folder, tmp_path / "cat.png", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["no_reference"]
    assert [len(found[of]) for of in ("samples", "cubic", "real")] == [2, 2, 2]
    score = Pristine.load(model)(Photo.open(tmp_path / "out" / "cat-x2-1.png").pixels(3))
    assert found["samples"][1]["niqe"] == pytest.approx(score)
    assert found["files"]["niqe"]["sha256"] == Pristine.load(model).digest
    assert f"NIQE {score:.2f}, PIQE" in done.stdout and "the photo itself: NIQE" in done.stdout
    for wrong in (["--niqe", tmp_path / "none"], ["--brisque", tmp_path / "none"]):
        refused = run_tool("upscale", folder, tmp_path / "cat.png", *wrong, "--out", tmp_path / "o")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("words", [[], ["--piqe"]])
def test_only_scores_that_are_asked_for(words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = judges_of(parser.parse_args(words))
    assert [f"--{judge.key}" for judge in found] == words


def test_which_photos(good, tmp_path):
    assert [file.name for file in photos([str(good)])] == ["b.png", "a.png"]
    with pytest.raises(InputError, match="hold no images"):
        photos([str(tmp_path)])
    refused = run_tool("pristine", good / "notes.txt", "--out", tmp_path / "model")
    assert refused.returncode == 2 and "cannot read image" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not (tmp_path / "model").exists()
