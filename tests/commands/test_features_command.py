"""tools/features.py, run as a user runs it."""

import hashlib
import json
import os

import numpy as np
import pytest
from conftest import launch, run_tool

SMALL = ["--channels", 1, "--width", 8, "--epochs", 2, "--batch", 64]


def test_digits_are_told_apart_and_the_same_command_gives_the_same_file(tmp_path):
    digests = []
    for name in ("one", "same"):  # in processes of their own, whose hashes of strings differ
        out, report = tmp_path / f"{name}.pt", tmp_path / f"{name}.json"
        words = ["digits", *SMALL, "--out", out, "--json", report]
        done = launch("python", "tools/features.py", *words)
        assert done.returncode == 0, done.stderr
        digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
    found = json.loads(report.read_text())
    assert digests == [found["sha256"]] * 2 and found["sha256"] in done.stdout
    assert min(found["accuracy"].values()) > 0.7  # of ten classes
    assert found["images"] == {"train": 1438, "validation": 180, "test": 179}
    assert (found["features"], found["epochs"], found["flip"]) == (32, 2, False)
    assert f"{found['accuracy']['test']:.2%} of 179 test images told apart" in done.stdout


@pytest.fixture
def arrays(tmp_path):
    """Files of images without labels, and of one class."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "unlabelled.npz", images=images)
    np.savez(tmp_path / "alike.npz", images=images, labels=np.zeros(40, np.int64))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unlabelled.npz"], "images of unlabelled.npz have no labels"),
        (["alike.npz"], "images of alike.npz are of one class: it takes two or more"),
        (["imagenet"], "unknown data set 'imagenet'"),
        (["digits", "--channels", 3], "digits has 1 channels, 3 were asked for"),
        (["digits", "--resize", 16], "resize is for folders and arrays"),
        (["digits", "--batch", 1], "--batch 1 is too few"),
        (["digits", "--device", "meta"], "--device meta cannot be used here"),
        (["digits", "--out", "alike.npz"], "alike.npz exists; pass --force to overwrite it"),
        (["digits", "--out", "alike.npz/net.pt"], "alike.npz is not a folder"),
        (["digits", "--json", "./net.pt"], "net.pt and ./net.pt are one file"),
    ],
)
def test_errors_come_before_training(arrays, words, message, monkeypatch):
    stop = lambda *_: pytest.fail("it trained before it checked")  # noqa: E731
    monkeypatch.setattr("cascade.classifier.training.feature_net", stop)
    done = run_tool("features", "--out", "net.pt", "--channels", 1, *words, cwd=arrays)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert sorted(os.listdir(arrays)) == ["alike.npz", "unlabelled.npz"]
