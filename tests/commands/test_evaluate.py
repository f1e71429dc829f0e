"""tools/evaluate.py and tools/tables.py, run as a user runs them."""

import json
import shutil

import pytest
import torch
from conftest import ROOT, launch, run_tool
from PIL import Image
from torch import nn

from cascade import Cascade
from cascade.config import load_config
from cascade.data import open_images
from cascade.evaluation.enlargements.super_resolution import pair_scores
from cascade.evaluation.tables import Row, load_table, parts
from stages import InputError


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A feature net that `csrflow features` trained, on digits of another size."""
    file = tmp_path_factory.mktemp("net") / "digits.pt"
    words = ["--channels", 1, "--width", 8, "--batch", 64, "--epochs", 2, "--out", file]
    done = run_tool("features", "digits", *words)
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture(scope="module")
def scored(digits, few_digits, net, tmp_path_factory):
    """A sweep of two temperatures at two resolutions: the folder it wrote to and its words."""
    out = tmp_path_factory.mktemp("scores")
    words = [
        digits, "--data", few_digits, "--split", "all", "--num", 150, "--features", net, "--stages",
        "--stats-dir", out / "stats",
    ]  # fmt: skip
    done = run_tool(
        "evaluate", *words, "--temperature", "0.5:1.0:0.5", "--out", out / "sweep.png",
        "--json", out / "sweep.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, words, done.stdout


def test_a_sweep_by_resolution(scored):
    out, words, printed = scored
    found = json.loads((out / "sweep.json").read_text())
    assert [(s["temperature"], s["size"]) for s in found["scores"]] == [
        (0.5, 8), (0.5, 16), (1.0, 8), (1.0, 16),
    ]  # fmt: skip
    for half, score in zip(found["halves"], found["scores"][2:], strict=True):
        assert abs(half["frechet"]) < score["frechet"] / 3  # real split are near, samples are not
    assert (found["num"], found["split"], found["seed"], found["mode"]) == (150, "all", 0, None)
    assert found["names"]["frechet"] == "Fréchet distance, features digits.pt"
    assert "FID" not in printed and "Fréchet distance, features digits.pt" in printed
    assert Image.open(out / "sweep.png").width > 1000
    assert len(list((out / "stats").iterdir())) == 2
    again = run_tool("evaluate", *words, "--json", out / "sweep.json")
    assert again.returncode == 2 and "--force" in again.stderr


def test_two_processes_and_kept_features_give_the_same_scores(scored):
    out, words, _ = scored
    kept = {file: file.stat().st_mtime_ns for file in (out / "stats").iterdir()}
    more = ["--processes", 2, "--json", out / "two.json"]
    done = launch("python", "tools/evaluate.py", *words, *more)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((out / f"{name}.json").read_text()) for name in ("sweep", "two"))
    assert two["processes"] == 2 and len(two["scores"]) == 2
    for found, expected in zip(two["scores"], one["scores"][2:], strict=True):
        assert found == expected
    assert {file: file.stat().st_mtime_ns for file in (out / "stats").iterdir()} == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inception", "nowhere.pt"], "no file nowhere.pt; get them by 'curl -O https://nvlabs"),
        (["--features", "nowhere.pt"], "no file nowhere.pt; it must be a TorchScript net"),
        (["--temperature", "0.7:1.0"], "a sweep is first:last:step"),
        (["--super-resolution", "4"], "raises images by a power of two up to 2, not by 4"),
    ],
)
def test_errors_are_one_line(digits, few_digits, words, message):
    done = run_tool("evaluate", digits, "--data", few_digits, *words)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


class Absolute(nn.Module):
    def forward(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return (one - two).abs().mean((1, 2, 3), keepdim=True)


def test_super_resolution_of_real_pairs(digits, few_digits, tmp_path):
    torch.jit.script(Absolute()).save(tmp_path / "absolute.pt")
    done = run_tool(
        "evaluate", digits, "--data", few_digits, "--super-resolution", 2, "--samples", 3,
        "--temperature", 0.8, "--lpips", tmp_path / "absolute.pt", "--json", tmp_path / "sr.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "sr.json").read_text())
    ours, theirs = found["scores"]
    assert (ours["by"], theirs["by"]) == ("cascade", "bicubic")
    assert ours["diversity"] > 0 and "diversity" not in theirs and 0 < ours["lpips"] < 1
    assert 0 < ours["ssim"] < 1 and 5 < ours["psnr"] < 40 and ours["lr_psnr"] > ours["psnr"]
    cascade, source = Cascade.load(digits), open_images(str(few_digits), "test", 1)
    indices = torch.arange(len(source))
    still = pair_scores(cascade, source, indices, 2, samples=2, temperature=0.0)
    assert still["cascade"]["diversity"] == 0
    assert still["bicubic"]["psnr"] == pytest.approx(theirs["psnr"])


TABLE = """
title: Small
runs: {folder}
configs: configs/mnist5k
data: {data}
split: all
num: 60
likelihood: 20
failures: 20
classes: 10
train: [train.steps=3, train.batch_size=16, train.sample_every=3, model.steps=1, data.name={data}]
sizes: [8, 16]
rows:
  - name: GlowCC8-SRFCC16
    published: {{8: 1.5, 16: 2.5}}
  - name: GlowCC8-SRFCC16(0.5)
    replaced: 0.25
"""


def test_a_table_is_trained_scored_and_resumed(digits, few_digits, net, tmp_path):
    for name, folder in (("glow8", "glowcc8"), ("srf16", "srfcc16")):
        shutil.copytree(digits / name, tmp_path / "runs" / folder)
    file = tmp_path / "table.yaml"
    file.write_text(TABLE.format(folder=tmp_path / "runs", data=few_digits))
    known = tmp_path / "runs" / "table.json"
    partly = run_tool("tables", file, "--features", net)
    assert partly.returncode == 2
    assert "1 of 2 rows lack a trained stage" in partly.stderr
    assert "csrflow train configs/mnist5k/srf16.yaml" in partly.stderr
    assert "| GlowCC8-SRFCC16(0.5) | – (0.25) |" in partly.stdout
    entries = json.loads(known.read_text())
    entries[0]["frechet"] = 123.0  # a finished score is taken as it stands
    known.write_text(json.dumps(entries))
    for _ in range(2):  # the second time nothing is missing
        done = run_tool("tables", file, "--features", net, "--train")
        assert done.returncode == 0, done.stderr
    assert len(json.loads(known.read_text())) == 3 + 4  # both rows share the base
    lines = (tmp_path / "runs" / "table.md").read_text().splitlines()
    first, second = (line.split(" | ") for line in lines[4:6])
    assert first[2] == "123.00 (1.50)" and first[3].endswith("(2.50)")
    assert second[1].endswith("(0.25)") and second[2] == "123.00"
    assert 2 < float(first[4]) < 9 and 0 <= float(second[5].split()[0]) <= 1
    assert any("60 samples at temperature 1, seed 0" in line for line in lines)
    assert "Fréchet distance, features digits.pt" in (tmp_path / "runs" / "table.md").read_text()


@pytest.mark.parametrize("name", ["celeba", "cifar10", "cifar10-small", "mnist5k"])
def test_every_row_of_every_table_can_be_trained(name):
    table = load_table(ROOT / "configs" / "tables" / f"{name}.yaml")
    for row in table.rows:
        named = parts(row)
        assert [part.size for part in named] == [
            named[-1].size >> k for k in reversed(range(len(named)))
        ]
        assert set(row.published) <= set(table.sizes)
        for part in named:
            config = load_config(ROOT / part.config(table), part.settings(table))
            assert config.data.size == part.size and config.augment.sigma == part.sigma
            assert bool(config.model.classes) == part.conditional


def test_names_of_cascades():
    base, middle, last = parts(Row("Glow16-SRF32(0.02)-SRFCC64(0.50)"))
    assert (base.folder, middle.folder) == ("glow16", "srf32-0.02-after-glow16")
    assert last.folder == "srfcc64-0.5-after-srf32-0.02-after-glow16"
    for wrong in ("SRF16", "Glow8-Glow16", "Glow8(0.5)-SRF16", "Glow8-SRF", "Glow8_SRF16"):
        with pytest.raises(InputError, match="is not a cascade's name"):
            parts(Row(wrong))
    named = parts(Row("Glow8-SRF16(0.5)", "plain", ["model.squish=0"]), seed=3)
    assert [p.folder for p in named] == ["glow8-plain-seed3", "srf16-0.5-after-glow8-plain-seed3"]
