"""Cascades in the repositories of a hub, which runs on this machine; each refusal is one line."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, chdir
from huggingface_hub import ModelCard, constants
from small_stages import animals
from stub_hub import running_hub

from cascade import Cascade, hub
from stages import InputError

DIGITS = "someone/digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    result = tmp_path_factory.mktemp("saved") / "digits"
    Cascade.load(animals(tmp_path_factory.mktemp("run") / "run")).save_pretrained(result)
    return result


def connect(monkeypatch, address: str) -> None:
    """Do as HF_ENDPOINT does in a process that begins."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


@pytest.fixture
def there(folder, tmp_path, monkeypatch):
    """A hub that holds a repository of two revisions, an empty cache, and a folder to be in."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone")
    with running_hub() as result, chdir(tmp_path):
        connect(monkeypatch, result.address)
        result.put_folder(DIGITS, folder / "glow8", "v1")
        result.put_folder(DIGITS, folder)
        yield result


def cut_off(monkeypatch) -> None:
    """The address becomes one at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    connect(monkeypatch, f"http://127.0.0.1:{port}")


def test_a_repository_is_fetched_once(there, folder, monkeypatch):
    cascade = Cascade.from_pretrained(DIGITS)
    mine = Cascade.load(folder)
    assert [s.digest for s in cascade.stages] == [s.digest for s in mine.stages]
    assert torch.equal(cascade.sample(2, seed=0), mine.sample(2, seed=0))
    there.asked.clear()
    Cascade.from_pretrained(DIGITS)
    assert not [path for path in there.asked if "/resolve/" in path]
    cut_off(monkeypatch)
    again = Cascade.from_pretrained(DIGITS)
    assert [s.digest for s in again.stages] == [s.digest for s in mine.stages]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Cascade.from_pretrained(DIGITS).class_names == mine.class_names


def test_a_revision_is_a_branch_or_a_commit(there):
    old = there.branches[DIGITS]["v1"]
    for revision in ("v1", old):
        assert Cascade.from_pretrained(DIGITS, revision).shape == (1, 8, 8)
    assert Cascade.from_pretrained(DIGITS).shape == (1, 32, 32)
    with pytest.raises(InputError, match="digits has no revision v3: name a branch, tag or commit"):
        Cascade.from_pretrained(DIGITS, "v3")


def test_what_is_no_cascade_is_refused(there, folder, tmp_path):
    there.put("someone/text", {"README.md": b"a text", "config.json": b"{}"})
    with pytest.raises(InputError, match="someone/text holds neither cascade.yaml nor a trained"):
        Cascade.from_pretrained("someone/text")
    half = shutil.copytree(folder, tmp_path / "half")
    (half / "srf16" / "model.safetensors").unlink()
    there.put_folder("someone/half", half)
    with pytest.raises(InputError, match=r"no whole cascade, it lacks srf16.model\.safetensors"):
        Cascade.from_pretrained("someone/half")


@pytest.mark.parametrize("stage", ["/etc", "../..", "glow8/../../mine"])
def test_stages_outside_of_a_repository_are_refused(there, stage):
    there.put("someone/odd", {"cascade.yaml": f"stages: [{stage}]".encode()})
    with pytest.raises(InputError, match="someone/odd lists stages outside of it"):
        Cascade.from_pretrained("someone/odd")


@pytest.mark.parametrize("name", [r"a\0b", "a" * 300])
def test_stages_of_names_that_no_file_can_have(there, name):
    there.put("someone/odd", {"cascade.yaml": f'stages: ["{name}"]'.encode()})
    with pytest.raises(InputError, match="someone/odd holds neither"):
        Cascade.from_pretrained("someone/odd")


def test_what_is_not_to_be_used_is_not_fetched(there, folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    for name in ("state/step-4.safetensors", "best.safetensors", "samples/step-4.png"):
        (run / "glow8" / name).parent.mkdir(exist_ok=True)
        (run / "glow8" / name).write_bytes(b"not to be used")
    there.put_folder("someone/run", run)
    fetched = hub.download("someone/run")
    assert sorted(f.relative_to(fetched) for f in fetched.rglob("*") if f.is_file()) == sorted(
        f.relative_to(folder) for f in folder.rglob("*") if f.is_file()
    )


def test_an_unknown_repository(there):
    with pytest.raises(
        InputError, match=r"no folder someone/none here, and http.* no access .*log"
    ):
        Cascade.from_pretrained("someone/none")


def test_no_network_and_no_cache(there, monkeypatch):
    words = "no folder someone/digits here, and .* cannot be reached .*: connect once"
    cut_off(monkeypatch)
    with pytest.raises(InputError, match=words):
        Cascade.from_pretrained(DIGITS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=words):
        Cascade.from_pretrained(DIGITS)
    with pytest.raises(InputError, match=r"someone/digits and http.*; try again, or use a folder"):
        hub.upload(ROOT / "models", DIGITS, None, None, "nothing")


def test_without_the_package(there, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    needed = r"someone/digits .* pip install 'csrflow\[hub\]'"
    with pytest.raises(InputError, match=needed):
        Cascade.from_pretrained(DIGITS)
    with pytest.raises(InputError, match=needed):
        Cascade.load(folder).push_to_hub(DIGITS)
    assert not there.asked


def test_a_cascade_is_pushed_and_comes_back(there, folder, tmp_path, monkeypatch):
    cascade = Cascade.load(folder)
    address = cascade.push_to_hub("someone/new", private=True, message="the first")
    sha = there.branches["someone/new"]["main"]
    assert address == f"{there.address}/someone/new/commit/{sha}"
    assert there.private == {"someone/new"} and there.messages == ["the first"]
    card = ModelCard(there.commits[sha]["README.md"].decode())
    assert card.data.library_name == "csrflow" and 'from_pretrained("someone/new")' in card.text
    cascade.push_to_hub("someone/new", revision="trial", license="cc-by-4.0")
    assert there.branches["someone/new"]["main"] == sha != there.branches["someone/new"]["trial"]
    back = Cascade.from_pretrained("someone/new", revision="trial")
    assert [s.digest for s in back.stages] == [s.digest for s in cascade.stages]
    asked = len(there.asked)
    with pytest.raises(InputError, match="new is no repository: name it owner/new"):
        cascade.push_to_hub("new")
    assert len(there.asked) == asked
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(InputError, match="does not let you write to someone/new: log in"):
        cascade.push_to_hub("someone/new")


def test_a_tool_reads_a_repository(there, tmp_path):
    program = [sys.executable, ROOT / "tools" / "sample.py"]
    environment = {"HF_ENDPOINT": there.address, "HF_HUB_CACHE": str(tmp_path / "other")}
    done = subprocess.run(
        [*program, DIGITS, "--num", "4", "--classes", "cat,dog", "--out", tmp_path / "grid.png"],
        env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 samples" in done.stdout and (tmp_path / "grid.png").is_file()
