"""Scoring data sets: many processes, interrupted runs, precision, and what goes wrong."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from conftest import ROOT, launch, run_tool
from PIL import Image

from cascade import Cascade
from cascade.data import open_images
from cascade.evaluation.bits_by_position import spent
from cascade.evaluation.scoring import Journal, Row
from cascade.record import Record
from cascade.stage import DTYPES
from cascade.transforms.pyramid import halve_to
from cascade.utils.lock import Lock
from cascade.utils.non_finite import NotFinite
from cascade.utils.tensors import read_tensors, write_tensors
from stages import InputError

FEW = ["--data", "mnist5k", "--limit", 37]  # neither processes nor chunks divide it


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory) -> str:
    """The CSV that one process writes."""
    table = tmp_path_factory.mktemp("alone") / "t.csv"
    done = run_tool("likelihood", digits, *FEW, "--csv", table)
    assert done.returncode == 0, done.stderr
    return table.read_text()


TORCHRUN = ["torchrun", "--standalone", "--nproc_per_node", "2", "--"]


def test_two_processes_write_the_same_bytes(digits, tmp_path, alone):
    table = tmp_path / "t.csv"
    words = [*FEW, "--csv", table, "--json", tmp_path / "r.json"]
    done = launch(*TORCHRUN, "tools/likelihood.py", digits, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["processes"] == 2
    assert done.stdout.count("bits/dim over 37 images") == 1
    assert table.read_text() == alone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "t.csv"]


def test_a_killed_run_continues(digits, tmp_path):
    slow = ["--data", "mnist5k", "--limit", "64", "--samples", "20"]
    table, whole = tmp_path / "t.csv", tmp_path / "whole.csv"
    done = run_tool("likelihood", digits, *slow, "--csv", whole)
    assert done.returncode == 0, done.stderr
    command = ["tools/likelihood.py", str(digits), *slow, "--csv", str(table)]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    journal = tmp_path / "t.csv.partial"
    while (
        process.poll() is None and sum(f.read_text().count("nats") for f in journal.glob("*")) < 16
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.is_dir() and not table.exists()
    with open(next(journal.glob("*")), "a") as file:
        file.write('{"index": 3, "na')  # a line cut short
    done = run_tool("likelihood", digits, *slow, "--csv", table)
    assert done.returncode == 2 and "--resume continues it" in done.stderr
    for other in (["--seed", 1], ["--chunk", 8], ["--no-files"]):
        done = run_tool("likelihood", digits, *slow, "--csv", table, "--resume", *other)
        assert done.returncode == 2 and "other weights, data or settings" in done.stderr
    done = run_tool("likelihood", digits, *slow, "--csv", table, "--resume")
    assert done.returncode == 0, done.stderr
    assert table.read_text() == whole.read_text() and not journal.exists()


@pytest.fixture(scope="module")
def parts(digits, tmp_path_factory):
    """The .npz files that two shards write, and the words that they were scored by."""
    folder, words = tmp_path_factory.mktemp("parts"), [digits, *FEW]
    for number in (1, 2):
        more = ["--shard", f"{number}/2", "--npz", folder / f"{number}.npz"]
        done = run_tool("likelihood", *words, *more)
        assert done.returncode == 0, done.stderr
        assert f"shard {number} of 2: {17 + number} of 37 images" in done.stdout.replace("\n", " ")
        assert "bits/dim" not in done.stdout  # a part's mean is not the data set's
    assert len(list(folder.iterdir())) == 2
    return folder, words


def test_shards_put_together_are_one_run_to_the_bit(parts, tmp_path, alone):
    folder, words = parts
    results = {}
    for name, source in (("one", words), ("all", ["--merge", folder / "2.npz", folder / "1.npz"])):
        files = {kind: tmp_path / f"{name}.{kind}" for kind in ("csv", "npz", "json")}
        outputs = [word for kind, file in files.items() for word in (f"--{kind}", file)]
        done = run_tool("likelihood", *source, *outputs)
        assert done.returncode == 0, done.stderr
        table = done.stdout[done.stdout.index("mnist5k, test") :]
        result = json.loads(files["json"].read_text())
        assert bool(result.pop("images_per_s")) == bool(result.pop("processes")) == (name == "one")
        results[name] = [result, files["csv"].read_text(), files["npz"].read_bytes()]
        results[name] += [re.sub(r"\); .* images/s", ")", table)]
    assert results["all"] == results["one"] and results["all"][1] == alone
    assert run_tool("likelihood", "--merge", tmp_path / "all.npz").returncode == 0


def test_shards_that_do_not_belong_together_are_refused(parts, tmp_path):
    folder, words = parts
    one, two = folder / "1.npz", folder / "2.npz"
    for number, more in (("seed", ["--seed", 1]), ("chunk", ["--chunk", 8]), ("third", [])):
        shard = "2/3" if number == "third" else "2/2"
        other = ["--shard", shard, "--npz", tmp_path / f"{number}.npz", *more]
        assert run_tool("likelihood", *words, *other).returncode == 0
    (tmp_path / "cut.npz").write_bytes(two.read_bytes()[:-100])
    np.savez(tmp_path / "foreign.npz", images=np.zeros((2, 8, 8), np.uint8))
    for files, message in (
        ([one], "of 2 shards these are missing: 2; --shard 2/2 scores"),
        ([one, two, one], "are both shard 1 of 2"),
        ([one, tmp_path / "seed.npz"], "are of different seed"),
        ([one, tmp_path / "chunk.npz"], "are of different chunk"),
        ([one, tmp_path / "third.npz"], "are of different runs, of 3 and of 2 shards"),
        ([one, tmp_path / "cut.npz"], "cannot read"),
        ([one, tmp_path / "foreign.npz"], "holds no figures that likelihood.py --npz wrote"),
    ):
        done = run_tool("likelihood", "--merge", *files, "--json", tmp_path / "r.json")
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "r.json").exists()
    done = run_tool("likelihood", "--merge", one, two, "--seed", 1)
    assert done.returncode == 2 and "seed: shards hold their settings" in done.stderr


def test_files_may_be_left_out(digits, tmp_path):
    other = tmp_path / "blank.npz"
    np.savez(other, images=np.zeros((20, 16, 16), np.uint8))
    words = ["--compare", other, "--compare-split", "all", "--json", tmp_path / "r.json"]
    done = run_tool("likelihood", digits, *FEW, "--no-files", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["files"] == {} and found["file_settings"] is None
    assert list(found["auroc"]) == ["total", "glow8", "srf16"] and "WebP" not in done.stdout


def test_two_runs_do_not_share_a_journal(digits, tmp_path):
    table = tmp_path / "t.csv"
    held = Lock(tmp_path / "t.csv.partial", "written")
    for word in ("--resume", "--force"):
        done = run_tool("likelihood", digits, *FEW, "--csv", table, word)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"is being written by process {os.getpid()}" in done.stderr
    held.release()
    done = run_tool("likelihood", digits, *FEW, "--csv", table, "--resume")
    assert done.returncode == 0, done.stderr


def test_a_damaged_journal_is_not_believed(digits, tmp_path):
    header, rows = {"seed": 0}, [Row(i, [-1.5], None, {"PNG": 3.0}) for i in range(3)]
    journal = Journal(tmp_path / "t.partial", header)
    journal.open(False, False, PartialState(cpu=True))
    journal.add(rows)
    journal.lock.release()
    text = journal.file.read_text()
    journal.file.write_text(text.replace("-1.5", "-1.6", 1))
    with pytest.raises(InputError, match=r"is damaged; --force starts over"):
        Journal(tmp_path / "t.partial", header).open(True, False, PartialState(cpu=True))


def test_names_of_files_may_be_any_bytes(digits, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    source = open_images("mnist5k", "test", 1)
    for i, name in enumerate((b"caf\xe9.png", b"two\nlines.png", b"plain.png")):
        Image.fromarray(source.pixels[i, 0].numpy()).save(folder / os.fsdecode(name))
    words = ["--data", folder, "--split", "all", "--csv", tmp_path / "t.csv"]
    words += ["--json", tmp_path / "t.json", "--npz", tmp_path / "t.npz"]
    done = run_tool("likelihood", digits, *words)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        names = [Path(row["file"]).name for row in csv.DictReader(file)]
    assert names == ["caf\\udce9.png", "plain.png", "two\nlines.png"]


def test_counts_of_other_classes_are_no_prior(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "run")
    for stage in ("glow8", "srf16"):
        Record(counts=[1, 2, 3]).save(tmp_path / "run" / stage)
    done = run_tool("likelihood", tmp_path / "run", *FEW, "--prior", "empirical")
    assert done.returncode == 2 and "10 classes: 3 numbers, 6 images" in done.stderr


def test_report_carries_its_provenance(digits, tmp_path):
    report, arrays = tmp_path / "r.json", tmp_path / "a.npz"
    done = run_tool(
        "likelihood", digits, *FEW, "--samples", 2, "--seed", 3, "--prior", "empirical",
        "--json", report, "--npz", arrays,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert [found[key] for key in ("data", "split")] == ["mnist5k", "test"]
    assert [found[key] for key in ("images", "of")] == [37, 500]
    assert (found["samples"], found["seed"], found["dtype"]) == (2, 3, "float32")
    assert found["label_mode"] == "marginal" and found["prior"] == pytest.approx([0.1] * 10)
    assert all(len(digest) == 64 for digest in found["weights"].values())
    assert set(found["versions"]) == {"csrflow", "torch"}
    per_image = np.load(arrays)
    assert per_image["nats"].shape == (37, 2) and per_image["posterior"].shape == (37, 10)
    assert per_image["bpd"].mean() == pytest.approx(found["bpd"])


def test_precisions_agree(digits):
    source = open_images("mnist5k", "test", 1)
    x = halve_to(source.pixels[::25], 16)
    nats = {dtype: Cascade.load(digits, dtype=dtype).log_prob(x) for dtype in DTYPES}
    dims = 256 * math.log(2)
    assert (nats["float32"] - nats["float64"]).abs().max() / dims < 1e-4
    assert 0 < (nats["bfloat16"] - nats["float32"]).abs().max() / dims < 0.1


def test_what_is_not_finite_is_named(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "run")
    file = tmp_path / "run" / "srf16" / "model.safetensors"
    tensors = read_tensors(file)
    key = next(k for k in tensors if k.endswith("net.mix.conv.weight"))
    tensors[key][0, 0] = float("nan")
    write_tensors(tensors, file)
    x = halve_to(open_images("mnist5k", "test", 1).pixels[:3], 16)
    with pytest.raises(
        NotFinite, match="image 0 .* stage srf16, first in body.*net \\(AffineHead\\)"
    ):
        Cascade.load(tmp_path / "run").log_prob(x)
    done = run_tool("likelihood", tmp_path / "run", *FEW)
    assert done.returncode == 2 and "has no finite likelihood" in done.stderr
    assert done.stderr.count("\n") == 1


def test_compare_prints_and_saves(digits, tmp_path):
    source = open_images("mnist5k", "test", 1)
    inverted = 255 - halve_to(source.pixels[::20], 16)
    other = tmp_path / "inverted.npz"
    np.savez(other, images=inverted.permute(0, 2, 3, 1).numpy())
    report = tmp_path / "r.json"
    words = [*FEW, "--compare", other, "--compare-split", "all", "--json", report]
    done = run_tool("likelihood", digits, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["auroc"]
    assert list(found) == ["total", "glow8", "srf16", "total - WebP"]
    assert found["total"] > 0.9


def test_names_of_files_are_kept(digits, tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((16, 16), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    table = tmp_path / "t.csv"
    words = [digits, "--data", folder, "--split", "all", "--csv", table]
    done = run_tool("likelihood", *words)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(table.open()))
    assert [row["file"] for row in rows] == [str(folder / f"{i}.png") for i in range(3)]


def test_check_of_a_sound_and_of_a_damaged_cascade(digits, tmp_path):
    done = run_tool("likelihood", digits, "--check", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "glow8: sound" in done.stdout and "srf16: sound" in done.stdout
    shutil.copytree(digits, tmp_path / "run")
    file = tmp_path / "run" / "glow8" / "model.safetensors"
    tensors = read_tensors(file)
    key = next(k for k in tensors if tensors[k].dim() == 2 and "body" in k)
    tensors[key][0] = tensors[key][1]
    write_tensors(tensors, file)
    done = run_tool("likelihood", tmp_path / "run", "--check")
    assert done.returncode == 1 and "glow8: sound" not in done.stdout


def test_heatmap_and_variational(digits, tmp_path):
    from PIL import Image

    picture, report = tmp_path / "h.png", tmp_path / "r.json"
    words = [*FEW, "--heatmap", picture, "--variational", 0.5, "--json", report]
    done = run_tool("likelihood", digits, *words)
    assert done.returncode == 0, done.stderr
    assert Image.open(picture).width > 300
    found = json.loads(report.read_text())["variational"]
    assert found["sigma"] == 0.5 and found["srf16"]["kl"] > 0
    assert found["srf16"]["bound"] <= found["srf16"]["noisy"]
    assert "stands in place of" in done.stdout


def test_maps_add_up_to_the_bits_of_the_table(digits):
    cascade = Cascade.load(digits)
    source = open_images("mnist5k", "test", 1)
    x, labels = cascade.resize(source.pixels[:5]), source.labels[:5]
    nats = cascade.stage_log_probs(x, labels)[0]
    for i, bits in enumerate(spent(cascade, x, labels)):
        expected = -nats[:, i] / math.log(2)
        torch.testing.assert_close(bits.sum((1, 2)), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "imagenet"], "unknown data set 'imagenet'"),
        (["--heatmap", "where.xyz"], "is not a picture's file name"),
        (["--compare", "mnist5k", "--label-mode", "given"], "needs --label-mode marginal"),
        (["--shard", "1/2"], "--csv: of all images, not of a shard"),
    ],
)
def test_errors_come_before_scoring(digits, tmp_path, words, message):
    """What `cascade.commands.shared.likelihood_arguments` refuses, and what the data do."""
    table = tmp_path / "t.csv"
    done = run_tool("likelihood", digits, *FEW, "--csv", table, *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_single_stage_is_not_called_a_sum(digits):
    done = run_tool("likelihood", digits / "glow8", *FEW)
    assert done.returncode == 0, done.stderr
    assert "The figure is log P(image) itself, but for the dequantisation of glow8" in done.stdout
    assert "pyramid" not in done.stdout
